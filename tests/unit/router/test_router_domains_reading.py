"""A domain's file: all that it can say, and every fault told at once."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.router.calibration import read as read_calibration
from services.router.domain import Below, Depth, Domain, LabelCondition
from services.router.domain.advice import DataVolatility
from services.router.domain.domains import ArmResult
from services.router.domains import DomainReader, Reading
from tests.fakes.calibration import document as a_calibration

BASE = Domain(answer_adapter="house", threshold=0.9)
POLICIES = ("auto", "cascade", "dual", "ensemble", "finetuned", "rag")
FULL = """
description = "Motor claims"
tenants = ["halden", "brightwater"]
policy = "dual"
answer_adapter = "claims"
reading_adapter = ""
snapshot = "march"
threshold = 0.8
latency_objective_ms = 500
depth = "vectors"
results = "measured/arms.json"

[documents]
kind = ["policy_conditions", "tariff"]
language = "en"
reviewed = true
draft = false
origin = { not = ["web"] }

[abstention]
min_groundedness = 0.7
below = "escalate"

[profile]
data_volatility = "monthly"
domain_specificity = "specialised"
compliance = "audit"
infrastructure_maturity = "gpu-training"
explainability = "useful"
latency_limit_ms = 400

[costs]
per_search = 0.0005
"""
ARM = {"policy": "rag", "accuracy": 0.7, "low": 0.6, "high": 0.8, "num_questions": 300, "metric": "F1"}


def reading(folder: Path, text: str, *, name: str = "claims") -> Reading:
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    reader = DomainReader(base=BASE, policies=POLICIES, calibration=read_calibration)
    return reader.read(folder / f"{name}.toml")


def faults(folder: Path, text: str) -> dict[str, str]:
    read = reading(folder, text)
    assert (read.domain is None) == bool(read.faults) == bool(read.fault)
    return {fault.field: fault.description for fault in read.faults}


def test_all_that_a_file_can_say_is_read(tmp_path: Path) -> None:
    (tmp_path / "measured").mkdir()
    arms = [ARM | {"p95_ms": 420.5, "seed": 7}, {"policy": "base", "note": "no policy"}]
    (tmp_path / "measured" / "arms.json").write_text(json.dumps({"arms": arms, "data": "x"}))
    read = reading(tmp_path, FULL)
    domain = read.domain
    assert domain is not None, read.fault
    assert (domain.name, domain.description, domain.tenants) == ("claims", "Motor claims", {"halden", "brightwater"})
    assert (domain.policy, domain.answer_adapter, domain.reading_adapter) == ("dual", "claims", "")
    assert domain.documents == (
        LabelCondition("kind", ("policy_conditions", "tariff")),
        LabelCondition("language", ("en",)),
        LabelCondition("reviewed"),
        LabelCondition("draft", excluded=True),
        LabelCondition("origin", ("web",), excluded=True),
    )
    assert (domain.snapshot, domain.threshold, domain.latency_objective_ms) == ("march", 0.8, 500)
    assert (domain.min_groundedness, domain.below, domain.depth) == (0.7, Below.ESCALATE, Depth.VECTORS)
    assert domain.profile is not None
    assert domain.profile.data_volatility is DataVolatility.MONTHLY
    assert domain.profile.costs == domain.costs
    assert domain.costs is not None
    assert domain.costs.per_search == 0.0005
    assert domain.results == (
        ArmResult(policy="rag", accuracy=0.7, low=0.6, high=0.8, num_questions=300, metric="F1", p95_ms=420.5),
    )
    assert set(read.marks) == {tmp_path / "claims.toml", tmp_path / "measured" / "arms.json"}


def test_what_a_file_leaves_out_is_as_the_settings_have_it(tmp_path: Path) -> None:
    read = reading(tmp_path, "")
    assert read.domain == Domain(name="claims", answer_adapter="house", threshold=0.9)
    assert read.tenants == frozenset()


def test_all_faults_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        'tenants = "halden"\npolicy = "oracle"\nthreshold = 95\nanswer_adaptor = "a"\ndepth = 3\n'
        "[documents]\nkind = []\n[abstention]\nbelow = 'hide'\nmin = 1\n"
        "[profile]\ndata_volatility = 'often'\n[costs]\nper_search = -1\n",
    )
    assert {
        "tenants", "policy", "threshold", "answer_adaptor", "depth", "documents.kind", "abstention.below",
        "abstention.min", "profile.data_volatility", "profile.compliance", "costs.per_search",
    } <= found.keys()  # fmt: skip
    assert found["answer_adaptor"] == "is not known; did you mean answer_adapter?"
    assert "auto, cascade, dual" in found["policy"]
    assert "claims.toml: " in reading(tmp_path, "policy = 3").fault


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ('policy = "finetuned"\nanswer_adapter = ""', "policy", "take rag"),
        ('answer_adapter = ""', "policy", "is cascade, which needs an answer_adapter"),
        ("policy = 'finetuned'\n{}explainability = 'sources-required'", "policy", "cites nothing"),
        ("policy = 'finetuned'\n{}compliance = 'records-stay-external'", "policy", "records-stay-external"),
        ("[profile]\n[profile.costs]\nper_search = 1", "profile.costs", "write [costs]"),
        ("policy = ", "", "at the end, line 1"),
        ("\n\npolicy = 'rag", "", "line 3"),
        ("a = 1\n[b\n", "", "line 2"),
        ("documents = ['kind']", "documents", "write [documents]"),
        ("calibration = 'gone.json'", "calibration", "tandem calibrate"),
        ("results = 'gone.json'", "results", "tandem evaluate arms"),
    ],
)
def test_a_fault_says_what_to_do(tmp_path: Path, text: str, field: str, said: str) -> None:
    words = {
        "data_volatility": "static",
        "domain_specificity": "general",
        "compliance": "none",
        "infrastructure_maturity": "basic",
        "explainability": "none",
    }
    last = text.rsplit("\n", 1)[-1].split("}")[-1].split(" = ")[0]
    lines = "".join(f"{key} = '{value}'\n" for key, value in words.items() if key != last)
    assert said in faults(tmp_path, text.replace("{}", f"[profile]\n{lines}"))[field]


def test_a_calibration_settles_the_threshold_and_needs_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "fitted.json").write_text(json.dumps(a_calibration()))
    good = reading(tmp_path, "calibration = 'fitted.json'")
    assert good.domain is not None, good.fault
    assert good.domain.artefact is not None
    assert good.domain.artefact.domain == "claims"
    assert tmp_path / "fitted.json" in good.marks
    twice = reading(tmp_path, "calibration = 'fitted.json'\nthreshold = 0.5")
    assert [fault.field for fault in twice.faults] == ["threshold"]
    alone = reading(tmp_path, "calibration = 'fitted.json'\nanswer_adapter = ''\npolicy = 'rag'")
    assert [fault.field for fault in alone.faults] == ["calibration"]
    other = reading(tmp_path, "calibration = 'fitted.json'", name="travel")
    assert 'the domain "claims", not "travel"' in other.fault
    assert str(tmp_path) not in other.fault


@pytest.mark.parametrize(
    "arms",
    [
        "[" * 100_000,
        "{}",
        '{"arms": 3}',
        '{"arms": [3]}',
        json.dumps({"arms": [ARM | {"accuracy": 0.9}]}),
        json.dumps({"arms": [ARM | {"accuracy": None}]}),
        json.dumps({"arms": [ARM | {"low": float("nan")}]}),
        json.dumps({"arms": [ARM | {"num_questions": 3.5}]}),
        json.dumps({"arms": [ARM | {"metric": ""}]}),
        json.dumps({"arms": [ARM | {"cost": -1}]}),
        json.dumps({"arms": [ARM | {"behind": 3}]}),
        json.dumps({"arms": [ARM | {"behind": {"dual": 0.1}}]}),
        json.dumps({"arms": [ARM | {"behind": {"dual": {"low": -2}}}]}),
        json.dumps({"arms": [ARM, ARM]}),
        json.dumps({"arms": [ARM | {"accuracy": 10**400}]}),
    ],
)
def test_faulty_results_are_refused(tmp_path: Path, arms: str) -> None:
    (tmp_path / "arms.json").write_text(arms)
    assert faults(tmp_path, "results = 'arms.json'").keys() == {"results"}


@pytest.mark.parametrize("name", ["my claims", "clàims", "a.b", "x" * 65])
def test_a_name_that_requests_could_not_say_is_refused(tmp_path: Path, name: str) -> None:
    read = reading(tmp_path, "", name=name)
    assert read.domain is None
    assert "rename the file" in read.fault
    assert len(read.name) <= 64


_NAMED = (
    "description tenants policy answer_adapter reading_adapter documents snapshot profile costs calibration results "
    "threshold latency_objective_ms depth abstention abstention.below profile.compliance costs.currency x"
)
_KEYS = st.sampled_from(_NAMED.split())
_VALUES = (
    st.sampled_from(["1", "nan", "-inf", "1e400", "0x" + "f" * 9000, "true", "1979-05-27"])
    | st.sampled_from(["''", '"\\u0000"', "'rag'", "'../..'", "'" + "x" * 2000 + "'"])
    | st.sampled_from(["[]", "[1]", "['a']", "[[" * 400, "{}", "{ not = 'a' }", "{ a = 'b', '' = 1 }"])
)
_LINES = st.lists(st.tuples(_KEYS, _VALUES).map(" = ".join) | st.sampled_from(["[profile]", "[costs]", "[documents]"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@example(".".join(["a"] * 20_000) + " = 1")
@example("profile." + ".".join(["compliance"] * 20_000) + " = 1")
@example("documents." + ".".join(["a"] * 20_000) + " = 1")
@example("threshold = 1" + "0" * 5000)
@given(st.text(max_size=200) | _LINES.map("\n".join))
def test_any_text_is_a_domain_or_faults(tmp_path: Path, text: str) -> None:
    (tmp_path / "any.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    reader = DomainReader(base=BASE, policies=POLICIES, calibration=read_calibration)
    read = reader.read(tmp_path / "any.toml")
    assert (read.domain is None) == bool(read.faults)
    read.fault.encode()


def test_what_is_no_text_or_no_file_is_told(tmp_path: Path) -> None:
    reader = DomainReader(base=BASE, policies=POLICIES, calibration=read_calibration)
    (tmp_path / "bytes.toml").write_bytes(b"policy = '\xff'")
    (tmp_path / "large.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    (tmp_path / "folder.toml").mkdir()
    faults = {name: reader.read(tmp_path / f"{name}.toml").fault for name in ("bytes", "large", "folder", "gone")}
    words = {"bytes": "UTF-8", "large": "MiB", "folder": "cannot be read", "gone": "cannot be read"}
    assert [name for name, said in faults.items() if words[name] not in said] == []
