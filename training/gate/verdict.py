"""Decides whether a candidate is registered or kept as rejected, and says why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.errors import ConfigError
from tandem.scoring import Interval

MAX_FORGETTING = {"full": 1.25, "prefix": 4.0, "lora": 4.0}
"""By method: a full fine-tune takes the base model's place, an adapter answers only those who ask for it."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Says how a candidate is measured and what it must reach; goes into the evaluation as it is."""

    margin: float = 0.0
    """The interval of the gain over what is in use must lie above this; in the metric's unit, 0 to 1."""
    max_forgetting: float = 1.25
    """Most that the perplexity on general text may grow, as a ratio to the base model's; see MAX_FORGETTING."""
    min_questions: int = 20
    """Fewest test questions that a verdict may rest on: of a handful no interval says much."""
    min_groups: int = 6
    """Fewest groups among them: that all of five groups happen to gain is no rarity."""
    max_questions: int = 300
    """Most questions of the test split, drawn evenly by the seed; 0 for all."""
    max_prompt_trials: int = 40
    """Validation questions on which each way of asking the base model is tried."""
    seed: int = 17
    threads: bool = False
    """Score closed-book answers by whether the nearest known answer is of the question's own group."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ConfigError(f"the margin is {self.margin:g}; it is from 0 to below 1 (0.05 is five points)")
        if not 1 <= self.max_forgetting <= 100:
            raise ConfigError(f"max_forgetting is {self.max_forgetting:g}; it is a ratio from 1 to 100")
        if min(self.max_questions, self.min_questions, self.min_groups) < 0 or self.max_prompt_trials < 1:
            raise ConfigError("max_questions and min_questions are 0 or more, max_prompt_trials 1 or more")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Is the gate's decision with its reasons, which are there for an accepted candidate too."""

    accepted: bool
    reasons: tuple[str, ...]


def decide(
    *,
    metric: str,
    num_questions: int,
    num_groups: int,
    gains: Mapping[str, Interval],
    required: Sequence[str],
    forgetting: float,
    settings: GateSettings,
) -> Verdict:
    """Accepts a candidate whose gain is above the margin over each required arm, and that forgot no more than allowed.

    `gains` are intervals of paired differences by the name of the other arm; over the first required arm, the one in
    use, the margin counts, over the others zero.
    """
    faults: list[str] = []
    merits: list[str] = []
    if num_questions < settings.min_questions:
        faults.append(
            f"{num_questions} test questions are too few to tell; at least {settings.min_questions} are asked"
        )
    if num_groups < settings.min_groups:
        faults.append(
            f"the test questions are about {num_groups} groups (facts, documents), too few to tell; at least "
            f"{settings.min_groups} are asked"
        )
    for place, name in enumerate(required):
        gain, needed = gains[name], settings.margin if place == 0 else 0.0
        told = f"{metric} {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {name}"
        if gain.low > needed:
            merits.append(f"{told}, above the margin {needed:g}" if needed else f"{told}, above zero")
        else:
            faults.append(f"{told}: the interval does not lie above {f'the margin {needed:g}' if needed else 'zero'}")
    told = f"perplexity on general text is {forgetting:.3f} times the base model's"
    if forgetting <= settings.max_forgetting:
        merits.append(f"{told}, at most {settings.max_forgetting:g}")
    else:  # a perplexity that is no number ends here too
        faults.append(f"{told}; at most {settings.max_forgetting:g} is allowed")
    return Verdict(accepted=not faults, reasons=tuple(faults or merits))
