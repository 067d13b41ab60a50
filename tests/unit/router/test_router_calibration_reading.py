"""The router reads what evaluation writes, and refuses everything else with a reason."""

import base64
import copy
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.calibration import rows as fitted_rows
from evaluation.calibration.artefact import KIND, SCHEMA, seal
from evaluation.calibration.calibrating import Wish
from services.router.calibration import parse, read, reading, version_of
from services.router.domain.calibration import FEATURE_NAMES, CalibrationInvalid, Features, ScopeMethod
from tandem.report import write_data
from tests.fakes.calibration import ADAPTER, DATA, EMBEDDER, MODEL, document

KNN, MAHALANOBIS = document(), document(method="mahalanobis", wish=Wish(isotonic=True))
finite = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)
measures = st.none() | st.fixed_dictionaries({"value": share, "low": share, "high": share})


def altered(path, value, base=KNN, *, sealed=True):
    found = copy.deepcopy(base)
    part = found
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(seal(found) if sealed else found)


def test_both_sides_speak_of_the_same():
    assert FEATURE_NAMES == fitted_rows.FEATURES
    assert (SCHEMA, KIND) == (reading.SCHEMA, reading.KIND)
    assert version_of(KNN) == KNN["sha256"]
    assert Features(mean_logprob=-0.5).of("mean_logprob") == -0.5


@pytest.mark.parametrize(("held", "method"), [(KNN, "knn"), (MAHALANOBIS, "mahalanobis")])
def test_what_was_written_is_read(tmp_path, held, method):
    path = write_data(tmp_path / "deep" / "calibration.json", held)
    found = read(path, domain="claims", adapter_sha256=ADAPTER)
    assert found.version == held["sha256"]
    assert (found.model_sha256, found.adapter_sha256, found.data_sha256) == (MODEL, ADAPTER, DATA)
    assert found.threshold == held["threshold"]
    assert [feature.name for feature in found.features] == [feature["name"] for feature in held["features"]]
    assert found.scope is not None
    assert found.scope.method is ScopeMethod(method)
    assert found.scope.embedder_sha256 == EMBEDDER
    assert (found.isotonic is None) == (held["isotonic"] is None)
    assert not list(tmp_path.glob("**/.*"))


@st.composite
def documents(draw):
    names = draw(st.lists(st.sampled_from(FEATURE_NAMES), min_size=1, unique=True))
    features = []
    for name in names:
        low, high = sorted((draw(finite), draw(finite)))
        scale = draw(st.floats(1e-9, 1e9))
        features.append(
            {"name": name, "mean": draw(finite), "scale": scale, "weight": draw(finite), "low": low, "high": high}
        )
    x = sorted(draw(st.lists(share, min_size=1, unique=True)))
    y = sorted(draw(st.lists(share, min_size=len(x), max_size=len(x))))
    measured = {
        **{
            name: draw(st.integers(0, 10**6))
            for name in ("num_questions", "num_fitted", "num_certifying", "num_groups")
        },
        **{name: draw(share) for name in ("accuracy", "ece_after")},
        "ece_before": draw(st.none() | share),
        "accepted": draw(measures.filter(bool)),
        "risk": draw(measures),
        "auroc": draw(measures),
    }
    return seal(
        {
            **KNN,
            "domain": draw(st.text(min_size=1)),
            "features": features,
            "intercept": draw(finite),
            "isotonic": draw(st.sampled_from([None, {"x": x, "y": y}])),
            "threshold": draw(st.none() | share),
            "risk": draw(share),
            "measured": measured,
            "scope": draw(st.sampled_from([None, KNN["scope"], MAHALANOBIS["scope"]])),
            "blend": draw(st.sampled_from([None, KNN["blend"]])),
        }
    )


@settings(deadline=None)
@given(documents())
def test_every_figure_survives_the_round_trip(held):
    found = parse(json.dumps(held))
    assert found.version == held["sha256"]
    for feature, written in zip(found.features, held["features"], strict=True):
        assert {key: getattr(feature, key) for key in written} == written
    for name in ("domain", "intercept", "threshold", "risk", "level", "created"):
        assert getattr(found, name) == held[name]
    for name, value in held["measured"].items():
        read_back = getattr(found.measured, name)
        if isinstance(value, dict):
            read_back = {key: getattr(read_back, key) for key in value}
        assert read_back == value
    assert (found.scope is None, found.blend is None) == (held["scope"] is None, held["blend"] is None)
    if held["isotonic"] is not None:
        assert found.isotonic is not None
        assert (list(found.isotonic.x), list(found.isotonic.y)) == (held["isotonic"]["x"], held["isotonic"]["y"])


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | finite | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
        max_leaves=5,
    ),
    st.data(),
)
def test_no_value_anywhere_breaks_the_reader(value, data):
    """Whatever stands anywhere is read, or refused as CalibrationInvalid: nothing else is raised."""
    found, path = KNN, []
    while isinstance(found, dict | list) and found:
        key = data.draw(st.sampled_from(sorted(found) if isinstance(found, dict) else range(len(found))))
        path.append(key)
        found = found[key]
        if data.draw(st.booleans()):
            break
    with suppress(CalibrationInvalid):
        parse(altered(path, value))


FAULTS = [
    (("schema",), 2, None),
    (("domain",), "", r"domain: a string is needed"),
    (("model_sha256",), "A" * 64, r"model_sha256: .* no SHA-256"),
    (("features",), [], r"at least one is needed"),
    (("features", 0, "name"), "mood", r"features\[0\].name: this router knows no feature 'mood'"),
    (("features", 1, "name"), KNN["features"][0]["name"], r"each at most once"),
    (("features", 0, "scale"), 0, r"features\[0\].scale: 0 is not more than 0"),
    (("features", 0, "high"), -1e9, r"features\[0\].high: -1000000000.0 is not"),
    (("features", 0, "weight"), "1", r"features\[0\].weight: 1 is not a number"),
    (("features", 0, "weight"), True, r"features\[0\].weight: True is not a number"),
    (("features", 0, "weight"), 10**400, r"features\[0\].weight: 1000.* is not a number"),
    (("features", 0), 3, r"features\[0\]: an object is needed"),
    (("threshold",), 1.2, r"threshold: 1.2 is not 0 to 1"),
    (("isotonic",), {"x": [0.1, 0.1], "y": [0, 1]}, r"isotonic: x rises"),
    (("isotonic",), {"x": [0.1, 0.2], "y": [1, 0]}, r"isotonic: x rises"),
    (("isotonic",), {"x": [], "y": []}, r"isotonic: x rises"),
    (("measured", "num_groups"), -1, r"measured.num_groups: -1 is not a whole number"),
    (("measured", "luck"), 1, r"measured: exactly .* check luck"),
    (("measured", "accepted"), None, r"measured.accepted: an object is needed"),
    (("scope", "method"), "guess", r"scope.method: is one of knn, mahalanobis"),
    (("scope", "rows"), "A", r"scope.rows: "),
    (("scope", "rows"), "AAAA", r"scope.rows: holds 3 bytes instead of 1280"),
    (("scope", "neighbours"), 41, r"scope.neighbours: 41 is not a whole number of 1 to 40"),
    (("scope", "dimension"), 7, r"scope.rows: holds 1280 bytes instead of 1120"),
    (("scope", "width"), 0, r"scope.width: 0 is not more than 0"),
    (("blend", "evidence_slope"), -1, r"blend.evidence_slope: -1 is not 0 to"),
]


@pytest.mark.parametrize(("path", "value", "fault"), FAULTS)
def test_a_fault_is_named_with_its_place(path, value, fault):
    if path == ("schema",):
        text = json.dumps({**KNN, "schema": 2})
        fault = r"its schema is 2, this router reads 1; run `tandem calibrate` anew"
    else:
        text = altered(path, value)
    with pytest.raises(CalibrationInvalid, match=fault):
        parse(text)


def test_rows_that_are_no_numbers_are_refused():
    data = bytearray(base64.b64decode(KNN["scope"]["rows"]))
    data[:4] = b"\x00\x00\xc0\x7f"  # NaN, little-endian
    with pytest.raises(CalibrationInvalid, match=r"scope.rows: holds what is not a number"):
        parse(altered(("scope", "rows"), base64.b64encode(bytes(data)).decode()))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_not_a_number_is_refused(constant):
    text = json.dumps(KNN).replace(f'"intercept": {KNN["intercept"]}', f'"intercept": {constant}')
    assert constant in text
    with pytest.raises(CalibrationInvalid, match=r"not a number|altered"):
        parse(text)
    with pytest.raises(ValueError, match="JSON compliant"):
        seal({**KNN, "intercept": float("nan")})


def test_an_altered_file_is_refused():
    with pytest.raises(CalibrationInvalid, match='"sha256" does not fit what the file says'):
        parse(altered(("threshold",), 0.01, sealed=False))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"kind": "tandem.adapter"}', "1" * 5000])
def test_what_is_no_calibration_is_refused(text):
    with pytest.raises(CalibrationInvalid, match=r"it is no (JSON|calibration)"):
        parse(text)


def test_files_name_themselves_in_errors(tmp_path):
    path = write_data(tmp_path / "calibration.json", KNN)
    with pytest.raises(CalibrationInvalid, match=r'calibration.json: it calibrates the domain "claims", not "motor"'):
        read(path, domain="motor")
    with pytest.raises(CalibrationInvalid, match=r"it calibrates the adapter bbbbbbbbbbbb, the domain answers by eeee"):
        read(path, adapter_sha256="e" * 64)
    with pytest.raises(CalibrationInvalid, match=r"none.json: .*; write it with `tandem calibrate`"):
        read(tmp_path / "none.json")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CalibrationInvalid, match=r"calibration.json: "):
        read(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CalibrationInvalid, match=r"calibration.json: it is no calibration"):
        read(path)


def test_a_file_beyond_all_bounds_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as stream:
        stream.truncate(129 * 1024 * 1024)
    with pytest.raises(CalibrationInvalid, match="more than 128 MiB"):
        read(path)
