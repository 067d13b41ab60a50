"""Where the time of the router's answers goes; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.stats import percentile

PEERS = ("embed", "search", "generate")
"""Stages that wait for a peer, by the first part of their names; the router's side of those calls is within them."""
GROUND, TOTAL = "ground", "total"
_SLACK_S = 1e-5  # each time is told in whole microseconds


class Overlapping(ValueError):
    """Says that stages of an answer ran at the same time, so that their sum is not the time they took."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Is one question as its caller saw it; times in seconds."""

    seconds: float
    """From the call to the finished answer."""
    first_s: float | None
    """To the first piece of text; None where no text came but that of the finished answer."""
    timings: Mapping[str, float]
    """The answer's own stages by name, "total" among them."""
    input_tokens: int = 0
    output_tokens: int = 0
    abstained: bool = False
    degraded: bool = False

    @property
    def stages(self) -> dict[str, float]:
        """The stages without the total."""
        return {name: seconds for name, seconds in self.timings.items() if name != TOTAL}

    @property
    def ungrounded_s(self) -> float:
        """Is what the caller would have waited without grounding, which comes after the text and beside nothing."""
        return self.seconds - self.timings.get(GROUND, 0.0)


@dataclass(frozen=True)
class Own:
    """Is the router's own part of one answer, in seconds."""

    between: float
    """The answer's total without its stages: deciding, converting, telling the caller."""
    around: float
    """What the caller waited beyond that total: the call's way, authentication, admission, the answer's conversion."""
    stages: float
    """Stages that ask no peer: the rewriting, both audit records, the grounding by words."""

    @property
    def outside(self) -> float:
        """What the caller waited outside all stages: the figure that the goal is about."""
        return self.between + self.around

    @property
    def added(self) -> float:
        """What the caller waited outside the stages of peers."""
        return self.outside + self.stages


def own(asked: Asked) -> Own:
    """Splits one answer; raises Overlapping where stages add up to more than the total."""
    total, stages = asked.timings[TOTAL], asked.stages
    between = total - sum(stages.values())
    if between < -_SLACK_S:
        raise Overlapping(f"the stages {', '.join(stages)} add up to {-1000 * between:.2f} ms more than the total")
    ours = sum(seconds for name, seconds in stages.items() if not of_peer(name))
    return Own(between=max(between, 0.0), around=asked.seconds - total, stages=ours)


def of_peer(stage: str) -> bool:
    """Tells whether a stage waits for a peer."""
    return stage.partition(".")[0] in PEERS


@dataclass(frozen=True)
class Spread:
    """Is a figure's distribution, in milliseconds."""

    p50: float
    p95: float
    p99: float
    num: int

    def __str__(self) -> str:
        """Returns the three percentiles as a cell of a table."""
        return " / ".join(told(value) for value in (self.p50, self.p95, self.p99)) if self.num else "-"


def spread(seconds: Sequence[float]) -> Spread:
    """Returns the distribution of times in seconds; NaN where there are none."""
    p50, p95, p99 = (1000 * percentile(seconds, share) for share in (0.5, 0.95, 0.99))
    return Spread(p50, p95, p99, num=len(seconds))


def told(milliseconds: float) -> str:
    """Returns milliseconds with as many decimals as say something."""
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}" if milliseconds >= 10 else (
        f"{milliseconds:.2f}"
    )  # fmt: skip


def by_stage(answers: Sequence[Asked]) -> dict[str, Spread]:
    """Returns the time of each stage over the answers that had it, in the order in which stages first came."""
    names = dict.fromkeys(name for asked in answers for name in asked.stages)
    return {name: spread([asked.timings[name] for asked in answers if name in asked.timings]) for name in names}
