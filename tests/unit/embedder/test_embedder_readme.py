"""The embedder's README and the code name the same knobs, metrics and spans."""

import dataclasses
import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.embedder.config import EmbedderConfig
from services.embedder.metrics import SPANS, EmbedderMetrics
from tandem.config import ServerConfig, describe, load

README = (Path(__file__).parents[3] / "services/embedder/README.md").read_text()


def test_the_defaults_are_a_valid_configuration() -> None:
    assert load(EmbedderConfig, "EMBEDDER", {}).listen.endswith(":7701")


def test_lists_every_knob_with_its_default() -> None:
    shared = {field.name for field in dataclasses.fields(ServerConfig)}
    own = {
        knob.variable: knob.default
        for knob in describe(EmbedderConfig, "EMBEDDER")
        if knob.variable.removeprefix("EMBEDDER_").lower() not in shared
    }
    listed = dict(re.findall(r"^\| `(EMBEDDER_\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    assert listed == own


def test_lists_every_metric_and_span() -> None:
    registry = CollectorRegistry()
    EmbedderMetrics(registry)
    declared = {
        family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()
    } | SPANS.keys()
    listed = set(re.findall(r"^\| `(tandem_embedder_\w+|embedder\.\w+)` \|", README, re.MULTILINE))
    assert listed == declared
