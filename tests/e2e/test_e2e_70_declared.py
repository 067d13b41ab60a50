"""What the services declare they emit, and what they emitted to the end of all the tests before."""

import importlib
import json
import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tandem import telemetry
from tests.e2e.stack import COMPANY, HEALTH, Stack
from tests.fakes.otlp_receiver import Receiver

GRPC_CORE = re.compile(r"[EWI]\d{4} \d\d:\d\d:")


def declared(owner: object) -> set[str]:
    """The metric families among an object's attributes."""
    return {item._name for item in vars(owner).values() if hasattr(item, "_labelnames")}


def emitted(stack: Stack, service: str) -> set[str]:
    """The metric families of ours that a service ever showed with a value."""
    families = (family for text in stack.scraped(service) for family in text_string_to_metric_families(text))
    names = {family.name for family in families if family.samples and family.name.startswith(("tandem_", "rpc_"))}
    return {name for name in names if not name.endswith("_created")}


@pytest.mark.parametrize("service", HEALTH)
def test_every_declared_metric_is_emitted(stack: Stack, service: str) -> None:
    module = importlib.import_module(f"services.{service}.metrics")
    own = declared(getattr(module, f"{service.capitalize()}Metrics")(CollectorRegistry()))
    shared = declared(telemetry.RpcMetrics(CollectorRegistry()))
    seen = emitted(stack, service)
    assert own
    assert not own - seen, f"{service} declares and never emitted: {', '.join(sorted(own - seen))}"
    assert not seen - own - shared, f"{service} emitted and never declared: {', '.join(sorted(seen - own - shared))}"


def test_every_metric_of_the_shared_library_is_emitted(stack: Stack) -> None:
    shared = declared(telemetry.RpcMetrics(CollectorRegistry()))
    missing = shared - set().union(*(emitted(stack, service) for service in HEALTH))
    assert not missing, f"declared and never emitted: {', '.join(sorted(missing))}"


def test_no_label_holds_an_id_and_one_metric_alone_a_tenant(stack: Stack) -> None:
    """Tenants share one generator, so an operator must see who uses how much of it; nothing else tells them apart."""
    words = re.compile(r"halden|brightwater|noise|library|alice|erin|bram|[0-9a-f]{32}|doc-\d|crash-")
    for service in HEALTH:
        for text in stack.scraped(service):
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if family.name.startswith("tandem_generator_tenant_tokens"):  # and the time it was created
                        continue
                    assert not words.search(" ".join(sample.labels.values())), sample


def test_every_declared_span_was_sent(stack: Stack, spans: Receiver) -> None:
    names = {name for service in HEALTH for name in importlib.import_module(f"services.{service}.metrics").SPANS}
    sent = {span.name for span in spans.wait_for(lambda seen: names <= {s.name for s in seen}, timeout_s=15)}
    assert not names - sent
    own = {name for name in sent if not name.startswith("tandem.v1.")}
    assert not own - names, "spans that nobody declared"


def test_nothing_that_was_said_is_in_logs_spans_or_metrics(stack: Stack, spans: Receiver, demo: list[dict]) -> None:
    said = {row["question"] for row in demo} | {
        "windscreen replacement is",
        "quokka",
        "secret word",
        "The ferry leaves",
    }
    said |= {turn["answer"] for row in demo for turn in row["history"]}
    lines = (COMPANY / "documents/halden/halden-claims-motor.md").read_text().splitlines()
    said |= {line for line in lines if len(line) > 60}
    texts = {"logs": stack.logs(), "spans": "\n".join(span.text for span in spans.spans())}
    texts |= {f"metrics of {service}": text for service in HEALTH for text in stack.scraped(service)}
    leaks = [f"{where}: {words}" for where, text in texts.items() for words in said if words in text]
    assert not leaks


def test_every_log_line_is_json_and_nothing_was_a_bug(stack: Stack) -> None:
    bugs = []
    for line in stack.logs().splitlines():
        if GRPC_CORE.match(line):  # gRPC's own words as a process is killed, past our formatter
            continue
        row = json.loads(line)
        assert set(telemetry.LOG_FIELDS) - {"trace_id", "span_id", "exception"} <= set(row), line
        if row["message"] == "unhandled failure" or "exception" in row:
            bugs.append(line[:2000])
    assert not bugs, "\n".join(bugs[:10])
