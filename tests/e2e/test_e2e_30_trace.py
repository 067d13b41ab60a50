"""One answer is one trace over all processes, and nothing that was said is in it."""

import secrets

import pytest

from tandem.v1 import router_service_pb2 as router
from tandem.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.stack import Stack
from tests.fakes.otlp_receiver import Receiver, Seen

MARK = "zyxwvut"
HOPS = {
    "finetuned": {
        ("tandem-router", "tandem.v1.RouterService/StreamAsk"),
        ("tandem-generator", "tandem.v1.GeneratorService/StreamGenerate"),
    },
}
HOPS["rag"] = HOPS["finetuned"] | {
    ("tandem-embedder", "tandem.v1.EmbedderService/Embed"),
    ("tandem-retriever", "tandem.v1.RetrieverService/Search"),
}


@pytest.mark.parametrize("policy", HOPS)
async def test_an_answer_is_one_trace(stack: Stack, spans: Receiver, policy: str) -> None:
    trace, root = secrets.token_hex(16), secrets.token_hex(8)
    ask = router.AskRequest(question=f"What does the {MARK} clause of Halden Motor say about weather?", policy=policy)
    async with stack.channel("router", "alice", default_timeout_s=120.0) as channel:
        call = RouterServiceStub(channel).StreamAsk(
            router.StreamAskRequest(request=ask), metadata=[("traceparent", f"00-{trace}-{root}-01")]
        )
        async for _ in call:
            pass

    def own(seen: list[Seen]) -> list[Seen]:
        return [span for span in seen if span.trace_id == trace]

    def complete(seen: list[Seen]) -> bool:
        return {(span.service, span.name) for span in own(seen)} >= HOPS[policy]

    mine = own(spans.wait_for(complete, timeout_s=30))
    assert {(span.service, span.name) for span in mine} >= HOPS[policy]
    ids = {span.span_id for span in mine}
    assert all(span.parent == root or span.parent in ids for span in mine)
    assert [span.name for span in mine if span.parent == root] == ["tandem.v1.RouterService/StreamAsk"]
    services = {span.span_id: span.service for span in mine}
    for span in mine:
        if span.name.startswith("tandem.v1.") and span.parent != root:
            assert services[span.parent] in ("tandem-router", "tandem-retriever")


def test_what_was_asked_is_nowhere(stack: Stack, spans: Receiver) -> None:
    assert not [span.name for span in spans.spans() if MARK in span.text]
    assert MARK not in stack.logs()
    for service in stack.metrics:
        assert MARK not in stack.scrape(service)
