"""Profiles of domains as people write them: questions answered, options, a TOML file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from tandem.errors import FieldViolation, InvalidInput
from tandem.v1 import advice_pb2


@dataclass(frozen=True)
class Question:
    """Is a factor whose answer is a word: what to ask, and each word with its meaning."""

    ask: str
    levels: Mapping[str, str]


QUESTIONS: dict[str, Question] = {
    "data_volatility": Question(
        "How often does the content change?",
        {
            "realtime": "by the minute",
            "daily": "every day",
            "weekly": "every week",
            "monthly": "every month",
            "quarterly": "every quarter",
            "yearly": "every year",
            "static": "hardly ever",
        },
    ),
    "domain_specificity": Question(
        "How far is the language from what a base model knows?",
        {
            "general": "everyday language",
            "specialised": "terms of a profession",
            "proprietary-language": "words that only this house uses",
        },
    ),
    "compliance": Question(
        "What do rules ask for?",
        {
            "none": "nothing",
            "audit": "training and answers must be accounted for",
            "records-stay-external": "records must never be in a model's weights",
        },
    ),
    "infrastructure_maturity": Question(
        "What is operated already?",
        {
            "none": "nothing yet",
            "basic": "services, but nothing for models",
            "vector-store": "a search over vectors",
            "gpu-training": "trainings with a gate as well",
        },
    ),
    "explainability": Question(
        "Must answers name what they rest on?",
        {"none": "no", "useful": "it helps", "sources-required": "every one of them"},
    ),
}
COSTS = (
    "currency",
    "per_1000_input_tokens",
    "per_1000_output_tokens",
    "per_search",
    "per_embedding",
    "training",
    "serving_per_month",
    "trainings_per_month",
)
_KEYS = (*QUESTIONS, "latency_limit_ms", "questions_per_month")

Table = dict[str, Any]


def read(path: Path) -> Table:
    """Returns the profile of a TOML file: its tables [profile] and [costs], as in a domain's file, or its top level.

    Raises InvalidInput where it cannot be read, is no TOML, or holds a key that no profile has.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput.of("--profile", f"{path}: {error}") from None
    profile = dict(raw["profile"]) if isinstance(raw.get("profile"), dict) else {**raw}
    costs = profile.pop("costs", raw.get("costs", {}))
    faults = [FieldViolation(f"{path}: {key}", f"is none of {', '.join(_KEYS)}") for key in profile.keys() - set(_KEYS)]
    if not isinstance(costs, dict):
        faults.append(FieldViolation(f"{path}: costs", "must be a table"))
    else:
        unknown = costs.keys() - set(COSTS)
        faults += [FieldViolation(f"{path}: costs.{key}", f"is none of {', '.join(COSTS)}") for key in unknown]
    if faults:
        faults.sort(key=lambda fault: fault.field)
        raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults[:4]), faults)
    return profile | ({"costs": costs} if costs else {})


def ask_missing(profile: Table) -> Table:
    """Returns the profile completed by asking whoever sits at the terminal; an empty answer leaves a figure untold.

    A profile that has all its words is complete: figures are asked for only together with words.
    """
    asked = dict(profile)
    if all(asked.get(key) is not None for key in QUESTIONS):
        return asked
    for key, question in QUESTIONS.items():
        if asked.get(key) is None:
            asked[key] = _word(question)
    if asked.get("latency_limit_ms") is None:
        asked["latency_limit_ms"] = _figure("\nLongest wait for an answer at p95, in ms (empty: no limit)")
    if asked.get("questions_per_month") is None:
        asked["questions_per_month"] = _figure("\nQuestions a month (empty: not known)", whole=True)
    if asked.get("costs") is None and typer.confirm("\nDo you know prices?", default=False):
        asked["costs"] = _ask_costs()
    return asked


def message(profile: Table) -> advice_pb2.DomainProfile:
    """Returns the message of a profile; raises InvalidInput for what is of the wrong type."""
    made = advice_pb2.DomainProfile()
    costs = profile.get("costs") or {}
    try:
        if costs:
            made.costs.SetInParent()
        for key, value in costs.items():
            setattr(made.costs, key, value)
        for key in (*QUESTIONS, "questions_per_month"):
            if profile.get(key) is not None:
                setattr(made, key, profile[key])
        if profile.get("latency_limit_ms") is not None:
            key = "latency_limit_ms"
            made.latency_limit.FromTimedelta(timedelta(milliseconds=profile[key]))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput.of(key, f"cannot be sent: {error}") from None
    return made


def _word(question: Question) -> str:
    typer.echo(f"\n{question.ask}")
    for level, meaning in question.levels.items():
        typer.echo(f"  {level:<22} {meaning}")
    while True:
        said: str = typer.prompt("Your answer").strip()
        if said in question.levels:
            return said
        typer.echo("That is none of them.")


def _ask_costs() -> Table:
    costs: Table = {"currency": typer.prompt("Currency", default="EUR")}
    for key in COSTS[1:-1]:
        costs[key] = typer.prompt(key.replace("_", " ").capitalize(), type=float, default=0.0)
    return costs


def _figure(ask: str, *, whole: bool = False) -> float | int | None:
    while True:
        said = typer.prompt(ask, default="", show_default=False).strip().replace(",", "").replace("_", "")
        if not said:
            return None
        try:
            return int(said) if whole else float(said)
        except ValueError:
            typer.echo("That is not a number.")
