"""The generator's README and the code name the same knobs, metrics and spans."""

import dataclasses
import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.generator.config import GeneratorConfig
from services.generator.metrics import SPANS, GeneratorMetrics
from tandem.config import ServerConfig, describe, load

README = (Path(__file__).parents[3] / "services/generator/README.md").read_text()


def test_the_defaults_are_a_valid_configuration() -> None:
    assert load(GeneratorConfig, "GENERATOR", {}).listen.endswith(":7703")


def test_lists_every_knob_with_its_default() -> None:
    shared = {field.name for field in dataclasses.fields(ServerConfig)}
    own = {
        knob.variable: knob.default
        for knob in describe(GeneratorConfig, "GENERATOR")
        if knob.variable.removeprefix("GENERATOR_").lower() not in shared
    }
    listed = dict(re.findall(r"^\| `(GENERATOR_\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    assert listed == own


def test_lists_every_metric_and_span() -> None:
    registry = CollectorRegistry()
    GeneratorMetrics(registry)
    declared = {
        family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()
    } | SPANS.keys()
    listed = set(re.findall(r"^\| `(tandem_generator_\w+|generator\.\w+)` \|", README, re.MULTILINE))
    assert listed == declared
