"""The router over real gRPC among peers that are the fakes of tests/fakes/router.py behind real servicers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.router.__main__ import build
from services.router.config import RouterConfig
from services.router.domain import Generated, LabelCondition, Prompt, QueryVector
from tandem.config import ServerConfig
from tandem.prompts import Message
from tandem.rpc import call
from tandem.rpc.server import App, Service, serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import common_pb2, embedder_service_pb2, generator_service_pb2, retriever_service_pb2
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceServicer, add_EmbedderServiceServicer_to_server
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceServicer, add_GeneratorServiceServicer_to_server
from tandem.v1.retriever_service_pb2_grpc import RetrieverServiceServicer, add_RetrieverServiceServicer_to_server
from tests.fakes.router import World
from tests.fakes.rpc_peer import KnownTokens

TOKENS = {
    "alice": Principal("alice", "halden", frozenset(), frozenset({"user"})),
    "erin": Principal("erin", "halden", frozenset({"claims-leads"}), frozenset({"user", "editor", "auditor"})),
    "bea": Principal("bea", "brightwater", frozenset(), frozenset({"user", "editor", "auditor"})),
    "mute": Principal("mute", "halden", frozenset(), frozenset()),
    "router": Principal("router", "tandem", frozenset(), frozenset({"service"})),
}


@dataclass
class Seen:
    """Is what the peers saw: who asked through the router, and what was left of the deadline."""

    callers: dict[str, Principal] = field(default_factory=dict)
    seconds_left: dict[str, float] = field(default_factory=dict)

    def note(self, peer: str) -> None:
        """Keeps the current call's principal and deadline."""
        self.callers[peer] = call.principal()
        left = call.remaining()
        if left is not None:
            self.seconds_left[peer] = left


class _Embedder(EmbedderServiceServicer):
    def __init__(self, world: World, seen: Seen) -> None:
        self._world, self._seen = world, seen

    async def Embed(self, request: Any, context: Any) -> Any:
        self._seen.note("embedder")
        vectors = [await self._world.embedder.embed(text, timeout_s=30) for text in request.texts]
        return embedder_service_pb2.EmbedResponse(
            embeddings=[embedder_service_pb2.Embedding(values=vector.values) for vector in vectors],
            lineage=common_pb2.Lineage(model_sha256=vectors[0].model_sha256),
        )


class _Retriever(RetrieverServiceServicer):
    def __init__(self, world: World, seen: Seen) -> None:
        self._world, self._seen = world, seen

    async def Search(self, request: Any, context: Any) -> Any:
        self._seen.note("retriever")
        sparse = request.mode == retriever_service_pb2.SEARCH_MODE_SPARSE
        found = await self._world.retriever.search(
            request.query,
            vector=None if sparse else QueryVector(tuple(request.query_vector), request.query_model_sha256),
            top_k=request.top_k,
            as_of=None,
            documents=[LabelCondition(one.key, tuple(one.values), one.excluded) for one in request.filter.attributes],
            snapshot=request.snapshot,
            timeout_s=30,
        )
        return retriever_service_pb2.SearchResponse(
            passages=[
                common_pb2.Passage(
                    document_id=passage.document_id,
                    chunk_id=passage.chunk_id,
                    title=passage.title,
                    text=passage.text,
                    span=common_pb2.TextSpan(start=passage.span.start, end=passage.span.end),
                    score=passage.score,
                    page=3,
                )
                for passage in found
            ]
        )


class _Generator(GeneratorServiceServicer):
    def __init__(self, world: World, seen: Seen) -> None:
        self._world, self._seen = world, seen

    async def StreamGenerate(self, request: Any, context: Any) -> Any:
        self._seen.note("generator")
        wanted = request.request
        response = generator_service_pb2.StreamGenerateResponse
        most = wanted.sampling.max_tokens
        if wanted.HasField("blend"):
            prompts = [Prompt(_messages(one.chat), one.adapter, one.weight) for one in wanted.blend.prompts]
            events = self._world.generator.blend(prompts, max_tokens=most, timeout_s=30)
        else:
            chat = _messages(wanted.chat)
            events = self._world.generator.generate(chat, adapter=wanted.adapter, max_tokens=most, timeout_s=30)
        async for event in events:
            lineage = common_pb2.Lineage(**vars(event.lineage)) if event.lineage is not None else None
            if isinstance(event, Generated):
                usage = common_pb2.Usage(input_tokens=event.usage.input_tokens, output_tokens=event.usage.output_tokens)
                yield response(
                    finished=generator_service_pb2.GenerationFinished(
                        finish_reason=generator_service_pb2.FINISH_REASON_STOP,
                        lineage=lineage,
                        usage=usage,
                        mean_logprob=event.mean_logprob,
                    )
                )
            elif event.text:
                yield response(delta=generator_service_pb2.GenerationDelta(text=event.text))
            else:
                yield response(started=generator_service_pb2.GenerationStarted(lineage=lineage))

    async def ListAdapters(self, request: Any, context: Any) -> Any:
        names = sorted(await self._world.generator.adapters(timeout_s=30))
        return generator_service_pb2.ListAdaptersResponse(
            adapters=[generator_service_pb2.Adapter(name=name) for name in names]
        )


def _messages(chat: Any) -> list[Message]:
    return [Message(message.role, message.content) for message in chat.messages]


def peer_apps(world: World, seen: Seen) -> dict[str, App]:
    """Returns the three peers by name."""
    peers = {
        "embedder": (_Embedder(world, seen), add_EmbedderServiceServicer_to_server),
        "retriever": (_Retriever(world, seen), add_RetrieverServiceServicer_to_server),
        "generator": (_Generator(world, seen), add_GeneratorServiceServicer_to_server),
    }
    return {
        name: App(
            services=[
                Service(f"tandem.v1.{name.capitalize()}Service", lambda server, s=servicer, a=add: a(s, server))  # type: ignore[misc]
            ]
        )
        for name, (servicer, add) in peers.items()
    }


@asynccontextmanager
async def routing(
    targets: Mapping[str, str], folder: Path, *, telemetry: Telemetry | None = None, **config: Any
) -> AsyncIterator[str]:
    """Serves the router before peers at these addresses, by name; yields its own."""
    credential = folder / "router.token"
    credential.write_text("router\n")
    settings = RouterConfig(
        **{
            "listen": "127.0.0.1:0",
            "audit_url": f"sqlite:///{folder}/audit.db",
            "credential_file": credential,
            "adapter_cache_seconds": 0.0,
            "drain_seconds": 2.0,
            **{f"{name}_target": address for name, address in targets.items()},
            **config,
        }
    )
    own = telemetry or Telemetry("router")
    async with serving(await build(settings, own), settings, own, authenticator=KnownTokens(TOKENS)) as address:
        yield address


@asynccontextmanager
async def stack(
    world: World, folder: Path, *, seen: Seen | None = None, telemetry: Telemetry | None = None, **config: Any
) -> AsyncIterator[str]:
    """Serves the three peers and the router before them; yields the router's address."""
    async with AsyncExitStack() as running:
        targets = {}
        for name, app in peer_apps(world, seen or Seen()).items():
            host = serving(app, ServerConfig(drain_seconds=1), Telemetry(name), authenticator=KnownTokens(TOKENS))
            targets[name] = await running.enter_async_context(host)
        yield await running.enter_async_context(routing(targets, folder, telemetry=telemetry, **config))
