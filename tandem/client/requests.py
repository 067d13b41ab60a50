"""What the blocking and the asynchronous clients share: building requests, and turning statuses into errors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypedDict

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tandem.rpc.status import from_rpc_error
from tandem.v1 import retriever_service_pb2 as retriever
from tandem.v1 import router_service_pb2 as router

DATA_FRAME_BYTES = 512 * 1024
Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Upload:
    """Is a document to be ingested; the fields are those of DocumentHeader."""

    document_id: str
    source: str
    data: bytes
    media_type: str = ""
    title: str = ""
    groups: Sequence[str] = ()
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


class Wish(TypedDict, total=False):
    """Is how a question is to be answered; what is left out or None is as the domain and the server have it."""

    domain: str
    policy: str
    history: Turns
    """Earlier (question, answer) pairs, oldest first."""
    max_passages: int | None
    as_of: datetime | None
    max_calls: int | None
    """Most calls of other services that the answer may take, see AnswerBudget."""
    max_cost: float | None
    """Most that it may cost, in the currency of the domain's costs."""
    within: float | None
    """Seconds that the whole answer may take."""


def ask_request(question: str, wish: Wish) -> router.AskRequest:
    """Returns the request for a question."""
    request = router.AskRequest(
        question=question,
        domain=wish.get("domain", ""),
        policy=wish.get("policy", ""),
        history=[router.Turn(question=asked, answer=answered) for asked, answered in wish.get("history", ())],
        max_passages=wish.get("max_passages"),
        as_of=timestamp(wish.get("as_of")),
    )
    max_calls, max_cost, within = wish.get("max_calls"), wish.get("max_cost"), wish.get("within")
    if (max_calls, max_cost, within) != (None, None, None):
        request.budget.CopyFrom(router.AnswerBudget(max_calls=max_calls, max_cost=max_cost))
    if within is not None:
        request.budget.deadline.FromTimedelta(timedelta(seconds=within))
    return request


def upload_frames(uploads: Iterable[Upload]) -> Iterator[retriever.IngestDocumentsRequest]:
    """Yields a header and data frames for each document; documents are taken one at a time."""
    for upload in uploads:
        header = retriever.DocumentHeader(
            document_id=upload.document_id,
            source=upload.source,
            media_type=upload.media_type,
            title=upload.title,
            groups=upload.groups,
            valid_from=timestamp(upload.valid_from),
            valid_until=timestamp(upload.valid_until),
            attributes=upload.attributes,
        )
        yield retriever.IngestDocumentsRequest(header=header)
        for start in range(0, len(upload.data), DATA_FRAME_BYTES):
            yield retriever.IngestDocumentsRequest(data=upload.data[start : start + DATA_FRAME_BYTES])


def job_frames(uploads: Iterable[Upload]) -> Iterator[retriever.CreateIngestJobRequest]:
    """Yields the same frames for a job."""
    for frame in upload_frames(uploads):
        if frame.HasField("header"):
            yield retriever.CreateIngestJobRequest(header=frame.header)
        else:
            yield retriever.CreateIngestJobRequest(data=frame.data)


def search_request(
    query: str,
    *,
    top_k: int,
    mode: "retriever.SearchMode.ValueType",
    as_of: datetime | None,
    search_filter: retriever.SearchFilter | None,
    fusion: retriever.Fusion | None,
    diversity: float,
    num_neighbors: int,
    keep_duplicates: bool,
    rerank: bool | None,
    snapshot: str,
    query_vector: Sequence[float],
    query_model_sha256: str,
) -> retriever.SearchRequest:
    """Returns the request for passages."""
    return retriever.SearchRequest(
        query=query,
        query_vector=query_vector,
        query_model_sha256=query_model_sha256,
        top_k=top_k,
        mode=mode,
        as_of=timestamp(as_of),
        filter=search_filter,
        fusion=fusion,
        diversity=diversity,
        num_neighbors=num_neighbors,
        keep_duplicates=keep_duplicates,
        rerank=rerank,
        snapshot=snapshot,
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Returns the message for a moment; one without a zone is taken as UTC."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


@contextmanager
def translated() -> Iterator[None]:
    """Raises a tandem.errors.TandemError in place of a gRPC error."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
