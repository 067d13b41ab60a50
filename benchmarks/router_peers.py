"""Peers of the router that know their answer: the three services in one process, over gRPC, without any model.

    python -m benchmarks.router_peers --listen 127.0.0.1:7799 --embed-ms 8 --search-ms 20 --token-ms 30

Every question gets the same vector, the same passages and the same answer, streamed piece by piece. What a peer waits
is told on the command line; nothing else of it takes time worth speaking of.
"""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.runner import ROOT
from tandem.v1 import common_pb2, embedder_service_pb2, generator_service_pb2, retriever_service_pb2
from tandem.v1.embedder_service_pb2_grpc import EmbedderServiceServicer, add_EmbedderServiceServicer_to_server
from tandem.v1.generator_service_pb2_grpc import GeneratorServiceServicer, add_GeneratorServiceServicer_to_server
from tandem.v1.retriever_service_pb2_grpc import RetrieverServiceServicer, add_RetrieverServiceServicer_to_server

ANSWER = ("The", " notice", " period", " is", " fourteen", " days", " in", " writing", ".")
"""Pieces of the answer, one for each token."""
MEAN_LOGPROB = -0.4
"""Of the answer's tokens: 0.67 a token, under the cascade's threshold, so that it escalates."""
INPUT_TOKENS = 300
_DIMENSION = 384
_PASSAGES, _CHARACTERS = 3, 900
_STATEMENT = "The notice period is fourteen days; the notice is given in writing."
_DOCUMENTS = ROOT / "examples" / "company" / "documents" / "halden"


@dataclass(frozen=True)
class Waits:
    """Is how long each peer takes, in seconds; a token is one piece of the answer."""

    embed: float = 0.0
    search: float = 0.0
    token: float = 0.0


class _Embedder(EmbedderServiceServicer):
    def __init__(self, waits: Waits) -> None:
        self._wait = waits.embed
        vector = embedder_service_pb2.Embedding(values=[_DIMENSION**-0.5] * _DIMENSION)
        self._vectors = embedder_service_pb2.EmbedResponse(
            embeddings=[vector], lineage=common_pb2.Lineage(model="fixed", model_sha256="0" * 64)
        )

    async def Embed(self, request: Any, context: Any) -> Any:
        await _waited(self._wait)
        return self._vectors


class _Retriever(RetrieverServiceServicer):
    def __init__(self, waits: Waits) -> None:
        self._wait = waits.search
        self._found = retriever_service_pb2.SearchResponse(passages=passages())

    async def Search(self, request: Any, context: Any) -> Any:
        await _waited(self._wait)
        return self._found


class _Generator(GeneratorServiceServicer):
    def __init__(self, waits: Waits) -> None:
        self._wait = waits.token

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        wanted = request.request
        adapters = [one.adapter for one in wanted.blend.prompts] if wanted.HasField("blend") else [wanted.adapter]
        lineages = [common_pb2.Lineage(model="fixed", model_sha256="0" * 64, adapter=name) for name in adapters]
        response = generator_service_pb2.StreamGenerateResponse
        yield response(started=generator_service_pb2.GenerationStarted(lineage=lineages[0], input_tokens=INPUT_TOKENS))
        for piece in ANSWER:
            await _waited(self._wait)
            yield response(delta=generator_service_pb2.GenerationDelta(text=piece))
        yield response(
            finished=generator_service_pb2.GenerationFinished(
                finish_reason=generator_service_pb2.FINISH_REASON_STOP,
                lineage=lineages[0],
                usage=common_pb2.Usage(input_tokens=INPUT_TOKENS, output_tokens=len(ANSWER)),
                mean_logprob=MEAN_LOGPROB,
                min_logprob=4 * MEAN_LOGPROB,
                streams=[generator_service_pb2.StreamCost(lineage=one) for one in lineages if len(lineages) > 1],
            )
        )

    async def ListAdapters(self, request: Any, context: Any) -> Any:
        return generator_service_pb2.ListAdaptersResponse(
            adapters=[generator_service_pb2.Adapter(name=name) for name in ("answers", "reading")]
        )


def passages() -> list[common_pb2.Passage]:
    """Returns what every search finds: pieces of the sample company's documents, of the length that chunks have."""
    found = []
    for number, path in enumerate(sorted(_DOCUMENTS.rglob("*.md"))[:_PASSAGES]):
        text = path.read_text(encoding="utf-8")[:_CHARACTERS]
        if number == 0:
            text = f"{_STATEMENT} {text}"
        found.append(
            common_pb2.Passage(
                document_id=path.stem,
                chunk_id=f"{path.stem}:0",
                title=path.stem,
                text=text,
                span=common_pb2.TextSpan(start=0, end=len(text)),
                score=0.03 - 0.001 * number,
                dense_rank=number + 1,
                dense_score=0.7 - 0.1 * number,
            )
        )
    if len(found) < _PASSAGES:
        raise RuntimeError(f"{_DOCUMENTS} holds fewer than {_PASSAGES} documents in Markdown")
    return found


async def _waited(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


async def serve(listen: str, waits: Waits) -> None:
    """Serves all three until SIGTERM or SIGINT; says "ready" on standard output once it does."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    # What else these services do is never asked of them here.
    add_EmbedderServiceServicer_to_server(_Embedder(waits), server)  # type: ignore[abstract]
    add_RetrieverServiceServicer_to_server(_Retriever(waits), server)  # type: ignore[abstract]
    add_GeneratorServiceServicer_to_server(_Generator(waits), server)  # type: ignore[abstract]
    server.add_insecure_port(listen)
    await server.start()
    print("ready", flush=True)
    await stopping.wait()
    await server.stop(0)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, help="HOST:PORT of all three")
    for name in ("embed", "search", "token"):
        parser.add_argument(f"--{name}-ms", type=float, default=0.0)
    given = parser.parse_args()
    waits = Waits(given.embed_ms / 1000, given.search_ms / 1000, given.token_ms / 1000)
    asyncio.run(serve(given.listen, waits))


if __name__ == "__main__":
    _main()
