"""The newest answers of each domain, and what they tell of the paths."""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from services.router.domain.advice import ArmEvidence, Evidence
from services.router.domain.values import Answer, Route

_FINETUNED_STAGE = "generate.finetuned"


@dataclass(frozen=True)
class _Seen:
    """Is what is kept of an answer: figures only."""

    policy: str
    route: Route
    seconds: float
    draft_seconds: float
    input_tokens: int
    output_tokens: int
    cited: bool
    abstained: bool


class AnswerWindow:
    """Keeps figures of the newest answers by tenant and domain, the least recently asked domain going first.

    It belongs to one process and begins empty: what it tells is recent, not complete.
    """

    def __init__(self, *, max_answers: int = 512, max_domains: int = 256, min_answers: int = 20) -> None:
        self._max_answers = max_answers
        self._max_domains = max_domains
        self.min_answers = min_answers
        self._kept: OrderedDict[tuple[str, str], deque[_Seen]] = OrderedDict()
        self._open: dict[tuple[str, str], dict[str, bool]] = {}

    def note(self, answer: Answer, *, tenant: str, domain: str = "default") -> None:
        """Keeps the figures of an answer that was given; what was degraded tells of a failure, not of its path."""
        if answer.degraded:
            return
        key = (tenant, domain)
        if key not in self._kept and len(self._kept) >= self._max_domains:
            oldest, _ = self._kept.popitem(last=False)
            self._open.pop(oldest, None)
        self._kept.setdefault(key, deque(maxlen=self._max_answers)).append(_seen(answer))
        self._kept.move_to_end(key)
        lineage = answer.draft.lineage
        if lineage is not None and lineage.adapter:
            self._open.setdefault(key, {})[lineage.adapter] = not lineage.cipher

    def evidence(self, *, tenant: str, domain: str = "default") -> Evidence:
        """Returns what a tenant's newest answers in a domain tell; of policies that were never asked, nothing.

        What a cascade accepts is an answer of the fine-tuned path as well. What it escalates is one of the evidence
        path without the time of the draft that was given up.
        """
        kept = self._kept.get((tenant, domain), ())
        policies = sorted({seen.policy for seen in kept} - {"finetuned", "rag"})
        found = [self._pure("finetuned", kept), self._pure("rag", kept)]
        found += [self._arm(name, [seen for seen in kept if seen.policy == name]) for name in policies]
        cascades = [seen for seen in kept if seen.policy == "cascade"]
        enough = len(cascades) >= self.min_answers
        escalated = sum(seen.route is Route.RAG for seen in cascades) / len(cascades) if enough else None
        adapters = self._open.get((tenant, domain), {})
        return Evidence(
            arms=tuple(arm for arm in found if arm.num_answers),
            escalated_share=escalated,
            unencrypted_adapters=tuple(sorted(name for name, unencrypted in adapters.items() if unencrypted)),
        )

    def _pure(self, path: str, kept: Iterable[_Seen]) -> ArmEvidence:
        """Returns what is known of a path from the answers that it gave alone, or after a draft was given up."""
        route = Route(path)
        alone = [seen for seen in kept if seen.route is route and seen.policy in (path, "cascade")]
        whole = [seen for seen in alone if seen.policy == path or route is Route.FINETUNED]
        seconds = [seen.seconds - (seen.draft_seconds if route is Route.RAG else 0.0) for seen in alone]
        return self._told(path, seconds=seconds, counted=whole, answers=alone)

    def _arm(self, name: str, kept: list[_Seen]) -> ArmEvidence:
        return self._told(name, seconds=[seen.seconds for seen in kept], counted=kept, answers=kept)

    def _told(self, name: str, *, seconds: list[float], counted: list[_Seen], answers: list[_Seen]) -> ArmEvidence:
        given = [seen for seen in answers if not seen.abstained]
        few, few_counted = len(answers) < self.min_answers, len(counted) < self.min_answers
        return ArmEvidence(
            arm=name,
            num_answers=len(answers),
            p95_ms=None if few else 1000 * _percentile(seconds, 0.95),
            mean_input_tokens=None if few_counted else _mean(seen.input_tokens for seen in counted),
            mean_output_tokens=None if few_counted else _mean(seen.output_tokens for seen in counted),
            cited_share=None if few or not given else _mean(seen.cited for seen in given),
            abstained_share=None if few else _mean(seen.abstained for seen in answers),
        )


def _seen(answer: Answer) -> _Seen:
    seconds = {timing.stage: timing.seconds for timing in answer.timings}
    return _Seen(
        policy=answer.policy,
        route=answer.draft.route,
        seconds=seconds.get("total", 0.0),
        draft_seconds=seconds.get(_FINETUNED_STAGE, 0.0),
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        cited=bool(answer.draft.citations),
        abstained=answer.draft.abstained,
    )


def _percentile(values: list[float], share: float) -> float:
    """Returns the nearest-rank percentile: the least value that so large a share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
