"""A retriever's client and a folder in BEIR layout for the tests of evaluation."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.client import Upload
from tandem.errors import FailedPrecondition, NotFound, TandemError
from tandem.v1 import common_pb2 as common
from tandem.v1 import retriever_service_pb2 as pb


def words(text: str) -> set[str]:
    """Returns the words of a text."""
    return set(text.lower().split())


class FakeRetriever:
    """Is a client whose retriever ranks by words in common; the first `faults` are raised, one a call.

    A fault of ingestion comes after `acknowledged` results of the stream. Where `right_fusion` is set, a search that
    names another or none has its passages in the wrong order.
    """

    def __init__(self, *, reranks: bool | None = False) -> None:
        self.documents: dict[str, Upload] = {}
        self.reranks = reranks
        self.faults: list[TandemError] = []
        self.acknowledged = 2
        self.right_fusion: pb.Fusion | None = None
        self.sent: list[str] = []
        self.searches: list[dict[str, Any]] = []

    async def ingest(
        self, uploads: Iterable[Upload], *, timeout: float | None = None
    ) -> AsyncIterator[pb.IngestDocumentsResponse]:
        """Keeps documents; the text "refuse" is rejected."""
        fault = self.faults.pop(0) if self.faults else None
        yield pb.IngestDocumentsResponse(started=pb.IngestStarted(collection="c"))
        for number, upload in enumerate(uploads):
            if fault is not None and number == self.acknowledged:
                raise fault
            self.sent.append(upload.document_id)
            result = pb.IngestResult(document_id=upload.document_id, num_chunks=1)
            if upload.data == b"refuse":
                result.state = pb.IngestResult.STATE_REJECTED
                result.error.message = "it cannot be read"
            else:
                same = self.documents.get(upload.document_id) == upload
                result.state = pb.IngestResult.STATE_UNCHANGED if same else pb.IngestResult.STATE_INDEXED
                self.documents[upload.document_id] = upload
            yield pb.IngestDocumentsResponse(result=result)
        yield pb.IngestDocumentsResponse(finished=pb.IngestFinished())

    async def search(self, query: str, **options: Any) -> pb.SearchResponse:
        """Ranks the documents of the wanted label."""
        if self.faults:
            raise self.faults.pop(0)
        self.searches.append({"query": query, **options})
        if options["rerank"] and self.reranks is None:
            raise FailedPrecondition("there is no reranker", reason="RERANKER_NOT_CONFIGURED")
        (wanted,) = options["search_filter"].attributes
        held = [d for d in self.documents.values() if d.attributes.get(wanted.key) in wanted.values]
        ranked = sorted(held, key=lambda d: (-len(words(query) & words(d.data.decode())), d.document_id))
        if self.right_fusion not in (None, options["fusion"]):
            ranked.reverse()
        passages = [common.Passage(document_id=d.document_id, text=d.data.decode()) for d in ranked]
        for passage in passages if options["rerank"] and self.reranks else []:
            passage.rerank_score = 1.0
        response = pb.SearchResponse(passages=passages[: options["top_k"]])
        response.timings.add(stage="dense").duration.FromMilliseconds(3)
        return response

    async def list_documents(self) -> AsyncIterator[pb.Document]:
        """Yields the documents."""
        for document_id in sorted(self.documents):
            yield pb.Document(document_id=document_id)

    async def delete_document(self, document_id: str) -> int:
        """Removes a document."""
        if self.faults:
            raise self.faults.pop(0)
        if document_id not in self.documents:
            raise NotFound("no such document")
        del self.documents[document_id]
        return 1


def write_folder(
    folder: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Sequence[tuple[str, str, int]],
    *,
    titles: Mapping[str, str] | None = None,
) -> Path:
    """Writes a folder in BEIR layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"_id": name, "title": (titles or {}).get(name, ""), "text": text} for name, text in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"_id": name, "text": text} for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    return folder
