"""Says how to train: every knob with its meaning, unit, range and default, in one frozen dataclass."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.config import setting

METHODS = ("lora", "prefix", "full")
_LEARNING_RATES = {"lora": 2e-3, "prefix": 3e-2, "full": 5e-5}


class MethodError(ValueError):
    """Says why a run cannot be started or resumed, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Is everything that decides how a base model learns from a dataset; goes into run.json as it is.

    `describe()` returns the meaning of each field for --help. Raises MethodError for a value out of its range.
    """

    name: str = setting(
        "lora",
        help="lora trains low-rank matrices beside the linear layers, prefix trains keys and values that stand before "
        "every prompt, full trains all weights and gives a model of its own",
        choices=METHODS,
    )
    epochs: float = setting(3.0, help="passes over the examples, fractions allowed", minimum=0.01, maximum=1000)
    minutes: float = setting(
        0.0,
        help="longest time to train, 0 for no limit; the learning rate winds down in time, so what a limited run "
        "learns depends on the machine's speed",
        unit="min",
        minimum=0,
        maximum=10_080,
    )
    learning_rate: float = setting(
        0.0, help="highest learning rate; 0 takes the method's own: 2e-3, 3e-2, 5e-5", minimum=0, maximum=1
    )
    final_learning_rate_share: float = setting(
        0.05, help="share of the learning rate that is left at the end of its cosine", minimum=0, maximum=1
    )
    warmup_steps: int = setting(20, help="steps over which the learning rate rises", minimum=0, maximum=100_000)
    weight_decay: float = setting(0.0, help="AdamW's weight decay", minimum=0, maximum=1)
    clip_norm: float = setting(1.0, help="longest gradient; a longer one is scaled down", minimum=1e-6, maximum=1e6)
    rank: int = setting(16, help="rank of LoRA's matrices", minimum=1, maximum=256)
    alpha: float = setting(32.0, help="LoRA's scale is alpha / rank", minimum=0.01, maximum=10_000)
    dropout: float = setting(0.0, help="share of a LoRA layer's input that is dropped", minimum=0, maximum=0.9)
    virtual_tokens: int = setting(
        16, help="length of the trained prefix; it takes that much of the base model's context", minimum=1, maximum=512
    )
    max_batch_tokens: int = setting(
        2048, help="most tokens of a batch, padding included; bounds memory", unit="tokens", minimum=8, maximum=1 << 20
    )
    max_batch_rows: int = setting(16, help="most examples of a batch", minimum=1, maximum=4096)
    max_tokens: int = setting(
        0, help="longest example, prompt and answer; 0 for the base model's context", minimum=0, maximum=1 << 20
    )
    precision: str = setting(
        "bf16",
        help="what the base model computes in; trained weights are float32 in any case",
        choices=("bf16", "fp32"),
    )
    evaluate_steps: int = setting(
        0,
        help="steps between measurements of the validation split; 0 for ten in a run, or fewer where they would take "
        "more than a fifth of it",
        minimum=0,
        maximum=1_000_000,
    )
    max_validation: int = setting(
        120, help="most validation examples to measure, evenly drawn", minimum=1, maximum=1_000_000
    )
    patience: int = setting(
        3,
        help="stop after so many measurements in a row that better neither the answers nor the loss; 0 never does",
        minimum=0,
        maximum=1000,
    )
    keep: str = setting(
        "best",
        help="which weights a run ends with: those that say most validation answers word for word, equal answers "
        "counted once (the lowest loss decides between equals), or the last",
        choices=("best", "last"),
    )
    checkpoint_steps: int = setting(
        0, help="steps between checkpoints; 0 leaves it to the minutes", minimum=0, maximum=1_000_000
    )
    checkpoint_minutes: float = setting(
        3.0, help="longest time between checkpoints; 0 leaves it to the steps", unit="min", minimum=0, maximum=1440
    )
    seed: int = setting(17, help="seed of the order and of the first weights", minimum=0, maximum=(1 << 31) - 1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    @property
    def rate(self) -> float:
        """Returns the learning rate in force."""
        return self.learning_rate or _LEARNING_RATES[self.name]

    @classmethod
    def of(cls, name: str, **changes: Any) -> "Method":
        """Returns a method with every change that is not None."""
        unknown = set(changes) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise MethodError(f"there is no setting {', '.join(sorted(unknown))}")
        return cls(name=name, **{key: value for key, value in changes.items() if value is not None})

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Method":
        """Returns the method of a run.json; raises MethodError where a field is unknown or out of range."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(row) - known:
            raise MethodError(f"the run was made by another version: it has the setting {', '.join(sorted(unknown))}")
        return cls(**row)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return dataclasses.asdict(self)

    @classmethod
    def describe(cls) -> dict[str, str]:
        """Returns what each field means, with its unit."""
        rows = {}
        for field in dataclasses.fields(cls):
            unit = f" ({field.metadata['unit']})" if field.metadata["unit"] else ""
            rows[field.name] = f"{field.metadata['help']}{unit}"
        return rows


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    meta, kind = field.metadata, field.type
    if kind in (int, "int") and (not isinstance(value, int) or isinstance(value, bool)):
        raise MethodError(f"{field.name}={value!r} is not a whole number")
    if kind in (float, "float") and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise MethodError(f"{field.name}={value!r} is not a number")
    if meta["choices"]:
        if value not in meta["choices"]:
            raise MethodError(f"{field.name}={value!r} is not one of: {', '.join(meta['choices'])}")
        return
    low, high = meta["minimum"], meta["maximum"]
    if not math.isfinite(value) or not low <= value <= high:
        raise MethodError(f"{field.name}={value} is out of range: from {low:g} to {high:g}")
