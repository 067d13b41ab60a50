"""Profiles from plain tables: what a domain's file, a request and the command line say by the same words."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from services.router.domain.advice import LEVELS, Costs, Profile
from tandem.errors import FieldViolation, InvalidInput

MAX_LATENCY_MS, MAX_QUESTIONS, MAX_COST, MAX_TRAININGS = 3_600_000, 10**12, 10**9, 1000
_FIGURES = {"latency_limit_ms": (1, MAX_LATENCY_MS), "questions_per_month": (0, MAX_QUESTIONS)}

Table = Mapping[str, object]


def profile_of(values: Table) -> Profile:
    """Returns the profile that a table describes; raises InvalidInput with all its faults, each naming its key.

    The keys are the fields of Profile; `costs` is a table of the fields of Costs. What is None counts as not there.
    """
    given = {key: value for key, value in values.items() if value is not None}
    faults: list[FieldViolation] = []
    made: dict[str, Any] = {}
    for factor, kind in LEVELS.items():
        value = given.pop(factor.value, None)
        if value in tuple(kind):
            made[factor.value] = kind(str(value))
        else:
            said = "is missing" if value is None else f'is "{value[:32]}"' if isinstance(value, str) else "is no word"
            faults.append(FieldViolation(factor.value, f"{said}; it is one of {', '.join(kind)}"))
    for key, (least, most) in _FIGURES.items():
        if key in given:
            made[key] = _figure(given.pop(key), key, least, most, faults)
    if math.isfinite(made.get("questions_per_month", math.nan)):
        made["questions_per_month"] = int(made["questions_per_month"])
    if "costs" in given:
        made["costs"] = _costs(given.pop("costs"), faults)
    faults += [FieldViolation(key, "is not part of a profile") for key in sorted(given)]
    _raise(faults)
    return Profile(**made)


def costs_of(values: Table) -> Costs:
    """Returns the prices that a table describes; raises InvalidInput with all its faults as `profile_of` does."""
    faults: list[FieldViolation] = []
    costs = _costs(values, faults)
    _raise(faults)
    return costs


def table_of(profile: Profile) -> dict[str, object]:
    """Returns the table of a profile, so that parts of it can be said anew."""
    table: dict[str, object] = {one.name: getattr(profile, one.name) for one in fields(Profile)}
    if profile.costs is not None:
        table["costs"] = {one.name: getattr(profile.costs, one.name) for one in fields(Costs)}
    return table


def _raise(faults: list[FieldViolation]) -> None:
    if faults:
        raise InvalidInput("; ".join(f"{fault.field} {fault.description}" for fault in faults[:4]), faults)


def _costs(value: object, faults: list[FieldViolation]) -> Costs:
    if not isinstance(value, Mapping):
        faults.append(FieldViolation("costs", "must be a table"))
        return Costs()
    given = {key: figure for key, figure in value.items() if figure is not None}
    made: dict[str, Any] = {}
    currency = given.pop("currency", "EUR")
    if not isinstance(currency, str) or not (1 <= len(currency) <= 8 and currency.isalpha()):
        faults.append(FieldViolation("costs.currency", "must be 1 to 8 letters"))
    made["currency"] = currency
    known = {one.name for one in fields(Costs)}
    for key, figure in given.items():
        if key not in known:
            faults.append(FieldViolation(f"costs.{key}", "is not part of the costs"))
            continue
        most = MAX_TRAININGS if key == "trainings_per_month" else MAX_COST
        made[key] = _figure(figure, f"costs.{key}", 0, most, faults)
    return Costs(**made)


def _figure(value: object, key: str, least: float, most: float, faults: list[FieldViolation]) -> float:
    # Compared before it is made a float: an integer may be larger than all of those.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        faults.append(FieldViolation(key, f"must be a number from {least:,} to {most:,}"))
        return math.nan
    return float(value)
