"""What is watched exists: the telemetry page, the dashboard and the alerts name only what the code declares."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability import dashboards, telemetry

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observability"
RULES = FOLDER / "rules" / "tandem.rules.yaml"
RULE_TESTS = FOLDER / "rules" / "tandem.test.yaml"
# Put on every series by the scrape configuration, or by histograms.
SCRAPE_LABELS = {"job", "instance", "service", "le"}
# Fields of a log line that would hold what somebody asked, read or was told, or a secret.
TEXT_FIELDS = {
    "question",
    "query",
    "text",
    "texts",
    "prompt",
    "passage",
    "passages",
    "answer",
    "quote",
    "token",
    "title",
}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)"
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names(expression: str) -> tuple[set[str], set[str]]:
    """Returns the series and the labels that an expression names."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    selectors = re.findall(r"\{([^}]*)\}", bare)
    groupings = re.findall(r"\bby \(([^)]*)\)", bare)
    labels = {found for part in selectors for found in re.findall(r"(\w+)\s*[=!]", part)}
    labels |= {word.strip() for part in groupings for word in part.split(",")}
    rest = re.sub(r"\{[^}]*\}|\bby \([^)]*\)|\[[^\]]*\]", " ", bare)
    return set(re.findall(r"\b(?:tandem_\w+|rpc_\w+|gen_ai_\w+|up)\b", rest)), labels


def declared_metrics() -> Iterator[telemetry.Metric]:
    yield from telemetry.rpc_metrics()
    for service in telemetry.SERVICES:
        yield from telemetry.metrics(service)


def undeclared(expression: str) -> set[str]:
    """Returns the series and labels of an expression that no code declares."""
    series, labels = names(expression)
    known = {name: metric for metric in declared_metrics() for name in metric.series}
    allowed = SCRAPE_LABELS.union(*(known[name].labels for name in series if name in known))
    return (series - set(known) - telemetry.FOREIGN_SERIES) | (labels - allowed)


def promtool_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_the_telemetry_page_is_what_the_code_says() -> None:
    assert telemetry.main(["--check"]) == 0


def test_a_stale_page_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "telemetry.md"
    page.write_text("old\n")
    assert telemetry.reconcile(page, "new\n", check=True) == 1
    assert "+new" in capsys.readouterr().err
    assert telemetry.reconcile(page, "new\n", check=False) == 0
    assert telemetry.reconcile(page, "new\n", check=True) == 0


def test_metric_names_follow_the_convention() -> None:
    for service in telemetry.SERVICES:
        for metric in telemetry.metrics(service):
            assert metric.name.startswith(f"tandem_{service}_"), metric.name
            assert metric.help.endswith("."), metric.name
            assert metric.kind != "histogram" or metric.buckets, metric.name
            assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name


def test_labels_hold_no_ids() -> None:
    for metric in declared_metrics():
        if metric.name == "tandem_generator_tenant_tokens_total":
            continue  # The one metric for which an operator must tell tenants apart: who uses how much of the engine.
        assert not {"tenant", "subject", "user", "group", "adapter_sha256"} & set(metric.labels), metric.name
        assert not [label for label in metric.labels if label.endswith("_id")], metric.name


def test_spans_are_named_after_their_service() -> None:
    for service in telemetry.SERVICES:
        for name, meaning in telemetry.spans(service).items():
            assert name.startswith(f"{service}."), name
            assert meaning.endswith("."), name


def test_log_lines_have_constant_messages_and_no_text() -> None:
    lines = [line for folder in ("tandem", "services") for line in telemetry.log_lines(ROOT / folder)]
    assert lines
    for line in lines:
        assert not line.message.startswith("("), f"{line.module} builds a message: {line.message}"
        assert not TEXT_FIELDS & set(line.fields), line


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert dashboards.main(["--check"]) == 0


def test_the_dashboard_names_only_what_is_declared() -> None:
    panels = json.loads(dashboards.FILE.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert shown == dashboards.expressions()
    assert {expression: found for expression in shown if (found := undeclared(expression))} == {}


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads(dashboards.FILE.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_alerts_name_only_what_is_declared() -> None:
    assert {rule["alert"]: found for rule in rules() if (found := undeclared(rule["expr"]))} == {}


def test_rule_tests_feed_only_what_is_declared() -> None:
    series = [row["series"] for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for row in test["input_series"]]
    assert {row: found for row in series if (found := undeclared(row))} == {}


def test_every_alert_is_tested_and_explained() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    tested = {row["alertname"] for test in tests for row in test["alert_rule_test"] if row["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_an_undeclared_name_would_be_noticed() -> None:
    assert undeclared('sum by (colour) (rate(tandem_router_guesses_total{policy="x"}[5m]))') == {
        "tandem_router_guesses_total",
        "policy",
        "colour",
    }
    assert undeclared("rate(tandem_router_stage_seconds[5m])") == {"tandem_router_stage_seconds"}


def test_the_scrape_configuration_knows_every_service() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {row["labels"]["service"]: row["targets"] for row in job["static_configs"]}
    assert set(targets) == set(telemetry.SERVICES)
    for service, (target,) in targets.items():
        declared = getattr(import_module(f"services.{service}.config"), f"{service.capitalize()}Config")
        assert declared.__dataclass_fields__["metrics_listen"].default == target


@promtool
def test_promtool_accepts_rules_and_configuration() -> None:
    for command, path in (("rules", RULES), ("config", FOLDER / "prometheus.yaml")):
        done = promtool_run("check", command, path)
        assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_alerts_fire_when_they_should() -> None:
    done = promtool_run("test", "rules", RULE_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{index}", "expr": expression.replace("$__rate_interval", "5m")}
        for index, expression in enumerate(dashboards.expressions())
    ]
    path = tmp_path / "dashboard.rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    done = promtool_run("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
