"""What was measured of a domain that is live: its newest answers, verdicts on them, evaluations, its documents."""

from collections.abc import Sequence
from dataclasses import replace

from services.router.advisor.verdicts import VerdictWindow
from services.router.advisor.window import AnswerWindow
from services.router.domain.advice import Accuracy, ArmEvidence, CollectionEvidence, Evidence
from services.router.domain.domains import ArmResult
from services.router.domain.ports import Documents, Domains
from tandem.errors import TandemError
from tandem.security import Principal

WINDOW_DAYS = 7
_SHARE = 0.8


class LiveEvidence:
    """Implements services.router.domain.EvidenceSource."""

    def __init__(
        self, window: AnswerWindow, documents: Documents, *, domains: Domains, verdicts: VerdictWindow
    ) -> None:
        self._window = window
        self._documents = documents
        self._domains = domains
        self._verdicts = verdicts

    async def gather(self, *, principal: Principal, domain: str, timeout_s: float) -> Evidence:
        """Returns what could be measured, and says what could not; raises as Domains.find does."""
        asked = self._domains.find(domain, principal)
        tenant, name = principal.tenant, asked.name
        collection: CollectionEvidence | None = None
        missing = []
        try:
            collection = await self._documents.changes(
                window_days=WINDOW_DAYS, documents=asked.documents, timeout_s=timeout_s * _SHARE
            )
        except TandemError as error:
            missing.append(f"how the documents change: {error.message}")
        seen = self._window.evidence(tenant=tenant, domain=name)
        missing += [
            f"{arm.arm}: {arm.num_answers} of {self._window.min_answers} answers that it takes"
            for arm in seen.arms
            if arm.num_answers < self._window.min_answers
        ]
        if not seen.arms:
            missing.append("answers: none were given in this domain since the router started")
        judged = self._verdicts.accuracy(tenant=tenant, domain=name)
        arms = _joined(seen.arms, asked.results, judged)
        if all(arm.accuracy is None and arm.feedback is None for arm in arms):
            missing.append(self._no_accuracy(tenant, name))
        return Evidence(
            arms=arms,
            collection=collection,
            escalated_share=seen.escalated_share,
            unencrypted_adapters=seen.unencrypted_adapters,
            missing=tuple(missing),
        )

    def _no_accuracy(self, tenant: str, domain: str) -> str:
        most = max(self._verdicts.counts(tenant=tenant, domain=domain).values(), default=0)
        return (
            f"accuracy: the domain has no results of `tandem evaluate arms`, and of no policy were "
            f"{self._verdicts.min_answers} answers judged (at most {most})"
        )


def _joined(
    seen: Sequence[ArmEvidence], results: Sequence[ArmResult], judged: dict[str, Accuracy]
) -> tuple[ArmEvidence, ...]:
    """Returns what is known of each policy: what was seen first, then what only an evaluation or people know."""
    arms = {arm.arm: arm for arm in seen}
    for result in results:
        arms[result.policy] = _with(arms.get(result.policy, ArmEvidence(arm=result.policy)), result)
    for policy, accuracy in judged.items():
        arms[policy] = replace(arms.get(policy, ArmEvidence(arm=policy)), feedback=accuracy)
    return tuple(arms.values())


def _with(arm: ArmEvidence, result: ArmResult) -> ArmEvidence:
    """Adds an evaluation; its waiting times, of answers made one at a time, only where too few were seen in use."""
    found = Accuracy(result.accuracy, result.low, result.high, result.num_questions, result.metric)
    arm = replace(arm, accuracy=found, mean_cost=result.cost)
    if arm.p95_ms is None and result.p95_ms is not None:
        arm = replace(arm, p95_ms=result.p95_ms, num_answers=result.num_questions)
    return arm
