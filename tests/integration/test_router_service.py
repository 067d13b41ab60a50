"""The router over real gRPC, among scripted peers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.router.metrics import SPANS, STAGES
from tandem import errors
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.v1 import audit_service_pb2, router_service_pb2
from tandem.v1.audit_service_pb2_grpc import AuditServiceStub
from tandem.v1.router_service_pb2_grpc import RouterServiceStub
from tests.fakes.calibration import document as a_calibration
from tests.fakes.router import EMBEDDER_SHA256, NEVER, FakeEmbedder, FakeRetriever, Script, World, Written
from tests.fakes.router_peers import TOKENS, Seen, stack
from tests.fakes.rpc_hosting import recording

Step = router_service_pb2.DecisionStep
Outcome = audit_service_pb2.AuditRecord
QUESTION = "What is the excess for collision?"


@asynccontextmanager
async def router(address: str, token: str = "alice") -> AsyncIterator[RouterServiceStub]:
    async with connect(address, token=token, default_timeout_s=20) as channel:
        await channel.channel_ready()
        yield RouterServiceStub(channel)


async def outcomes(address: str, token: str = "erin") -> list[int]:
    async with connect(address, token=token) as channel:
        await channel.channel_ready()
        listed = await AuditServiceStub(channel).ListAuditRecords(audit_service_pb2.ListAuditRecordsRequest())
    return [record.outcome for record in listed.records if record.kind == Outcome.KIND_CLOSED]


async def events_of(stub: RouterServiceStub, **request: object) -> list[router_service_pb2.StreamAskResponse]:
    asked = router_service_pb2.AskRequest(**{"question": QUESTION, **request})
    return [event async for event in stub.StreamAsk(router_service_pb2.StreamAskRequest(request=asked))]


def ask(**request: object) -> router_service_pb2.AskRequest:
    return router_service_pb2.AskRequest(**{"question": QUESTION, **request})


async def refused(awaitable: object) -> errors.TandemError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def test_rag_answers_with_citations_lineage_and_timings(tmp_path: Path):
    world, seen = World(), Seen()
    async with stack(world, tmp_path, seen=seen) as address, router(address) as stub:
        answer = (await stub.Ask(ask(policy="rag"))).answer
    assert answer.text == "The excess for collision is EUR 500."
    (citation,) = answer.citations
    assert citation.quote == answer.text
    assert citation.document_span.end - citation.document_span.start == len(citation.quote)
    assert (citation.document_id, citation.chunk_id, citation.page) == ("motor", "motor-0", 3)
    assert answer.decision.route == router_service_pb2.ROUTE_RAG
    assert answer.decision.rewritten_question == QUESTION
    assert answer.lineage.adapter == "reading"
    assert 0 < answer.confidence.value <= 1
    assert [timing.stage for timing in answer.timings][-1] == "total"
    assert {timing.stage for timing in answer.timings} <= set(STAGES)
    assert len(world.embedder.texts) == 1
    assert world.retriever.queries[0][1] is not None
    # Everyone was asked on alice's behalf, each with less time than the one before had.
    ((_, vector),) = world.retriever.queries
    assert vector.model_sha256 == EMBEDDER_SHA256
    assert seen.callers == dict.fromkeys(("embedder", "retriever", "generator"), TOKENS["alice"])
    assert all(left < 20 for left in seen.seconds_left.values())
    assert seen.seconds_left["embedder"] < seen.seconds_left["retriever"] < seen.seconds_left["generator"]


async def test_a_stream_has_started_first_and_finished_last(tmp_path: Path):
    world = World()
    world.generator.sequences["answers"].mean_logprob = -2.0
    async with stack(world, tmp_path) as address, router(address) as stub:
        events = await events_of(stub)
        closed = await outcomes(address)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("finished") == kinds.count("started") == 1
    escalated = next(
        at
        for at, event in enumerate(events)
        if event.HasField("decision") and event.decision.kind == Step.KIND_ESCALATE
    )
    assert "delta" in kinds[:escalated]
    answer = events[-1].finished.answer
    assert "".join(event.delta.text for event in events[escalated:]).strip() == answer.text
    assert kinds.index("sources") > escalated
    steps = [event.decision for event in events if event.HasField("decision")]
    assert steps == list(answer.decision.steps)
    assert answer.answer_id == events[0].started.answer_id
    assert closed == [Outcome.OUTCOME_ANSWERED]


async def test_an_abstained_answer_says_so_without_confidence(tmp_path: Path):
    world = World(retriever=FakeRetriever(passages=()))
    async with stack(world, tmp_path) as address, router(address) as stub:
        answer = (await stub.Ask(ask(policy="rag"))).answer
        assert await outcomes(address) == [Outcome.OUTCOME_ABSTAINED]
    assert answer.abstained
    assert answer.text
    assert not answer.HasField("confidence")
    assert answer.decision.steps[-1].kind == Step.KIND_ABSTAIN


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"question": ""}, "question"),
        ({"question": " \n "}, "question"),
        ({"question": "x" * 4097}, "question"),
        ({"max_passages": 0}, "max_passages"),
        ({"max_passages": 21}, "max_passages"),
        ({"max_passages": -1}, "max_passages"),
        ({"history": [router_service_pb2.Turn(question="a")] * 17}, "history"),
        ({"history": [router_service_pb2.Turn(question="")]}, "history[0].question"),
        ({"history": [router_service_pb2.Turn(question="a", answer="b" * 8193)]}, "history[0].answer"),
        ({"as_of": Timestamp(seconds=10**14)}, "as_of"),
        ({"as_of": Timestamp(nanos=-5)}, "as_of"),
        ({"policy": "oracle"}, "policy"),
        ({"policy": "x" * 5000}, "policy"),
    ],
)
async def test_a_faulty_field_is_named(tmp_path: Path, request_: dict[str, object], field: str):
    async with stack(World(), tmp_path) as address, router(address) as stub:
        error = await refused(stub.Ask(ask(**request_)))
        streamed = await refused(events_of(stub, **request_))
        assert await outcomes(address) == []
    for one in (error, streamed):
        assert isinstance(one, errors.InvalidInput)
        assert [violation.field for violation in one.violations] == [field]


async def test_an_unknown_policy_lists_the_known(tmp_path: Path):
    async with stack(World(), tmp_path) as address, router(address) as stub:
        error = await refused(stub.Ask(ask(policy="oracle")))
        listed = await stub.ListPolicies(router_service_pb2.ListPoliciesRequest())
    known = ["auto", "cascade", "dual", "ensemble", "finetuned", "rag"]
    assert ", ".join(known) in str(error)
    assert [policy.name for policy in listed.policies] == known
    assert listed.default_policy == "cascade"


async def test_asking_needs_the_role_user(tmp_path: Path):
    async with stack(World(), tmp_path) as address, router(address, "mute") as stub:
        assert (await refused(stub.Ask(ask()))).code == "PERMISSION_DENIED"


async def test_without_the_adapter_finetuned_is_a_failed_precondition(tmp_path: Path):
    world = World()
    world.generator.loaded = frozenset()
    async with stack(world, tmp_path) as address, router(address) as stub:
        error = await refused(stub.Ask(ask(policy="finetuned")))
        assert await outcomes(address) == [Outcome.OUTCOME_FAILED]
        answer = (await stub.Ask(ask(policy="cascade"))).answer
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ADAPTER_NOT_LOADED")
    assert answer.decision.steps[1].kind == Step.KIND_ESCALATE
    assert "answers" in answer.decision.steps[1].reason
    assert answer.lineage.adapter == ""


async def test_missing_parts_are_named(tmp_path: Path):
    down = errors.Unavailable("loading")
    world = World(embedder=FakeEmbedder(error=down))
    async with stack(world, tmp_path) as address, router(address) as stub:
        by_words = (await stub.Ask(ask(policy="rag"))).answer
        world.generator.listing = Script(error=down)
        quoted = (await stub.Ask(ask(policy="rag"))).answer
        alone = await refused(stub.Ask(ask(policy="finetuned")))
        world.retriever.error = down
        nothing = await refused(stub.Ask(ask(policy="cascade")))
    assert [note.component for note in by_words.degraded] == ["embedder"]
    assert [note.component for note in quoted.degraded] == ["embedder", "generator"]
    assert quoted.citations[0].quote == quoted.text
    assert not quoted.HasField("confidence")
    assert (alone.code, alone.metadata["component"]) == ("UNAVAILABLE", "generator")
    assert (nothing.code, nothing.metadata["component"]) == ("UNAVAILABLE", "retriever")


async def test_a_peer_that_nobody_serves_counts_as_down(tmp_path: Path):
    async with (
        stack(World(), tmp_path, embedder_target="127.0.0.1:1") as address,
        router(address) as stub,
    ):
        answer = (await stub.Ask(ask(policy="rag"))).answer
    assert [note.component for note in answer.degraded] == ["embedder"]


async def test_a_question_longer_than_the_model_reads_is_the_callers_fault(tmp_path: Path):
    world = World()
    long = errors.InvalidInput("9000 tokens", reason="PROMPT_TOO_LONG")
    for name in ("answers", "reading"):
        world.generator.sequences[name] = Written(max_characters=5, too_long=long)
    async with stack(world, tmp_path) as address, router(address) as stub:
        for policy in ("finetuned", "rag", "cascade"):
            error = await refused(stub.Ask(ask(policy=policy)))
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "QUESTION_TOO_LONG")


async def test_a_caller_who_leaves_frees_the_generator_and_is_recorded(tmp_path: Path):
    world = World()
    world.generator.sequences["answers"].delay_s = NEVER
    async with stack(world, tmp_path) as address, router(address) as stub:
        call = stub.StreamAsk(router_service_pb2.StreamAskRequest(request=ask(policy="finetuned")))
        assert (await call.read()).HasField("started")
        await world.generator.running.wait()
        call.cancel()
        async with asyncio.timeout(10):
            while (closed := await outcomes(address)) == []:
                pass
            await world.generator.idle.wait()
    assert closed == [Outcome.OUTCOME_CANCELLED]


async def test_a_deadline_ends_the_answer_with_its_status(tmp_path: Path):
    world = World()
    world.generator.sequences["answers"].delay_s = NEVER
    async with stack(world, tmp_path) as address, router(address) as stub:
        error = await refused(stub.Ask(ask(policy="finetuned"), timeout=0.5))
        async with asyncio.timeout(10):
            while (closed := await outcomes(address)) == []:
                pass
    assert error.code == "DEADLINE_EXCEEDED"
    assert closed == [Outcome.OUTCOME_FAILED]


async def test_more_answers_than_allowed_are_refused_with_a_time_to_retry(tmp_path: Path):
    world = World()
    world.generator.sequences["answers"].delay_s = NEVER
    limits = {"max_concurrent_answers": 1, "max_waiting_answers": 0}
    async with stack(world, tmp_path, **limits) as address, router(address) as stub:
        first = stub.Ask(ask(policy="finetuned"))
        asking = asyncio.ensure_future(first)
        await world.generator.running.wait()
        error = await refused(stub.Ask(ask(policy="finetuned")))
        asking.cancel()
        await asyncio.wait({asking})
    assert isinstance(error, errors.Overloaded)
    assert error.retry_after_s > 0


async def test_a_follow_up_goes_on_in_its_self_contained_form(tmp_path: Path):
    world = World()
    turns = [router_service_pb2.Turn(question="What is the excess for collision in Halden Motor?", answer="EUR 500.")]
    async with stack(world, tmp_path) as address, router(address) as stub:
        events = await events_of(stub, question="And for motorcycles?", history=turns, policy="rag")
    rewritten = events[0].started.rewritten_question
    assert "Halden Motor" in rewritten
    assert "motorcycles" in rewritten
    assert world.retriever.queries[0][0] == world.embedder.texts[0] == rewritten
    assert events[-1].finished.answer.decision.rewritten_question == rewritten


async def test_spans_are_those_declared_and_hold_no_text(tmp_path: Path):
    spans = InMemorySpanExporter()
    (tmp_path / "claims.toml").write_text('calibration = "scope.json"')
    (tmp_path / "scope.json").write_text(json.dumps(a_calibration()))
    async with (
        stack(World(), tmp_path, telemetry=recording("router", spans), domains_dir=tmp_path) as address,
        router(address) as stub,
    ):
        for policy in ("rag", "dual", "ensemble"):
            await stub.Ask(ask(domain="claims", policy=policy))
    own = [span for span in spans.get_finished_spans() if span.name.startswith("router.")]
    assert {span.name for span in own} == set(SPANS)
    assert all("excess" not in str(span.attributes) + str(span.events) for span in spans.get_finished_spans())


async def test_many_at_once_each_get_their_own_answer(tmp_path: Path):
    async with stack(World(), tmp_path) as address, router(address) as stub:
        answers = await asyncio.gather(*(stub.Ask(ask(policy="cascade")) for _ in range(24)))
        closed = await outcomes(address)
    assert len({response.answer.answer_id for response in answers}) == 24
    assert closed == [Outcome.OUTCOME_ANSWERED] * 24
