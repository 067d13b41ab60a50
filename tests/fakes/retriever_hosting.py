"""A retriever in this process, as its callers see it: real Milvus Lite, real parsing processes, real gRPC."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from google.protobuf.timestamp_pb2 import Timestamp

from services.retriever.__main__ import build
from services.retriever.config import RetrieverConfig
from tandem.errors import Unauthenticated
from tandem.rpc.channel import connect
from tandem.rpc.server import serving
from tandem.security import Principal
from tandem.telemetry import Telemetry
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc
from tests.fakes.retriever import DIMENSION, FakeEmbedderServicer, embedder_peer

EDITOR = frozenset({"user", "editor"})
PRINCIPALS = {
    "erin": Principal("erin", "halden", frozenset({"claims-leads"}), EDITOR),
    "otto": Principal("otto", "halden", frozenset(), EDITOR),
    "alice": Principal("alice", "halden", frozenset(), frozenset({"user"})),
    "ida": Principal("ida", "halden", frozenset({"claims-leads"}), frozenset({"auditor"})),
    "lena": Principal("lena", "halden", frozenset({"claims-leads"}), frozenset({"user"})),
    "pia": Principal("pia", "halden", frozenset(), frozenset({"user", "platform"})),
    "bea": Principal("bea", "brightwater", frozenset({"claims-leads"}), EDITOR),
    "mallory": Principal('m"', 'halden" or tenant != "', frozenset({'*"]) or true or ["', "*"}), EDITOR),
}


class Names:
    """Takes a principal's name for its token."""

    def resolve(self, token: str) -> Principal:
        """Returns the principal."""
        if token not in PRINCIPALS:
            raise Unauthenticated("unknown")
        return PRINCIPALS[token]


class Caller:
    """Speaks to a retriever as somebody."""

    def __init__(self, address: str, name: str) -> None:
        self.channel = connect(address, token=name)
        self.stub = pb_grpc.RetrieverServiceStub(self.channel)

    async def ingest(self, *documents: tuple[pb.DocumentHeader, bytes]) -> list[pb.IngestDocumentsResponse]:
        """Sends documents and returns every event."""

        async def frames() -> AsyncIterator[pb.IngestDocumentsRequest]:
            for header, data in documents:
                yield pb.IngestDocumentsRequest(header=header)
                for start in range(0, len(data), 20):
                    yield pb.IngestDocumentsRequest(data=data[start : start + 20])

        return [event async for event in self.stub.IngestDocuments(frames())]

    async def put(self, document_id: str, data: bytes, **fields: object) -> pb.IngestResult:
        """Sends one document and returns its result."""
        events = await self.ingest((header(document_id, **fields), data))
        assert [event.WhichOneof("event") for event in events] == ["started", "result", "finished"]
        return events[1].result

    async def search(self, query: str, **fields: object) -> list[str]:
        """Returns the ids of what is found, best first."""
        found = await self.stub.Search(pb.SearchRequest(query=query, **fields))
        return [passage.document_id for passage in found.passages]

    async def listed(self, page_size: int = 0) -> list[list[str]]:
        """Returns the ids of all documents by pages."""
        pages, token = [], ""
        while True:
            page = await self.stub.ListDocuments(pb.ListDocumentsRequest(page_size=page_size, page_token=token))
            pages.append([document.document_id for document in page.documents])
            token = page.next_page_token
            if not token:
                return pages


def header(document_id: str, **fields: object) -> pb.DocumentHeader:
    """Returns the header of a Markdown document."""
    return pb.DocumentHeader(document_id=document_id, **{"source": f"{document_id}.md", **fields})


def moment(text: str) -> Timestamp:
    """Returns a time written as RFC 3339 has it."""
    time = Timestamp()
    time.FromJsonString(text)
    return time


def config(path: Path, embedder: str, **fields: object) -> RetrieverConfig:
    """Returns the settings of a retriever on a folder."""
    settings = {
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "milvus_uri": str(path / "milvus.db"),
        "embedder_target": embedder,
        "dimension": DIMENSION,
        "drain_seconds": 1.0,
        **fields,
    }
    return RetrieverConfig(**settings)


@asynccontextmanager
async def house(folder: Path, **fields: object) -> AsyncIterator[SimpleNamespace]:
    """Runs a retriever on a folder; yields its address and registry, the embedder, and a caller for each principal."""
    async with AsyncExitStack() as stack:
        embedder = await stack.enter_async_context(embedder_peer(peer := FakeEmbedderServicer()))
        settings = config(folder, embedder, **fields)
        telemetry = Telemetry("retriever")
        app = await build(settings, telemetry)
        address = await stack.enter_async_context(serving(app, settings, telemetry, authenticator=Names()))
        callers = {name: Caller(address, name) for name in PRINCIPALS}
        for caller in callers.values():
            stack.push_async_callback(caller.channel.close)
        yield SimpleNamespace(**callers, address=address, registry=telemetry.registry, peer=peer)
