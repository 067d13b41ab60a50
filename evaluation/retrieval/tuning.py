"""Looks for the fusion that ranks a corpus best, on half of the queries, and measures it on the other half."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.retrieval.asking import MODES, Answers, Asking
from evaluation.retrieval.metrics import METRICS
from tandem.scoring import Interval, mean, paired_interval
from tandem.v1 import retriever_service_pb2 as retriever

_METRIC = "ndcg@10"
_SHARES = (0.5, 0.0, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)  # the default first: of equals the first is taken
_PLACES_SHARES, _KS = (0.5, 0.3, 0.7), (60, 10)

Judgements = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Tuning:
    """Is what was found: the best fusion of half of the queries, and by how much it is above the retriever's own on the
    others."""

    best: str
    settings: dict[str, str]
    """What makes it the retriever's own."""
    tried: dict[str, float]
    """nDCG@10 by fusion, on the queries that chose."""
    gain: Interval
    num_chosen_on: int
    num_measured_on: int

    def note(self) -> str:
        """Returns it as a sentence that says what to do."""
        gain = self.gain
        told = (
            f"Of {len(self.tried)} ways to fuse, {self.best} ranked best on {self.num_chosen_on} queries; on the "
            f"{self.num_measured_on} others its nDCG@10 is {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] "
            "against the retriever's own"
        )
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        advice = f"worth setting: {settings}" if gain.low > 0 else "which gives no reason to change it"
        return f"{told}, {advice}"


def fusions() -> dict[str, retriever.Fusion]:
    """Returns the ways to fuse that are tried."""
    found = {}
    for share in _SHARES:
        by_score = retriever.Fusion.Weighted(dense_weight=share)
        found[f"weighted, dense {share}"] = retriever.Fusion(weighted=by_score)
    for k in _KS:
        for share in _PLACES_SHARES:
            by_place = retriever.Fusion.ReciprocalRank(k=k, dense_weight=share)
            found[f"reciprocal rank, k {k}, dense {share}"] = retriever.Fusion(reciprocal_rank=by_place)
    return found


async def tried(
    asking: Asking, queries: Mapping[str, str], judgements: Judgements, on_done: Callable[[], None]
) -> dict[str, float]:
    """Returns nDCG@10 of each fusion on the queries."""
    found = {}
    for label, fusion in fusions().items():
        answers = await asking.ask(replace(MODES["hybrid"], name=label, fusion=fusion), queries, on_done)
        found[label] = mean(_values(answers, judgements, list(queries)))
    return found


async def tune(
    asking: Asking, queries: Mapping[str, str], judgements: Judgements, on_done: Callable[[], None], *, seed: int
) -> Tuning | None:
    """Chooses on half of the queries, drawn by the seed, and measures on the other half; None for fewer than four."""
    if len(queries) < 4:
        return None
    chosen = set(random.Random(seed).sample(sorted(queries), len(queries) // 2))  # noqa: S311
    some = {name: text for name, text in queries.items() if name in chosen}
    others = {name: text for name, text in queries.items() if name not in chosen}
    values = await tried(asking, some, judgements, on_done)
    best = max(values, key=lambda label: values[label])
    both = [
        _values(await asking.ask(mode, others, on_done), judgements, list(others))
        for mode in (replace(MODES["hybrid"], name=best, fusion=fusions()[best]), MODES["hybrid"])
    ]
    return Tuning(
        best=best,
        settings=settings(fusions()[best]),
        tried=values,
        gain=paired_interval(both[0], both[1], seed=seed),
        num_chosen_on=len(some),
        num_measured_on=len(others),
    )


def num_searches(num_queries: int) -> int:
    """Returns how many searches it takes."""
    return num_queries // 2 * len(fusions()) + 2 * (num_queries - num_queries // 2)


def settings(fusion: retriever.Fusion) -> dict[str, str]:
    """Returns the retriever's variables that make a fusion its own."""
    if fusion.HasField("weighted"):
        return {
            "RETRIEVER_FUSION": "weighted",
            "RETRIEVER_FUSION_DENSE_WEIGHT": f"{fusion.weighted.dense_weight:g}",
        }
    by_place = fusion.reciprocal_rank
    return {
        "RETRIEVER_FUSION": "rrf",
        "RETRIEVER_FUSION_DENSE_WEIGHT": f"{by_place.dense_weight:g}",
        "RETRIEVER_FUSION_K": str(by_place.k),
    }


def _values(answers: Answers, judgements: Judgements, queries: Sequence[str]) -> list[float]:
    return [METRICS[_METRIC](answers.rankings[query], judgements[query]) for query in queries]
