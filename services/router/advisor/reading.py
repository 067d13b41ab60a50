"""Reads a framework from its file, and finds what is wrong with it before it advises anybody."""

import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from services.router.advisor.framework import (
    FIGURES,
    Dimension,
    Duty,
    Framework,
    FrameworkFault,
    Lead,
    Leaf,
    Limits,
    Question,
    Rule,
    Voter,
    VoteRule,
    Workload,
)
from services.router.domain.advice import LEVELS, PATTERNS, Approach, DataVolatility, Factor

SHIPPED = Path(__file__).with_name("framework.toml")
_CONDITION = ("levels", "at_most", "under", "cheaper")
_SOURCES = ("anchor", "default")
_PARTS = (
    ("factors", "questions", "leaves", "dimensions", "trainings_per_month", "days", "workload", "evidence"),
    ("conditions",),
)

_TEXTS = {"id", "ask", "threshold", "because", "reason", "text", "name", "yes", "no", "rag", "fine_tune", "hybrid"}

Table = Mapping[str, Any]
T = TypeVar("T")
Word = TypeVar("Word", bound=StrEnum)


def read(path: Path = SHIPPED) -> Framework:
    """Returns the framework of a file; raises FrameworkFault, naming the place, or OSError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise FrameworkFault(path.name, f"is not TOML: {error}") from None
    made = _framework(raw)
    _check_voters(made)
    _check_tree(made)
    return made


def _framework(raw: Table) -> Framework:
    _keys("the file", raw, *_PARTS)
    questions, leaves = _each(raw, "questions", _question), _each(raw, "leaves", _leaf)
    names = [question.id for question in questions] + [leaf.id for leaf in leaves]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FrameworkFault("questions, leaves", f"{', '.join(twice)}: the id is there more than once")
    return Framework(
        voters=_each(raw, "factors", _voter),
        questions={question.id: question for question in questions},
        leaves={leaf.id: leaf for leaf in leaves},
        root=questions[0].id,
        duties=_each(raw, "conditions", _duty) if "conditions" in raw else (),
        trainings_per_month=_by_volatility(raw, "trainings_per_month"),
        days=_by_volatility(raw, "days"),
        workload=Workload(**_figures(raw, "workload", Workload)),
        limits=_limits(_figures(raw, "evidence", Limits)),
        dimensions=_each(raw, "dimensions", _dimension),
    )


def _voter(place: str, raw: Table) -> Voter:
    _keys(place, raw, ("name", "weight", "votes"))
    factor = _one_of(place, raw, "name", Factor)
    if not isinstance(raw["weight"], int) or raw["weight"] < 1:
        raise FrameworkFault(place, "weight must be a whole number from 1 on")
    return Voter(factor=factor, weight=raw["weight"], rules=_each(raw, "votes", _vote, factor, within=place))


def _vote(place: str, raw: Table, factor: Factor) -> VoteRule:
    _keys(place, raw, ("vote", "threshold", "because", "source"), _CONDITION)
    return VoteRule(
        rule=_rule(place, raw, factor),
        approach=None if raw["vote"] == "any" else _one_of(place, raw, "vote", Approach),
        threshold=raw["threshold"],
        because=raw["because"],
        source=_source(place, raw),
    )


def _question(place: str, raw: Table) -> Question:
    _keys(place, raw, ("id", "ask", "threshold", "source", "yes", "no"), ("factor", "lead", *_CONDITION))
    if ("factor" in raw) == ("lead" in raw):
        raise FrameworkFault(place, "must have either a factor or a lead")
    subject = _one_of(place, raw, "factor", Factor) if "factor" in raw else _lead(place, raw["lead"])
    rule = _rule(place, raw, subject) if isinstance(subject, Factor) else Rule()
    if isinstance(subject, Factor) == (rule == Rule()):
        raise FrameworkFault(place, "must have a condition where it has a factor, and none where it has a lead")
    return Question(
        id=raw["id"],
        ask=raw["ask"],
        subject=subject,
        rule=rule,
        threshold=raw["threshold"],
        source=_source(place, raw),
        yes=raw["yes"],
        no=raw["no"],
    )


def _lead(place: str, raw: Table) -> Lead:
    _keys(place, raw, ("of", "over", "by"))
    over = tuple(_one_of(place, {"over": one}, "over", Approach) for one in raw["over"])
    return Lead(_one_of(place, raw, "of", Approach), over, int(raw["by"]))


def _leaf(place: str, raw: Table) -> Leaf:
    _keys(place, raw, ("id", "approach", "pattern", "reason"))
    approach = _one_of(place, raw, "approach", Approach)
    if raw["pattern"] not in PATTERNS[approach]:
        raise FrameworkFault(place, f"{approach} is carried out by {', '.join(PATTERNS[approach])}")
    return Leaf(id=raw["id"], approach=approach, pattern=raw["pattern"], reason=raw["reason"])


def _duty(place: str, raw: Table) -> Duty:
    _keys(place, raw, ("factor", "text"), ("approaches", "patterns", *_CONDITION))
    factor = _one_of(place, raw, "factor", Factor)
    known: dict[str, set[str]] = {
        "approaches": set(Approach),
        "patterns": {name for names in PATTERNS.values() for name in names},
    }
    for key, names in known.items():
        if unknown := set(raw.get(key, ())) - names:
            raise FrameworkFault(place, f"{key}: {', '.join(sorted(unknown))} are not known")
    return Duty(
        factor=factor,
        rule=_rule(place, raw, factor),
        approaches=frozenset(raw.get("approaches", ())),
        patterns=frozenset(raw.get("patterns", ())),
        text=raw["text"],
    )


def _dimension(place: str, raw: Table) -> Dimension:
    _keys(place, raw, ("name", "rag", "fine_tune", "hybrid"), ("figure",))
    if raw.get("figure", "") not in FIGURES:
        raise FrameworkFault(place, f"figure must be one of {', '.join(FIGURES[1:])}")
    texts = {approach: raw[approach.name.lower()] for approach in Approach}
    return Dimension(name=raw["name"], figure=raw.get("figure", ""), texts=texts)


def _rule(place: str, raw: Table, factor: Factor) -> Rule:
    given = [key for key in _CONDITION if key in raw]
    if len(given) > 1:
        raise FrameworkFault(place, f"{' and '.join(given)}: one condition at most")
    fitting = ("levels",) if factor in LEVELS else ("at_most", "under") if factor is Factor.LATENCY else ("cheaper",)
    if given and given[0] not in fitting:
        raise FrameworkFault(place, f"{given[0]} does not fit {factor}; {' or '.join(fitting)} does")
    if "levels" in raw:
        if unknown := set(raw["levels"]) - set(LEVELS[factor]):
            raise FrameworkFault(place, f"{', '.join(sorted(unknown))}: no level of {factor}")
        return Rule(levels=frozenset(raw["levels"]))
    if "cheaper" in raw:
        return Rule(cheaper=_one_of(place, raw, "cheaper", Approach))
    figures = {key: _number(place, raw, key) for key in given}
    return Rule(at_most=figures.get("at_most"), under=figures.get("under"))


def _check_voters(framework: Framework) -> None:
    """Raises FrameworkFault unless every factor votes once, and for every value that it can have."""
    if sorted(voter.factor for voter in framework.voters) != sorted(Factor):
        raise FrameworkFault("factors", f"must be {', '.join(Factor)}, each once")
    for voter in framework.voters:
        if any(rule.rule == Rule() for rule in voter.rules):
            continue
        covered = frozenset[str]().union(*(rule.rule.levels or () for rule in voter.rules))
        missing = set(LEVELS.get(voter.factor, ())) - covered
        if voter.factor not in LEVELS or missing:
            what = ", ".join(sorted(missing)) or "figures that are not told"
            raise FrameworkFault(f"factors.{voter.factor}", f"no vote for {what}")


def _check_tree(framework: Framework) -> None:
    """Raises FrameworkFault unless the questions make one tree whose ends are the leaves."""
    named = [name for question in framework.questions.values() for name in (question.yes, question.no)]
    known = framework.questions.keys() | framework.leaves.keys()
    for question in framework.questions.values():
        for name in (question.yes, question.no):
            if name not in known:
                raise FrameworkFault(f"questions.{question.id}", f'"{name}" is neither a question nor a leaf')
            if named.count(name) > 1 or name == framework.root:
                raise FrameworkFault(f"questions.{question.id}", f'"{name}" is reached in more than one way')
    # Nothing is named twice and the root never, so that what is reached from the root is a tree, and ends.
    if lost := sorted(known - set(framework.below(framework.root))):
        raise FrameworkFault("questions, leaves", f"{', '.join(lost)}: never reached")


def _each(raw: Table, key: str, make: Callable[..., T], *more: Any, within: str = "") -> tuple[T, ...]:
    rows = raw[key]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise FrameworkFault(within or key, f"[[{key}]] must be there at least once")
    prefix = f"{within}." if within else ""
    return tuple(
        make(f"{prefix}{key}.{row.get('id') or row.get('name') or number}", row, *more)
        for number, row in enumerate(rows, 1)
    )


def _keys(place: str, raw: Table, needed: tuple[str, ...], also: tuple[str, ...] = ()) -> None:
    if missing := [key for key in needed if key not in raw]:
        raise FrameworkFault(place, f"misses {', '.join(missing)}")
    if unknown := sorted(raw.keys() - {*needed, *also}):
        raise FrameworkFault(place, f"{', '.join(unknown)}: not known here")
    if wordless := sorted(key for key in _TEXTS & raw.keys() if not (isinstance(raw[key], str) and raw[key])):
        raise FrameworkFault(place, f"{', '.join(wordless)}: must be words")


def _one_of(place: str, raw: Table, key: str, kind: type[Word]) -> Word:
    try:
        return kind(raw[key])
    except ValueError:
        raise FrameworkFault(place, f'{key} "{raw[key]}" is none of {", ".join(kind)}') from None


def _source(place: str, raw: Table) -> str:
    if raw["source"] not in _SOURCES:
        raise FrameworkFault(place, f"source must be one of {', '.join(_SOURCES)}")
    return str(raw["source"])


def _number(place: str, raw: Table, key: str) -> float:
    if isinstance(raw[key], bool) or not isinstance(raw[key], int | float) or raw[key] < 0:
        raise FrameworkFault(place, f"{key} must be a number, 0 or more")
    return float(raw[key])


def _figures(raw: Table, place: str, kind: type[Any]) -> dict[str, float]:
    _keys(place, raw[place], tuple(kind.__dataclass_fields__))
    return {key: _number(place, raw[place], key) for key in raw[place]}


def _limits(figures: dict[str, float]) -> Limits:
    return Limits(
        min_answers=int(figures["min_answers"]),
        min_changed=int(figures["min_changed"]),
        stale_share=figures["stale_share"],
        cited_share=figures["cited_share"],
    )


def _by_volatility(raw: Table, place: str) -> dict[DataVolatility, float]:
    _keys(place, raw[place], tuple(DataVolatility))
    return {level: _number(place, raw[place], level) for level in DataVolatility}
