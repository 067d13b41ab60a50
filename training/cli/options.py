"""The options that several steps share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.config import cache_home
from tandem.errors import ConfigError

BASE = cache_home() / "models" / "smollm2-135m-instruct"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs on standard output.")]
Base = Annotated[Path, typer.Option(help="Base model: a folder in Hugging Face layout.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the processor; all of them by default.", min=1)]
Registry = Annotated[
    Path | None,
    typer.Option(help="Registry folder of adapters; by default that of the local stack.", show_default=False),
]
Tenant = Annotated[str, typer.Option(help="Tenant whose adapter this is, and whose share of a company folder counts.")]
Name = Annotated[str, typer.Option(help="Name of the adapter.")]
Trust = Annotated[
    list[Path] | None,
    typer.Option(help="Trust file with keys whose signatures count, beside your own. May be given again."),
]
Keys = Annotated[
    Path | None,
    typer.Option(help="Keyring with the keys of encrypted adapters; else the variable TRAINING_ADAPTER_KEYS."),
]
Margin = Annotated[
    float,
    typer.Option(help="The interval of the gain over the adapter in use must lie above this: 0.05 is five points."),
]
MaxForgetting = Annotated[
    float | None,
    typer.Option(
        help="Most that the perplexity on general text may grow, as a ratio to the base model's; by default 1.25 for a "
        "full fine-tune, which takes its place, and 4 for an adapter, which answers only those who ask for it."
    ),
]
MaxQuestions = Annotated[int, typer.Option(help="Most test questions, drawn by the seed; 0 for all.", min=0)]
MinQuestions = Annotated[int, typer.Option(help="Fewest test questions that a verdict may rest on.", min=0)]
ByThread = Annotated[
    bool,
    typer.Option(
        "--by-thread", help="Count an answer as right if the nearest known answer is of the question's own group."
    ),
]
NoIncumbent = Annotated[
    bool, typer.Option("--no-incumbent", help="Compare with the base model alone, though an adapter is in use.")
]
Recipe = Annotated[str, typer.Option(help="closed-book, raft, style or classification.")]
Documents = Annotated[
    list[Path] | None,
    typer.Option(help="Files or folders that passages are cut from (.txt, .md, .jsonl). May be given again."),
]
Seed = Annotated[int, typer.Option(help="Seed of splits, passages, order and first weights.")]
Method = Annotated[str, typer.Option(help="lora, prefix or full.")]
Minutes = Annotated[float | None, typer.Option(help="Longest time to train; the learning rate winds down in time.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the examples, 3 by default; fractions allowed.")]
Rank = Annotated[int | None, typer.Option(help="Rank of LoRA's matrices, 16 by default.")]
Rate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="Highest learning rate; by default 0.002, 0.03 or 5e-05, by method."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting as NAME=VALUE; `tandem train methods` lists them. May be given again."),
]
Tracking = Annotated[
    str | None,
    typer.Option(help='URI of an MLflow store, "off" for none; else MLFLOW_TRACKING_URI, else one in the run folder.'),
]
SigningKey = Annotated[
    Path | None, typer.Option(help="Ed25519 key in PEM that signs; by default your own, made on first use.")
]
Encrypt = Annotated[bool, typer.Option("--encrypt", help="Encrypt the weights with the keyring's current key.")]


def pairs(given: Sequence[str] | None, *, option: str) -> dict[str, str]:
    """Returns NAME=VALUE options by name; raises ConfigError for one of another form."""
    found = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"{option} takes NAME=VALUE, not {text}")
        found[name.strip()] = value.strip()
    return found


def method_settings(given: Sequence[str] | None) -> dict[str, Any]:
    """Returns --set options as the values that a Method takes; raises MethodError for an unknown name."""
    import dataclasses
    import typing

    from training.methods import Method as Chosen
    from training.methods import MethodError

    kinds = typing.get_type_hints(Chosen)
    known = {field.name for field in dataclasses.fields(Chosen)} - {"name"}
    found: dict[str, Any] = {}
    for name, value in pairs(given, option="--set").items():
        if name not in known:
            raise MethodError(f"there is no setting {name}; `tandem train methods` lists them")
        try:
            found[name] = kinds[name](value)
        except ValueError:
            raise MethodError(f"--set {name}={value}: it is not of type {kinds[name].__name__}") from None
    return found


@dataclass(frozen=True, kw_only=True)
class Where:
    """Is which adapter of which registry, and which keys open it."""

    registry: Path | None = None
    tenant: str = ""
    name: str = ""
    trust: tuple[Path, ...] = ()
    keys: Path | None = None
    no_incumbent: bool = False
