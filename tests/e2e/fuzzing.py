"""Malformed, hostile and oversized input for every RPC, each case worked out from a seed and its number alone.

A good call comes first. Then the cases of a method are of these kinds: random bytes; the bytes of a good message with a
few of them changed; a message built from its descriptor with hostile values; good messages out of order, for streams;
one beyond the limit.
"""

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tandem.v1 import (
    audit_service_pb2,
    embedder_service_pb2,
    feedback_service_pb2,
    generator_service_pb2,
    retriever_service_pb2,
    router_service_pb2,
)
from tests.e2e.hostile import FILES, FLOATS, INTEGERS, LONGS, STRINGS

METHODS: dict[str, tuple[str, MethodDescriptor]] = {
    f"{service.full_name}/{method.name}": (server, method)
    for server, files in {
        "embedder": [embedder_service_pb2],
        "retriever": [retriever_service_pb2],
        "generator": [generator_service_pb2],
        "router": [router_service_pb2, audit_service_pb2, feedback_service_pb2],
    }.items()
    for file in files
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
LIMIT = 4 * 1024 * 1024
OVERSIZED = LIMIT + 1
SNAPSHOT = "whole"  # one that the test has built
_DOCUMENTS: list[dict] = [
    {
        "header": {
            "document_id": "doc-1",
            "source": "a.txt",
            "title": "t",
            "groups": ["g"],
            "attributes": {"k": "v"},
        }
    },
    {"data": b"The ferry leaves at noon."},
    {
        "header": {
            "document_id": "doc-2",
            "source": "a.md",
            "valid_from": {"seconds": 1},
            "valid_until": {"seconds": 2},
        }
    },
    {"data": b"# Title\n\nText."},
]
# A good message of each method, cheap to serve. What would start a generation is refused for its temperature, its
# adapter or its policy, however else it is changed; now and then the one of _COSTLY takes its place.
_TEMPLATES: dict[str, list[dict]] = {
    "Embed": [{"texts": ["a", "b"], "truncate": False}],
    "StreamEmbed": [{"text": "a"}],
    "Rerank": [{"query": "a", "texts": ["a", "b"]}],
    "ClassifyPairs": [{"pairs": [{"first": "a", "second": "b"}]}],
    "Generate": [{"text": "a", "adapter": "x", "sampling": {"max_tokens": 1, "temperature": 9, "stop": ["a"]}}],
    "StreamGenerate": [{"request": {"text": "a", "sampling": {"max_tokens": 1, "temperature": 9, "seed": 5}}}],
    "Score": [{"items": [{"text": "a", "continuation": "b"}], "adapter": "x", "priority": 1}],
    "Sample": [{"request": {"text": "a", "sampling": {"max_tokens": 1, "temperature": 9}}, "num_samples": 2}],
    "LoadAdapter": [{"name": "answers"}],
    "UnloadAdapter": [{"name": "answers"}],
    "PromoteAdapter": [{"name": "answers", "version": "0123456789abcdef"}],
    "RollBackAdapter": [{"name": "answers"}],
    "SetAdapterCanary": [{"name": "answers", "share": 0.5, "version": "0123456789abcdef"}],
    "ListAdapters": [{"page_size": 1}],
    "IngestDocuments": _DOCUMENTS,
    "CreateIngestJob": _DOCUMENTS,
    "GetIngestJob": [{"job_id": "0" * 24}],
    "ListIngestJobs": [{"page_size": 1}],
    "ListIngestJobResults": [{"job_id": "0" * 24, "page_size": 1, "rejected_only": True}],
    "CancelIngestJob": [{"job_id": "0" * 24}],
    # Refused for its size, so that few snapshots are built.
    "CreateSnapshot": [{"snapshot_id": "fuzz", "chunk_characters": 99, "analyzer": "english", "as_of": {"seconds": 1}}],
    "GetSnapshot": [{"snapshot_id": "initial"}],
    "ListSnapshots": [{"page_size": 1}],
    "DiffSnapshot": [{"snapshot_id": SNAPSHOT, "page_size": 1}],
    "PromoteSnapshot": [{"snapshot_id": SNAPSHOT}],
    "DeleteSnapshot": [{"snapshot_id": "gone"}],
    "GetDocument": [{"document_id": "doc-1", "include_text": True}],
    "ListDocuments": [{"page_size": 3, "page_token": "x"}],
    "DeleteDocument": [{"document_id": "doc-1"}],
    "Search": [
        {
            "query": "a",
            "query_vector": [0.1] * 384,
            "top_k": 3,
            "mode": 1,
            "as_of": {"seconds": 1},
            "filter": {
                "document_ids": ["doc-1"],
                "media_types": ["text/plain"],
                "attributes": [{"key": "k", "values": ["v"], "excluded": True}],
                "updated_since": {"seconds": 1},
            },
            "fusion": {"weighted": {"dense_weight": 0.5}},
            "diversity": 0.5,
            "num_neighbors": 1,
            "rerank": True,
            "snapshot": SNAPSHOT,
            "query_model_sha256": "0" * 64,
        }
    ],
    "Ask": [
        {
            "question": "a",
            "policy": "none",
            "history": [{"question": "b", "answer": "c"}],
            "max_passages": 3,
            "domain": "default",
            "budget": {"deadline": {"seconds": 5}, "max_calls": 3},
        }
    ],
    "StreamAsk": [{"request": {"question": "a", "policy": "none", "as_of": {"seconds": 1, "nanos": 1}}}],
    "Advise": [
        {
            "domain": "default",
            "include_tree": True,
            "profile": {
                "data_volatility": "quarterly",
                "domain_specificity": "specialised",
                "latency_limit": {"seconds": 1},
                "questions_per_month": 1000,
                "compliance": "audit",
                "infrastructure_maturity": "gpu-training",
                "explainability": "useful",
                "costs": {"currency": "EUR", "per_search": 0.001, "training": 100.0, "trainings_per_month": 1.0},
            },
        }
    ],
    "ListDomains": [{"page_size": 1, "page_token": "a"}],
    "Ground": [{"question": "a", "answer": "At noon.", "passages": ["The ferry leaves at noon."], "depth": 1}],
    "SubmitFeedback": [{"answer_id": "0" * 32, "verdict": 3, "corrected_text": "At noon.", "deflected_ticket": False}],
    "ListFeedback": [{"page_size": 1, "page_token": "x", "domain": "default"}],
    "GetAuditRecords": [{"answer_id": "0" * 32}],
    "ListAuditRecords": [{"page_size": 1, "page_token": "x", "start_time": {"seconds": 1}, "end_time": {"seconds": 2}}],
}
_COSTLY: dict[str, dict] = {
    "Generate": {"text": "One, two,", "sampling": {"max_tokens": 3, "temperature": 1.5, "seed": 5, "stop": ["z"]}},
    "StreamGenerate": {"request": {"text": "One, two,", "sampling": {"max_tokens": 3}}},
    "Score": {"items": [{"text": "One, two,", "continuation": " three"}]},
    "Sample": {"request": {"text": "One, two,", "sampling": {"max_tokens": 2}}, "num_samples": 2},
    "CreateSnapshot": {"snapshot_id": "fuzz"},
    "Ask": {"question": "When does the ferry leave?", "policy": "rag"},
    "StreamAsk": {"request": {"question": "When does the ferry leave?", "policy": "rag", "max_passages": 1}},
}


@dataclass(frozen=True)
class Case:
    """Is one call: raw messages, metadata beside the token's, and as whom."""

    number: int
    method: str
    kind: str
    frames: list[bytes]
    principal: str | None = "fuzzer"
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)


def make(seed: int, number: int) -> Case:
    """Returns case `number` of a seed; the methods take turns, each with a good call first."""
    rng = random.Random(f"{seed}/{number}")
    method = list(METHODS)[number % len(METHODS)]
    descriptor = METHODS[method][1]
    if number < len(METHODS):
        rows = [_COSTLY[descriptor.name]] if descriptor.name in _COSTLY else _TEMPLATES.get(descriptor.name, [{}])
        return Case(number, method, "good", [_message(descriptor, row) for row in rows])
    kinds = ["bytes", "mutated", "hostile", "hostile", "hostile", "metadata"] + (
        ["frames"] * 3 if descriptor.client_streaming else []
    )
    kind = "oversized" if rng.random() < 0.001 else rng.choice(kinds)
    count = rng.choice((0, 1, 2, 3, 6)) if descriptor.client_streaming else 1
    frames = list(_KINDS[kind](rng, descriptor, count))
    if kind == "metadata":
        return Case(number, method, kind, frames, rng.choice(("fuzzer", "nobody", None)), list(_metadata(rng)))
    return Case(number, method, kind, frames, "nobody" if rng.random() < 0.03 else "fuzzer")


def _bytes(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield rng.randbytes(rng.choice((1, 2, 5, 20, 100, 1000, 100_000 if rng.random() < 0.05 else 10)))


def _mutated(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    for data in _good(rng, method, count):
        changed = bytearray(data or b"\x0a\x01a")
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = rng.randrange(len(changed) + 1)
            action = rng.randrange(4)
            if action == 0 and place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            elif action == 1:
                changed[place:place] = rng.randbytes(rng.randrange(1, 6))
            elif action == 2:
                del changed[place : place + rng.randrange(1, 4)]
            else:
                changed[place:place] = b"\x0a\x02\xff\xfe"  # a field whose text is no UTF-8
        yield bytes(changed)


def _hostile(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield _tamed(rng, _build(rng, method.input_type, depth=0), method).SerializeToString()


def _frames(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    """Good and hostile frames in any order, with bytes of broken documents between them."""
    good = list(_good(rng, method, 6))
    for _ in range(count):
        if method.name in ("IngestDocuments", "CreateIngestJob") and rng.random() < 0.4:
            request = GetMessageClass(method.input_type)
            if rng.random() < 0.5:
                source = "a." + rng.choice(("pdf", "docx", "html", "md", "txt", "xlsx", "csv", "tsv", "eml", "exe"))
                header = {"document_id": f"doc-{rng.randrange(20)}", "source": source}
                yield request(header=header).SerializeToString()
            yield request(data=rng.choice(FILES) + rng.randbytes(rng.randrange(30))).SerializeToString()
        else:
            yield rng.choice(good) if rng.random() < 0.8 else next(_hostile(rng, method, 1))


def _good(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    rows = _TEMPLATES.get(method.name, [{}])
    if method.name in _COSTLY and rng.random() < 0.03:
        rows = [_COSTLY[method.name]]
    for index in range(count):
        yield _message(method, rows[index % len(rows)])


def _message(method: MethodDescriptor, row: dict[str, Any]) -> bytes:
    return GetMessageClass(method.input_type)(**row).SerializeToString()


def _oversized(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    yield b"\x0a\xfd\xff\xff\x01" + b"a" * (OVERSIZED - 5)


def _ordinary(rng: random.Random, method: MethodDescriptor, count: int) -> Iterator[bytes]:
    return _good(rng, method, count)


_KINDS: dict[str, Callable[[random.Random, MethodDescriptor, int], Iterator[bytes]]] = {
    "bytes": _bytes,
    "mutated": _mutated,
    "hostile": _hostile,
    "frames": _frames,
    "oversized": _oversized,
    "metadata": _ordinary,
}


def _metadata(rng: random.Random) -> Iterator[tuple[str, str | bytes]]:
    words = ("", " ", "Bearer", "Bearer  ", "Bearer x", "Basic eDp5", "bearer " + "x" * 900, "~", "00-zz-zz-01")
    keys = (
        "authorization",
        "traceparent",
        "tracestate",
        "baggage",
        "x-tandem-principal",
        "te",
        "content-length",
        "x-user",
    )
    for _ in range(rng.randrange(4)):
        yield rng.choice(keys), rng.choice(words)
    if rng.random() < 0.5:
        claims = (
            b"",
            b"\xff",
            b"{}",
            b"[]",
            b"[" * 3000,
            b'{"subject": "erin", "tenant": "halden", "roles": ["auditor"]}',
        )
        yield "x-tandem-principal-bin", rng.choice(claims)
    if rng.random() < 0.3:
        yield "grpc-trace-bin", rng.randbytes(rng.randrange(30))


def _build(rng: random.Random, descriptor: Descriptor, *, depth: int) -> Message:
    message = GetMessageClass(descriptor)()
    chosen = [member.fields[rng.randrange(len(member.fields))] for member in descriptor.oneofs]
    for item in descriptor.fields:
        if (item.containing_oneof and item not in chosen) or rng.random() < 0.35 or depth > 5:
            continue
        _fill(rng, message, item, depth)
    return message


def _fill(rng: random.Random, message: Message, item: FieldDescriptor, depth: int) -> None:
    if item.message_type and item.message_type.GetOptions().map_entry:
        for _ in range(rng.choice((0, 1, 3, 40))):
            getattr(message, item.name)[_text(rng)] = _text(rng)
    elif item.message_type and item.is_repeated:
        values = [_build(rng, item.message_type, depth=depth + 1) for _ in range(rng.choice((0, 1, 2, 20, 70)))]
        getattr(message, item.name).extend(values)
    elif item.message_type:
        getattr(message, item.name).CopyFrom(_build(rng, item.message_type, depth=depth + 1))
    elif item.is_repeated:
        sizes = (0, 1, 2, 40, 383, 384, 385, 600) if item.type != FieldDescriptor.TYPE_STRING else (0, 1, 1, 2, 40, 520)
        value = _scalar(rng, item)
        count = rng.choice(sizes)
        repeated = [value] * (count if not isinstance(value, str) or len(value) < 1000 else 2)
        getattr(message, item.name).extend([*repeated, _scalar(rng, item)])
    else:
        setattr(message, item.name, _scalar(rng, item))


def _scalar(rng: random.Random, item: FieldDescriptor) -> object:
    kinds = FieldDescriptor
    if item.type == kinds.TYPE_STRING:
        return _text(rng)
    if item.type == kinds.TYPE_BYTES:
        return rng.randbytes(rng.randrange(60))
    if item.type == kinds.TYPE_BOOL:
        return rng.random() < 0.5
    if item.type in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE):
        return rng.choice(FLOATS) if rng.random() < 0.7 else struct.unpack("f", rng.randbytes(4))[0]
    if item.type == kinds.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 4, 99, -1, 2**31 - 1))
    return rng.choice(LONGS if item.type in (kinds.TYPE_INT64, kinds.TYPE_UINT64) else INTEGERS)


def _text(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.01:
        return rng.choice(STRINGS[1:]) * 2000
    if draw < 0.015:
        return "a" * 100_000
    return rng.choice(STRINGS)


def _tamed(rng: random.Random, message: Message, method: MethodDescriptor) -> Message:
    """Keeps what would be costly to serve rare and small; it is not what these cases are for."""
    inner = getattr(message, "request", message)
    if method.name in ("Generate", "StreamGenerate", "Sample"):
        inner.sampling.max_tokens = rng.choice((-1, 0, 1, 1, 2, 5000))
    if method.name == "CreateSnapshot":
        message.snapshot_id += "!"  # no name, so that none is built
    if method.name == "Score" and rng.random() < 0.9:
        inner.priority = 99
    asks = method.name in ("Ask", "StreamAsk") and inner.policy in ("", "cascade", "rag", "finetuned")
    if asks and rng.random() < 0.97:
        inner.max_passages = rng.choice((-1, 0, 21, 2**31 - 1))
    return message
