"""What the router's page says is what the router has."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from services.router.config import POLICY_NAMES, RouterConfig
from services.router.metrics import SPANS, STAGES, RouterMetrics
from services.router.policies import build
from tandem.config import ServerConfig, describe, load

PAGE = (Path(__file__).parents[3] / "services" / "router" / "README.md").read_text()


def test_every_metric_is_on_the_page():
    registry = CollectorRegistry()
    RouterMetrics(registry)
    counters = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()}
    assert [name for name in sorted(counters) if f"`{name}`" not in PAGE] == []


def test_every_knob_of_its_own_is_on_the_page():
    shared = {knob.variable for knob in describe(ServerConfig, "ROUTER")}
    own = [knob.variable for knob in describe(RouterConfig, "ROUTER") if knob.variable not in shared]
    missing = [name for name in own if name.removeprefix("ROUTER") not in PAGE]
    assert missing == []


def test_the_configured_policies_are_the_built_ones():
    assert tuple(build(pattern=lambda _: "cascade")) == POLICY_NAMES
    assert load(RouterConfig, "ROUTER", {}).default_policy in POLICY_NAMES


def test_every_stage_but_the_total_has_a_span():
    assert {f"router.{stage}" for stage in STAGES if stage != "total"} <= set(SPANS)
