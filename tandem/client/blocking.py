"""The blocking clients."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Unpack

from tandem.client.base import Client
from tandem.client.requests import (
    Upload,
    Wish,
    ask_request,
    job_frames,
    search_request,
    timestamp,
    upload_frames,
)
from tandem.v1 import advice_pb2 as advice
from tandem.v1 import domains_pb2 as domains
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import (
    embedder_service_pb2_grpc,
    generator_service_pb2_grpc,
    retriever_service_pb2_grpc,
    router_service_pb2_grpc,
)
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1 import retriever_service_pb2 as retriever
from tandem.v1 import router_service_pb2 as router


class RouterClient(Client):
    """Asks questions."""

    stub = router_service_pb2_grpc.RouterServiceStub

    def ask(self, question: str, *, timeout: float | None = None, **wish: Unpack[Wish]) -> router.Answer:
        """Returns the whole answer."""
        answer: router.Answer = self._call("Ask", ask_request(question, wish), timeout).answer
        return answer

    def stream(
        self, question: str, *, timeout: float | None = None, **wish: Unpack[Wish]
    ) -> Iterator[router.StreamAskResponse]:
        """Yields the events of an answer; leaving the loop cancels the call."""
        request = router.StreamAskRequest(request=ask_request(question, wish))
        return self._stream("StreamAsk", request, timeout)

    def list_policies(self, *, timeout: float | None = None) -> router.ListPoliciesResponse:
        """Returns the policies and the default one."""
        response: router.ListPoliciesResponse = self._call("ListPolicies", router.ListPoliciesRequest(), timeout)
        return response

    def advise(
        self,
        profile: advice.DomainProfile | None = None,
        *,
        domain: str = "",
        include_tree: bool = False,
        timeout: float | None = None,
    ) -> advice.AdviseResponse:
        """Returns which approach suits a profile, or a domain whose own profile it changes, and the tree if asked."""
        request = advice.AdviseRequest(domain=domain, profile=profile, include_tree=include_tree)
        response: advice.AdviseResponse = self._call("Advise", request, timeout)
        return response

    def list_domains(self, *, timeout: float | None = None) -> Iterator[domains.Domain]:
        """Yields the domains that the caller may ask, by name, page by page."""
        return self._pages("ListDomains", domains.ListDomainsRequest(), "domains", timeout)

    def ground(
        self,
        answer: str,
        passages: Sequence[str],
        *,
        question: str = "",
        depth: "router.GroundingDepth.ValueType" = router.GROUNDING_DEPTH_UNSPECIFIED,
        timeout: float | None = None,
    ) -> router.Groundedness:
        """Returns how far passages support an answer, as the router judges its own."""
        request = router.GroundRequest(question=question, answer=answer, passages=passages, depth=depth)
        response: router.GroundResponse = self._call("Ground", request, timeout)
        return response.groundedness


class EmbedderClient(Client):
    """Embeds text."""

    stub = embedder_service_pb2_grpc.EmbedderServiceStub

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> embedder.EmbedResponse:
        """Returns one vector for each text, in order; at most 512 texts."""
        response: embedder.EmbedResponse = self._call("Embed", embedder.EmbedRequest(texts=texts), timeout)
        return response

    def stream(self, texts: Iterable[str], *, timeout: float | None = None) -> Iterator[embedder.StreamEmbedResponse]:
        """Yields started, one embedding for each text, finished; texts may be endless."""
        requests = (embedder.StreamEmbedRequest(text=text) for text in texts)
        return self._stream("StreamEmbed", requests, timeout)

    def rerank(self, query: str, texts: Sequence[str], *, timeout: float | None = None) -> embedder.RerankResponse:
        """Returns a score for each text, in order; at most 256 texts. Raises FailedPrecondition without a reranker."""
        request = embedder.RerankRequest(query=query, texts=texts)
        response: embedder.RerankResponse = self._call("Rerank", request, timeout)
        return response

    def classify_pairs(
        self, pairs: Sequence[tuple[str, str]], *, timeout: float | None = None
    ) -> embedder.ClassifyPairsResponse:
        """Returns the probability of each label; at most 256 pairs. Raises FailedPrecondition without a classifier."""
        request = embedder.ClassifyPairsRequest(pairs=[embedder.TextPair(first=a, second=b) for a, b in pairs])
        response: embedder.ClassifyPairsResponse = self._call("ClassifyPairs", request, timeout)
        return response

    def get_model(self, *, timeout: float | None = None) -> embedder.GetEmbeddingModelResponse:
        """Returns the model's name, hash, dimension and limits."""
        request = embedder.GetEmbeddingModelRequest()
        response: embedder.GetEmbeddingModelResponse = self._call("GetEmbeddingModel", request, timeout)
        return response


class RetrieverClient(Client):
    """Keeps documents and searches them."""

    stub = retriever_service_pb2_grpc.RetrieverServiceStub

    def ingest(
        self, uploads: Iterable[Upload], *, timeout: float | None = None
    ) -> Iterator[retriever.IngestDocumentsResponse]:
        """Sends documents and yields started, one result for each, finished."""
        return self._stream("IngestDocuments", upload_frames(uploads), timeout)

    def create_job(self, uploads: Iterable[Upload], *, timeout: float | None = None) -> retriever.IngestJob:
        """Sends documents to be indexed in the background; returns when they are safe on the server's disk."""
        response: retriever.CreateIngestJobResponse = self._call("CreateIngestJob", job_frames(uploads), timeout)
        return response.job

    def get_job(self, job_id: str, *, timeout: float | None = None) -> retriever.IngestJob:
        """Tells how far a job is."""
        request = retriever.GetIngestJobRequest(job_id=job_id)
        response: retriever.GetIngestJobResponse = self._call("GetIngestJob", request, timeout)
        return response.job

    def list_jobs(self, *, timeout: float | None = None) -> Iterator[retriever.IngestJob]:
        """Yields the tenant's jobs, the newest first."""
        request = retriever.ListIngestJobsRequest()
        return self._pages("ListIngestJobs", request, "jobs", timeout)

    def list_job_results(
        self, job_id: str, *, rejected_only: bool = False, timeout: float | None = None
    ) -> Iterator[retriever.IngestResult]:
        """Yields what became of a job's documents, as far as they have a result."""
        request = retriever.ListIngestJobResultsRequest(job_id=job_id, rejected_only=rejected_only)
        return self._pages("ListIngestJobResults", request, "results", timeout)

    def cancel_job(self, job_id: str, *, timeout: float | None = None) -> retriever.IngestJob:
        """Ends a job; documents that were indexed stay."""
        request = retriever.CancelIngestJobRequest(job_id=job_id)
        response: retriever.CancelIngestJobResponse = self._call("CancelIngestJob", request, timeout)
        return response.job

    def search(
        self,
        query: str,
        *,
        top_k: int = 5,
        mode: "retriever.SearchMode.ValueType" = retriever.SEARCH_MODE_HYBRID,
        as_of: datetime | None = None,
        search_filter: retriever.SearchFilter | None = None,
        fusion: retriever.Fusion | None = None,
        diversity: float = 0.0,
        num_neighbors: int = 0,
        keep_duplicates: bool = False,
        rerank: bool | None = None,
        snapshot: str = "",
        query_vector: Sequence[float] = (),
        query_model_sha256: str = "",
        timeout: float | None = None,
    ) -> retriever.SearchResponse:
        """Returns the best passages that the caller may see; the options are those of SearchRequest."""
        request = search_request(
            query,
            top_k=top_k,
            mode=mode,
            as_of=as_of,
            search_filter=search_filter,
            fusion=fusion,
            diversity=diversity,
            num_neighbors=num_neighbors,
            keep_duplicates=keep_duplicates,
            rerank=rerank,
            snapshot=snapshot,
            query_vector=query_vector,
            query_model_sha256=query_model_sha256,
        )
        response: retriever.SearchResponse = self._call("Search", request, timeout)
        return response

    def get_document(
        self, document_id: str, *, include_text: bool = False, timeout: float | None = None
    ) -> retriever.GetDocumentResponse:
        """Returns a document, with its extracted text if asked for."""
        request = retriever.GetDocumentRequest(document_id=document_id, include_text=include_text)
        response: retriever.GetDocumentResponse = self._call("GetDocument", request, timeout)
        return response

    def list_documents(self, *, timeout: float | None = None) -> Iterator[retriever.Document]:
        """Yields every document that the caller may see, page by page."""
        request = retriever.ListDocumentsRequest()
        return self._pages("ListDocuments", request, "documents", timeout)

    def delete_document(self, document_id: str, *, timeout: float | None = None) -> int:
        """Removes a document and returns how many chunks went with it."""
        request = retriever.DeleteDocumentRequest(document_id=document_id)
        response: retriever.DeleteDocumentResponse = self._call("DeleteDocument", request, timeout)
        return response.num_chunks

    def create_snapshot(
        self,
        snapshot_id: str,
        *,
        chunk_characters: int = 0,
        analyzer: str = "",
        as_of: datetime | None = None,
        timeout: float | None = None,
    ) -> retriever.Snapshot:
        """Begins to build a snapshot, unless told otherwise as configured; needs the role "platform"."""
        request = retriever.CreateSnapshotRequest(
            snapshot_id=snapshot_id, chunk_characters=chunk_characters, analyzer=analyzer, as_of=timestamp(as_of)
        )
        response: retriever.CreateSnapshotResponse = self._call("CreateSnapshot", request, timeout)
        return response.snapshot

    def get_snapshot(self, snapshot_id: str, *, timeout: float | None = None) -> retriever.Snapshot:
        """Describes a snapshot."""
        request = retriever.GetSnapshotRequest(snapshot_id=snapshot_id)
        response: retriever.GetSnapshotResponse = self._call("GetSnapshot", request, timeout)
        return response.snapshot

    def promote_snapshot(self, snapshot_id: str, *, timeout: float | None = None) -> retriever.Snapshot:
        """Makes a snapshot live; searches in progress end on the one before."""
        request = retriever.PromoteSnapshotRequest(snapshot_id=snapshot_id)
        response: retriever.PromoteSnapshotResponse = self._call("PromoteSnapshot", request, timeout)
        return response.snapshot

    def roll_back_snapshot(self, *, timeout: float | None = None) -> retriever.Snapshot:
        """Makes the snapshot live that was live before."""
        request = retriever.RollBackSnapshotRequest()
        response: retriever.RollBackSnapshotResponse = self._call("RollBackSnapshot", request, timeout)
        return response.snapshot

    def list_snapshots(self, *, timeout: float | None = None) -> Iterator[retriever.Snapshot]:
        """Yields every snapshot, the newest first."""
        request = retriever.ListSnapshotsRequest()
        return self._pages("ListSnapshots", request, "snapshots", timeout)

    def diff_snapshot(
        self, snapshot_id: str, *, timeout: float | None = None
    ) -> Iterator[retriever.DocumentDifference]:
        """Yields the documents that the caller may see and that are not the same in the live snapshot."""
        request = retriever.DiffSnapshotRequest(snapshot_id=snapshot_id)
        return self._pages("DiffSnapshot", request, "differences", timeout)

    def delete_snapshot(self, snapshot_id: str, *, timeout: float | None = None) -> None:
        """Removes a snapshot that is not live, or gives up building it."""
        self._call("DeleteSnapshot", retriever.DeleteSnapshotRequest(snapshot_id=snapshot_id), timeout)


class GeneratorClient(Client):
    """Generates text."""

    stub = generator_service_pb2_grpc.GeneratorServiceStub

    def generate(
        self, request: generator.GenerateRequest, *, timeout: float | None = None
    ) -> generator.GenerateResponse:
        """Returns the whole text."""
        response: generator.GenerateResponse = self._call("Generate", request, timeout)
        return response

    def stream(
        self, request: generator.GenerateRequest, *, timeout: float | None = None
    ) -> Iterator[generator.StreamGenerateResponse]:
        """Yields started, deltas, finished; leaving the loop cancels the call."""
        return self._stream("StreamGenerate", generator.StreamGenerateRequest(request=request), timeout)

    def score(
        self,
        items: Iterable[generator.ScoreItem],
        *,
        adapter: str = "",
        include_token_logprobs: bool = False,
        priority: "generator.Priority.ValueType" = generator.PRIORITY_UNSPECIFIED,
        timeout: float | None = None,
    ) -> generator.ScoreResponse:
        """Returns the likelihood of each continuation; at most 256 items."""
        request = generator.ScoreRequest(
            items=items, adapter=adapter, include_token_logprobs=include_token_logprobs, priority=priority
        )
        response: generator.ScoreResponse = self._call("Score", request, timeout)
        return response

    def sample(
        self, request: generator.GenerateRequest, *, num_samples: int = 0, timeout: float | None = None
    ) -> generator.SampleResponse:
        """Returns several answers to one prompt and how far they disagree; 0 samples mean 5."""
        wanted = generator.SampleRequest(request=request, num_samples=num_samples)
        response: generator.SampleResponse = self._call("Sample", wanted, timeout)
        return response

    def load_adapter(self, name: str, *, timeout: float | None = None) -> generator.LoadAdapterResponse:
        """Loads what an adapter's aliases stand for now, or one "name@version" too; needs the role "operator"."""
        request = generator.LoadAdapterRequest(name=name)
        response: generator.LoadAdapterResponse = self._call("LoadAdapter", request, timeout)
        return response

    def unload_adapter(self, name: str, *, timeout: float | None = None) -> None:
        """Takes an adapter, or one "name@version" of it, from new calls; needs the role "operator"."""
        self._call("UnloadAdapter", generator.UnloadAdapterRequest(name=name), timeout)

    def promote_adapter(
        self, name: str, *, version: str = "", timeout: float | None = None
    ) -> generator.PromoteAdapterResponse:
        """Makes the candidate, or the version that is named, the stable one; needs the role "operator"."""
        request = generator.PromoteAdapterRequest(name=name, version=version)
        response: generator.PromoteAdapterResponse = self._call("PromoteAdapter", request, timeout)
        return response

    def roll_back_adapter(self, name: str, *, timeout: float | None = None) -> generator.RollBackAdapterResponse:
        """Makes the version that was stable before stable again; needs the role "operator"."""
        request = generator.RollBackAdapterRequest(name=name)
        response: generator.RollBackAdapterResponse = self._call("RollBackAdapter", request, timeout)
        return response

    def set_adapter_canary(
        self, name: str, share: float, *, version: str = "", timeout: float | None = None
    ) -> generator.SetAdapterCanaryResponse:
        """Gives the candidate a share of the calls, 0 to 1, and may name another; needs the role "operator"."""
        request = generator.SetAdapterCanaryRequest(name=name, share=share, version=version)
        response: generator.SetAdapterCanaryResponse = self._call("SetAdapterCanary", request, timeout)
        return response

    def list_adapters(self, *, timeout: float | None = None) -> Iterator[generator.Adapter]:
        """Yields every adapter that the caller may use."""
        request = generator.ListAdaptersRequest()
        return self._pages("ListAdapters", request, "adapters", timeout)

    def get_model(self, *, timeout: float | None = None) -> generator.GetModelResponse:
        """Returns the base model's name, hash and limits."""
        response: generator.GetModelResponse = self._call("GetModel", generator.GetModelRequest(), timeout)
        return response
