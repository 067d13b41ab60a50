"""Reads a domain from its file, and tells everything that is wrong with it at once."""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from services.router.domain import Below, Depth, Domain, LabelCondition
from services.router.domain.advice import Compliance, Costs, Explainability, Profile
from services.router.domain.calibration import Artefact, CalibrationInvalid
from services.router.domain.domains import ArmResult
from services.router.domain.profiles import MAX_LATENCY_MS, costs_of, profile_of
from services.router.domains.fields import Fields
from services.router.domains.results import ResultsInvalid, read_results
from tandem.errors import FieldViolation, InvalidInput

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_BYTES = 1024 * 1024
_MAX_LABELS, _MAX_KEY, _MAX_VALUES, _MAX_VALUE = 16, 64, 64, 512
"""As the retriever bounds a search's conditions."""
_OWN_WEIGHTS = ("finetuned", "cascade", "dual", "ensemble")

Mark = tuple[int, int] | None


def mark_of(path: Path) -> Mark:
    """Returns size and time of change of a file, None where it cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


class ReadCalibration(Protocol):
    """Reads a calibration artefact."""

    def __call__(self, path: Path, *, domain: str) -> Artefact:
        """Returns the artefact of a domain; raises CalibrationInvalid."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Is what a file says: a domain, or what is wrong with it.

    `tenants` is None where the file does not even tell whom it is for. `marks` are of all files that were read, taken
    before each was: where one of them differs by now, the domain is to be read anew.
    """

    path: Path
    name: str
    domain: Domain | None = None
    tenants: frozenset[str] | None = None
    faults: tuple[FieldViolation, ...] = ()
    marks: Mapping[Path, Mark] = field(default_factory=dict)

    @property
    def fault(self) -> str:
        """Is all that is wrong, in one line; "" where nothing is."""
        told = "; ".join(
            f"{fault.field} {fault.description}" if fault.field else fault.description for fault in self.faults
        )
        return f"{self.name}.toml: {told}".encode(errors="replace").decode() if told else ""


class DomainReader:
    """Reads domains; a key that a file leaves out is as `base` has it."""

    def __init__(self, *, base: Domain, policies: Collection[str], calibration: ReadCalibration) -> None:
        self._base = base
        self._policies = policies
        self._calibration = calibration

    def read(self, path: Path) -> Reading:
        """Returns what a file says; whatever it holds, nothing is raised."""
        marks = {path: mark_of(path)}
        name = path.stem.encode(errors="replace").decode()[:64]
        try:
            raw = _toml(path)
            if not _NAME.fullmatch(path.stem):
                raise ValueError("its name must be 1 to 64 letters, digits, - and _: rename the file")
        except ValueError as error:
            return Reading(path=path, name=name, faults=(FieldViolation("", str(error)),), marks=marks)
        fields = Fields(raw)
        domain = self._domain(fields, replace(self._base, name=name, description=""), path, marks)
        fields.end()
        faults = fields.faults or list(_contradictions(domain, raw))
        tenants = None if any(fault.field == "tenants" for fault in faults) else domain.tenants
        return Reading(
            path=path,
            name=name,
            domain=None if faults else domain,
            tenants=tenants,
            faults=tuple(faults),
            marks=marks,
        )

    def _domain(self, fields: Fields, base: Domain, path: Path, marks: dict[Path, Mark]) -> Domain:
        costs = _costs(fields)
        abstention = Fields(fields.table("abstention") or {})
        domain = Domain(
            name=base.name,
            description=fields.text("description", base.description),
            tenants=fields.texts("tenants"),
            policy=fields.word("policy", base.policy, self._policies),
            answer_adapter=fields.text("answer_adapter", base.answer_adapter),
            reading_adapter=fields.text("reading_adapter", base.reading_adapter),
            documents=_labels(fields),
            snapshot=fields.text("snapshot", base.snapshot),
            profile=_profile(fields, costs),
            costs=costs,
            artefact=self._artefact(fields, path, base.name, marks),
            threshold=fields.number("threshold", base.threshold, 0, 1),
            latency_objective_ms=fields.number("latency_objective_ms", None, 1, MAX_LATENCY_MS),
            min_groundedness=abstention.number("min_groundedness", base.min_groundedness, 0, 1),
            below=Below(abstention.word("below", base.below, tuple(Below))),
            depth=Depth(fields.word("depth", base.depth, tuple(Depth))),
            results=self._results(fields, path, marks),
        )
        abstention.end()
        fields.faults += [FieldViolation(f"abstention.{one.field}", one.description) for one in abstention.faults]
        return domain

    def _artefact(self, fields: Fields, path: Path, name: str, marks: dict[Path, Mark]) -> Artefact | None:
        beside = _beside(fields, "calibration", path, marks)
        try:
            return None if beside is None else self._calibration(beside, domain=name)
        except CalibrationInvalid as error:
            # Callers read this: where the server keeps its files is not for them.
            fields.note("calibration", str(error).removeprefix(f"{beside}: "))
            return None

    def _results(self, fields: Fields, path: Path, marks: dict[Path, Mark]) -> tuple[ArmResult, ...]:
        beside = _beside(fields, "results", path, marks)
        try:
            return () if beside is None else read_results(beside, self._policies)
        except ResultsInvalid as error:
            fields.note("results", str(error))
            return ()


def _toml(path: Path) -> dict[str, Any]:
    """Returns the tables of a file; raises ValueError, with the line where it is no TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"has more than {_MAX_BYTES >> 20} MiB; that is no domain")
        text = data.decode("utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not in UTF-8, from byte {error.start} on: save it as that") from None
    except tomllib.TOMLDecodeError as error:
        last = f"at the end, line {text.count(chr(10)) + 1}"
        raise ValueError(f"is no TOML: {error}".replace("at end of document", last)) from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _beside(fields: Fields, key: str, path: Path, marks: dict[Path, Mark]) -> Path | None:
    """Returns the file that a key names, relative to the domain's, and marks it."""
    named = fields.text(key, "")
    if not named:
        return None
    beside = path.parent / named
    marks[beside] = mark_of(beside)
    return beside


def _profile(fields: Fields, costs: Costs | None) -> Profile | None:
    table = fields.table("profile")
    if table is None:
        return None
    if "costs" in table:
        fields.note("profile.costs", "belongs beside the profile: write [costs]")
        return None
    try:
        return replace(profile_of(table), costs=costs)
    except InvalidInput as error:
        fields.faults += [FieldViolation(f"profile.{one.field}", one.description) for one in error.violations]
        return None


def _costs(fields: Fields) -> Costs | None:
    table = fields.table("costs")
    try:
        return None if table is None else costs_of(table)
    except InvalidInput as error:
        fields.faults += error.violations
        return None


def _labels(fields: Fields) -> tuple[LabelCondition, ...]:
    """Returns the conditions of [documents]: label = value, a list of values, true or false, or { not = values }."""
    table = fields.table("documents") or {}
    if len(table) > _MAX_LABELS:
        fields.note("documents", f"must have at most {_MAX_LABELS} labels")
    found = []
    for key, said in table.items():
        excluded = said is False or (isinstance(said, dict) and said.keys() == {"not"})
        values = said["not"] if isinstance(said, dict) and excluded else said
        listed = [values] if isinstance(values, str) else [] if isinstance(values, bool) else values
        if not 1 <= len(key) <= _MAX_KEY:
            fields.note("documents", f"has a label of {len(key)} characters; they have 1 to {_MAX_KEY}")
        elif not isinstance(listed, list) or not _are_values(listed) or (not listed and not isinstance(said, bool)):
            fields.note(
                f"documents.{key}",
                f'must be a value, a list of 1 to {_MAX_VALUES} values, {{ not = ["value"] }}, true where the label '
                "must be there, or false where it must not",
            )
        else:
            found.append(LabelCondition(key, tuple(listed), excluded))
    return tuple(found)


def _are_values(listed: list[Any]) -> bool:
    return len(listed) <= _MAX_VALUES and all(isinstance(one, str) and 0 < len(one) <= _MAX_VALUE for one in listed)


def _contradictions(domain: Domain, raw: Mapping[str, Any]) -> list[FieldViolation]:
    """Returns what a domain says against itself."""
    found = []
    profile, policy = domain.profile, domain.policy
    if policy in _OWN_WEIGHTS and not domain.answer_adapter:
        found.append(FieldViolation("policy", f"is {policy}, which needs an answer_adapter: name one, or take rag"))
    if profile is not None and profile.explainability is Explainability.SOURCES_REQUIRED and policy == "finetuned":
        said = "is finetuned, which cites nothing, but profile.explainability is sources-required: take rag"
        found.append(FieldViolation("policy", said))
    if profile is not None and profile.compliance is Compliance.RECORDS_STAY_EXTERNAL and policy == "finetuned":
        said = "is finetuned, whose records are in weights, but profile.compliance is records-stay-external: take rag"
        found.append(FieldViolation("policy", said))
    if domain.artefact is not None and "threshold" in raw:
        found.append(FieldViolation("threshold", "is that of the calibration already: remove one of them"))
    if domain.artefact is not None and not domain.answer_adapter:
        found.append(FieldViolation("calibration", "is of an answer_adapter, and there is none: remove it"))
    return found
