"""Ground over real gRPC, and `tandem evaluate grounding` on it: what goes in, what comes out, what is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from evaluation.cli import app
from services.router.domain.domains import Depth
from tandem.errors import InvalidInput
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.security import Principal
from tandem.v1 import generator_service_pb2, router_service_pb2
from tandem.v1.router_service_pb2_grpc import RouterServiceStub
from tests.fakes.router_ground import Peers, grounding_router
from tests.fakes.rpc_peer import TOKENS

Request, Status = router_service_pb2.GroundRequest, router_service_pb2.Groundedness
PASSAGES = ["Nothing of note.", "A single journey is insured for its first 45 days. Business trips are not insured."]
TRUE, FALSE = "A single journey is insured for 45 days.", "A single journey is insured for 54 days."


async def ground(peers: Peers | None = None, *, default: Depth = Depth.WORDS, **changes: Any) -> Any:
    fields = {"question": "How long?", "answer": TRUE, "passages": PASSAGES} | changes
    async with grounding_router(peers or Peers(), depth=default) as address:
        async with connect(address, token="alice-token") as channel:
            return (await RouterServiceStub(channel).Ground(Request(**fields))).groundedness


async def test_an_answer_is_judged_and_its_support_is_a_place_in_the_passages():
    found = await ground()
    (sentence,) = found.sentences
    assert found.status == Status.STATUS_MEASURED
    assert (sentence.support.document_id, sentence.support.chunk_id) == ("1", "1")
    span = sentence.support.document_span
    assert PASSAGES[1][span.start : span.end] == sentence.support.quote
    assert "45 days" in sentence.support.quote
    assert found.value > 0.5 > (await ground(answer=FALSE)).value


@pytest.mark.parametrize(
    ("depth", "rests_on", "status"),
    [
        (router_service_pb2.GROUNDING_DEPTH_UNSPECIFIED, ["lexical", "embedding"], Status.STATUS_MEASURED),
        (router_service_pb2.GROUNDING_DEPTH_WORDS, ["lexical"], Status.STATUS_MEASURED),
        (router_service_pb2.GROUNDING_DEPTH_VECTORS, ["lexical", "embedding"], Status.STATUS_MEASURED),
        (
            router_service_pb2.GROUNDING_DEPTH_LIKELIHOOD,
            ["lexical", "embedding", "likelihood"],
            Status.STATUS_MEASURED,
        ),
        (router_service_pb2.GROUNDING_DEPTH_ENTAILMENT, ["lexical", "embedding", "likelihood"], Status.STATUS_PARTIAL),
    ],
)
async def test_each_depth_asks_its_peers_over_the_wire(depth: Any, rests_on: list[str], status: Any):
    found = await ground(default=Depth.VECTORS, depth=depth)
    assert (list(found.rests_on), found.status) == (rests_on, status)
    absent = [(one.signal, one.reason) for one in found.absent]
    assert absent == ([("entailment", "FAILED_PRECONDITION FAILED_PRECONDITION")] if status == 2 else [])


async def test_a_classifier_takes_the_place_of_the_rest_where_the_embedder_has_one():
    found = await ground(Peers(classifies=True), default=Depth.ENTAILMENT, answer="Business trips are not insured.")
    assert (list(found.rests_on), found.value, found.version) == (["entailment"], 1.0, "c" * 64)


async def test_the_likelihood_is_of_the_base_model_and_for_a_person_who_waits():
    peers = Peers()
    await ground(peers, default=Depth.LIKELIHOOD)
    (request,) = peers.scored
    assert (request.adapter, request.include_token_logprobs) == ("", True)
    assert request.priority == generator_service_pb2.PRIORITY_INTERACTIVE
    told, guessed = (item.chat.messages[-1].content for item in request.items)
    assert PASSAGES[1] in told
    assert PASSAGES[1] not in guessed


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"question": "a" * 4097}, "question"),
        ({"answer": ""}, "answer"),
        ({"answer": "a" * 8193}, "answer"),
        ({"passages": []}, "passages"),
        ({"passages": ["a"] * 21}, "passages"),
        ({"passages": ["a", ""]}, "passages[1]"),
        ({"passages": ["a" * 65_537]}, "passages[0]"),
        ({"passages": ["a" * 65_536, "a" * 65_536, "a"]}, "passages"),
        ({"depth": 9}, "depth"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_by_its_field(changes: dict[str, Any], field: str):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ground(**changes)
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidInput)
    assert [fault.field for fault in error.violations] == [field]


async def test_the_bounds_themselves_are_taken():
    assert (await ground(passages=["a b. " * 13_107, "a " * 32_768], answer="a" * 8192, question="a" * 4096)).sentences


async def test_without_the_role_nothing_is_judged():
    mute = TOKENS | {"mute-token": Principal("mute", "halden", frozenset(), frozenset())}
    async with grounding_router(Peers(), tokens=mute) as address:
        async with connect(address, token="mute-token") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await RouterServiceStub(channel).Ground(Request(answer="a", passages=["a"]))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def cases(path: Path) -> Path:
    rows = [{"context": PASSAGES, "answer": TRUE, "label": 1}, {"context": PASSAGES[1], "answer": FALSE, "label": 0}]
    path.write_text("\n".join(json.dumps(row | {"group": str(n)}) for n in range(3) for row in rows))
    return path


async def typed(home: Path, *words: str) -> Result:
    async with grounding_router(Peers()) as address:
        environment = {"TANDEM_ROUTER": address, "TANDEM_TOKEN": "alice-token", "TANDEM_HOME": str(home)}
        return await asyncio.to_thread(CliRunner().invoke, app, ["grounding", *words], env=environment)


async def test_labelled_files_are_measured_through_the_router(tmp_path: Path):
    one, two = cases(tmp_path / "One.jsonl"), cases(tmp_path / "two.jsonl")
    done = await typed(tmp_path, "--data", str(one), "--data", str(two), "--depth", "words,entailment", "--json")
    assert done.exception is None, done.output
    found = json.loads(done.stdout)
    assert list(found) == ["one", "two"]
    assert found["one"]["auroc"]["words"]["value"] == 1
    assert list(found["one"]["auroc"]) == ["length", "token overlap", "words", "entailment"]
    assert found["one"]["statuses"] == {"words": {"measured": 6}, "entailment": {"partial": 6}}
    folder = tmp_path / "evaluations" / "grounding-one"
    assert json.loads((folder / "grounding.json").read_text())["about"]["answers"] == 6
    page = (folder / "grounding.html").read_text()
    assert page.count("<svg") == 3
    assert "45 days" not in page


async def test_the_terminal_shows_a_table_and_where_the_report_is(tmp_path: Path):
    done = await typed(tmp_path, "--data", str(cases(tmp_path / "one.jsonl")))
    assert done.exception is None, done.output
    for said in ("one: 6 answers, 3 supported", "token overlap", "words", "grounding-one"):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--depth", "deep"], "takes words"), (["--data", "{file}"], "two files have the same name")],
)
async def test_what_cannot_be_measured_is_said_before_anything_is_asked(tmp_path: Path, words: list[str], told: str):
    file = str(cases(tmp_path / "one.jsonl"))
    done = await typed(tmp_path, "--data", file, *(word.format(file=file) for word in words))
    assert isinstance(done.exception, InvalidInput)
    assert told in str(done.exception.violations)
