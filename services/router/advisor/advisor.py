"""The advisor: what is measured of a domain, and the advice for a profile."""

from services.router.advisor import comparing, deciding, evidence
from services.router.advisor.framework import Framework
from services.router.advisor.reading import read
from services.router.advisor.window import AnswerWindow
from services.router.domain.advice import Advice, Approach, CollectionEvidence, Evidence, Profile
from services.router.domain.ports import Documents
from tandem.errors import TandemError

WINDOW_DAYS = 7
_SHARE = 0.8


class Advisor:
    """Advises on profiles by one framework; the same profile and evidence give the same advice."""

    def __init__(self, framework: Framework | None = None) -> None:
        self.framework = framework or read()

    def advise(self, profile: Profile, measured: Evidence | None = None) -> Advice:
        """Returns the advice for a profile; what was measured stands beside it and does not decide."""
        framework = self.framework
        found = deciding.decide(framework, profile, measured)
        leaf = found.leaf
        hybrid = leaf.pattern if leaf.approach is Approach.HYBRID else "cascade"
        return Advice(
            approach=leaf.approach,
            pattern=leaf.pattern,
            leaf=leaf.id,
            reason=leaf.reason,
            votes=found.votes,
            tally=found.tally,
            open_weight=sum(vote.weight for vote in found.votes if vote.approach is None),
            lean=deciding.lean(found.tally),
            path=found.path,
            flips=deciding.flips(framework, profile, measured),
            conditions=tuple(self._conditions(profile, found)),
            money=found.money,
            evidence=measured,
            contradictions=evidence.contradictions(framework, profile, measured, pattern=leaf.pattern),
            comparison=comparing.compare(framework, money=found.money, evidence=measured, hybrid=hybrid),
        )

    def _conditions(self, profile: Profile, found: deciding.Decision) -> list[str]:
        return [
            duty.text
            for duty in self.framework.duties
            if duty.rule.holds(deciding.value_of(duty.factor, profile, found.money))
            and (not duty.approaches or found.leaf.approach in duty.approaches)
            and (not duty.patterns or found.leaf.pattern in duty.patterns)
        ]


class LiveEvidence:
    """Implements services.router.domain.EvidenceSource by the newest answers and the collection's documents."""

    def __init__(self, window: AnswerWindow, documents: Documents) -> None:
        self._window = window
        self._documents = documents

    async def gather(self, *, tenant: str, domain: str, timeout_s: float) -> Evidence:
        """Returns what could be measured, and says what could not."""
        collection: CollectionEvidence | None = None
        missing = []
        try:
            collection = await self._documents.changes(window_days=WINDOW_DAYS, timeout_s=timeout_s * _SHARE)
        except TandemError as error:
            missing.append(f"how the documents change: {error.message}")
        seen = self._window.evidence(tenant=tenant, domain=domain)
        missing += [
            f"{arm.arm}: {arm.num_answers} of {self._window.min_answers} answers that it takes"
            for arm in seen.arms
            if arm.num_answers < self._window.min_answers
        ]
        if not seen.arms:
            missing.append("answers: none were given in this domain since the router started")
        if all(arm.accuracy is None for arm in seen.arms):
            missing.append("accuracy: nothing tells which answers were right")
        return Evidence(
            arms=seen.arms,
            collection=collection,
            escalated_share=seen.escalated_share,
            unencrypted_adapters=seen.unencrypted_adapters,
            missing=tuple(missing),
        )
