"""From the retriever's own words to messages."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.retriever.domain import Passage, StoredDocument
from services.retriever.domain.uploads import Result, State
from tandem.rpc.status import to_rich
from tandem.v1 import common_pb2 as common
from tandem.v1 import retriever_service_pb2 as pb

_STATES = {
    State.INDEXED: pb.IngestResult.STATE_INDEXED,
    State.UNCHANGED: pb.IngestResult.STATE_UNCHANGED,
    State.REJECTED: pb.IngestResult.STATE_REJECTED,
}


def passage(found: Passage) -> common.Passage:
    """Returns the message of a passage."""
    chunk = common.TextSpan(start=found.chunk.start, end=found.chunk.end)
    return common.Passage(
        document_id=found.document.key.document_id,
        chunk_id=found.chunk_id,
        title=found.document.header.title,
        source=found.document.header.source,
        headings=found.chunk.headings,
        page=found.chunk.page,
        span=chunk if found.span is None else common.TextSpan(start=found.span[0], end=found.span[1]),
        text=found.text,
        score=found.score,
        dense_rank=found.dense_rank,
        sparse_rank=found.sparse_rank,
        dense_score=found.dense_score,
        sparse_score=found.sparse_score,
        rerank_score=found.rerank_score,
        match=None if found.span is None else chunk,
    )


def document(stored: StoredDocument) -> pb.Document:
    """Returns the message of a document."""
    header = stored.header
    return pb.Document(
        document_id=stored.key.document_id,
        source=header.source,
        media_type=header.media_type,
        title=header.title,
        groups=header.groups,
        valid_from=None if header.valid_from is None else timestamp(header.valid_from),
        valid_until=None if header.valid_until is None else timestamp(header.valid_until),
        attributes=header.attributes,
        content_sha256=stored.content_sha256,
        num_chunks=stored.num_chunks,
        num_characters=stored.num_characters,
        update_time=timestamp(stored.update_time),
    )


def ingest_result(result: Result) -> pb.IngestResult:
    """Returns the message of what became of a document."""
    return pb.IngestResult(
        document_id=result.document_id,
        state=_STATES[result.state],
        num_chunks=result.num_chunks,
        content_sha256=result.content_sha256,
        error=None if result.error is None else to_rich(result.error),
    )


def timing(stage: str, seconds: float) -> common.StageTiming:
    """Returns the message of one stage's time."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return common.StageTiming(stage=stage, duration=duration)


def timestamp(moment: int) -> Timestamp:
    """Returns the message of a time in microseconds since 1970."""
    return Timestamp(seconds=moment // 1_000_000, nanos=moment % 1_000_000 * 1_000)
