"""Reads an artefact from its file, and refuses one that is broken, altered, or of another domain or adapter.

The file is one JSON object. "sha256" is the SHA-256 of the object without that key, written with sorted keys, without
blanks, in ASCII (json.dumps(..., sort_keys=True, separators=(",", ":"))); it names the artefact in audit records.
"""

import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from services.router.calibration.fields import Fields
from services.router.domain.calibration import (
    FEATURE_NAMES,
    Artefact,
    Blend,
    CalibrationInvalid,
    Curve,
    Measure,
    Measured,
    ScopeMethod,
    ScopeModel,
    Weighted,
)

SCHEMA, KIND = 1, "tandem.calibration"
_MAX_BYTES = 128 * 1024 * 1024
_FLOAT = 4
"""Bytes of a float32."""


def read(path: Path, *, domain: str = "", adapter_sha256: str = "") -> Artefact:
    """Returns the artefact of a file; of this domain and adapter where they are named. Raises CalibrationInvalid."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CalibrationInvalid(f"{path}: more than {_MAX_BYTES >> 20} MiB; that is no calibration")
        text = path.read_text(encoding="utf-8")
        artefact = parse(text)
    except OSError as error:
        raise CalibrationInvalid(f"{path}: {error.strerror}; write it with `tandem calibrate`") from error
    except UnicodeDecodeError as error:
        raise CalibrationInvalid(f"{path}: {error}; write it with `tandem calibrate`") from error
    except CalibrationInvalid as error:
        raise CalibrationInvalid(f"{path}: {error}") from error
    if domain and artefact.domain != domain:
        raise CalibrationInvalid(f'{path}: it calibrates the domain "{artefact.domain}", not "{domain}"')
    if adapter_sha256 and artefact.adapter_sha256 != adapter_sha256:
        raise CalibrationInvalid(
            f"{path}: it calibrates the adapter {artefact.adapter_sha256[:12]}, the domain answers by "
            f"{adapter_sha256[:12]}; run `tandem calibrate` for that one"
        )
    return artefact


def version_of(document: dict[str, Any]) -> str:
    """Returns the SHA-256 that names a document, which does not depend on its "sha256" and on the order of its keys."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def parse(text: str) -> Artefact:
    """Returns the artefact of a file's text; raises CalibrationInvalid with the place of the fault."""
    try:
        document = json.loads(text, parse_constant=_refuse)
    except CalibrationInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise CalibrationInvalid(f"it is no JSON: {error}; write it with `tandem calibrate`") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CalibrationInvalid(f'it is no calibration: "kind" is not "{KIND}"')
    if document.get("schema") != SCHEMA:
        raise CalibrationInvalid(
            f"its schema is {document.get('schema')!r}, this router reads {SCHEMA}; run `tandem calibrate` anew"
        )
    if document.get("sha256") != version_of(document):
        raise CalibrationInvalid('"sha256" does not fit what the file says: it was altered after it was written')
    return _artefact(Fields(document))


def _refuse(name: str) -> NoReturn:
    raise CalibrationInvalid(f"it holds {name}, which is not a number; fit it anew")


def _artefact(found: Fields) -> Artefact:
    found.only(
        "schema kind sha256 domain created model_sha256 adapter_sha256 data_sha256 features intercept isotonic "
        "threshold risk level measured scope blend"
    )
    scope = found.part("scope")
    blend = found.part("blend")
    curve = found.part("isotonic")
    return Artefact(
        version=found.sha256("sha256"),
        domain=found.text("domain"),
        created=found.text("created"),
        model_sha256=found.sha256("model_sha256"),
        adapter_sha256=found.sha256("adapter_sha256"),
        data_sha256=found.sha256("data_sha256"),
        features=_features(found),
        intercept=found.number("intercept"),
        isotonic=None if curve is None else _curve(curve),
        threshold=found.optional("threshold", low=0, high=1),
        risk=found.number("risk", low=0, high=1),
        level=found.number("level", low=0, high=1),
        measured=_measured(found.need("measured")),
        scope=None if scope is None else _scope(scope),
        blend=None if blend is None else _blend(blend),
    )


def _features(found: Fields) -> tuple[Weighted, ...]:
    rows = tuple(_weighted(row) for row in found.parts("features"))
    names = [row.name for row in rows]
    if not rows or len(set(names)) != len(names):
        raise CalibrationInvalid("features: at least one is needed, and each at most once")
    return rows


def _weighted(found: Fields) -> Weighted:
    found.only("name mean scale weight low high")
    name = found.text("name")
    if name not in FEATURE_NAMES:
        raise CalibrationInvalid(f"{found.path}.name: this router knows no feature {name!r}")
    low = found.number("low")
    return Weighted(
        name=name,
        mean=found.number("mean"),
        scale=found.number("scale", above=0),
        weight=found.number("weight"),
        low=low,
        high=found.number("high", low=low),
    )


def _curve(found: Fields) -> Curve:
    found.only("x y")
    x, y = found.numbers("x"), found.numbers("y")
    rising = all(a < b for a, b in pairwise(x)) and all(a <= b for a, b in pairwise(y))
    if not x or len(x) != len(y) or not rising or y[0] < 0 or y[-1] > 1:
        raise CalibrationInvalid(f"{found.path}: x rises, y never falls and is 0 to 1, and both are of one length")
    return Curve(x, y)


def _measured(found: Fields) -> Measured:
    found.only("num_questions num_fitted num_certifying num_groups accuracy accepted risk ece_before ece_after auroc")
    risk, auroc = found.part("risk"), found.part("auroc")
    return Measured(
        num_questions=found.count("num_questions"),
        num_fitted=found.count("num_fitted"),
        num_certifying=found.count("num_certifying"),
        num_groups=found.count("num_groups"),
        accuracy=found.number("accuracy", low=0, high=1),
        accepted=_measure(found.need("accepted")),
        risk=None if risk is None else _measure(risk),
        ece_before=found.optional("ece_before", low=0, high=1),
        ece_after=found.number("ece_after", low=0, high=1),
        auroc=None if auroc is None else _measure(auroc),
    )


def _measure(found: Fields) -> Measure:
    found.only("value low high")
    return Measure(*(found.number(name, low=-1, high=1) for name in ("value", "low", "high")))


def _scope(found: Fields) -> ScopeModel:
    found.only("method neighbours num_rows dimension rows precision threshold width embedder_sha256 auroc")
    name = found.text("method")
    if name not in tuple(ScopeMethod):
        raise CalibrationInvalid(f"{found.path}.method: is one of {', '.join(ScopeMethod)}, not {name!r}")
    method = ScopeMethod(name)
    num_rows, dimension = found.count("num_rows", least=1), found.count("dimension", least=1)
    side = dimension if method is ScopeMethod.MAHALANOBIS else 0
    auroc = found.part("auroc")
    return ScopeModel(
        method=method,
        neighbours=found.count("neighbours", least=1, most=num_rows),
        num_rows=num_rows,
        dimension=dimension,
        rows=_floats(found, "rows", num_rows * dimension),
        precision=_floats(found, "precision", side * side),
        threshold=found.number("threshold", low=0),
        width=found.number("width", above=0),
        embedder_sha256=found.sha256("embedder_sha256"),
        auroc=None if auroc is None else _measure(auroc),
    )


def _floats(found: Fields, name: str, num: int) -> bytes:
    try:
        data = base64.b64decode(found.text(name, empty=True), validate=True)
    except ValueError as error:  # binascii.Error, or what is no ASCII
        raise CalibrationInvalid(f"{found.path}.{name}: {error}") from error
    if len(data) != num * _FLOAT:
        raise CalibrationInvalid(f"{found.path}.{name}: holds {len(data)} bytes instead of {num * _FLOAT}")
    if not np.isfinite(np.frombuffer(data, dtype="<f4")).all():
        raise CalibrationInvalid(f"{found.path}.{name}: holds what is not a number; fit it anew")
    return data


def _blend(found: Fields) -> Blend:
    found.only("own_prior evidence_intercept evidence_slope")
    return Blend(
        own_prior=found.number("own_prior", low=0, high=1),
        evidence_intercept=found.number("evidence_intercept"),
        evidence_slope=found.number("evidence_slope", low=0),
    )
