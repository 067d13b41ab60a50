"""Every metric and span of the retriever."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SPANS: dict[str, str] = {
    "retriever.parse": "Parsing and cutting of one document in a worker process.",
    "retriever.embed": "Embedding of a query, or of a batch of chunks, by the embedder.",
    "retriever.write": "One write of a batch of documents to Milvus.",
    "retriever.rebuild": "Cutting, embedding and writing of some documents for a snapshot that is being built.",
    "retriever.search": "All of one search but the embedding of its query.",
}
"""Spans that the retriever opens itself."""

_SEARCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_INGEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_FRESHNESS_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)


class RetrieverMetrics:
    """Owns the retriever's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "tandem_retriever_documents_total",
            "Documents ingested or deleted, by state: indexed, unchanged, rejected, deleted.",
            ["state"],
            registry=registry,
        )
        self.chunks = Counter("tandem_retriever_chunks_total", "Chunks written.", registry=registry)
        self.ingest_seconds = Histogram(
            "tandem_retriever_ingest_seconds",
            "Time of one step of ingestion, by stage: parse (a document), embed and write (a batch).",
            ["stage"],
            buckets=_INGEST_BUCKETS,
            registry=registry,
        )
        self.freshness = Histogram(
            "tandem_retriever_freshness_seconds",
            "Time from a document's being there, at the end of its upload or in its live source, to its being visible "
            "in searches, by origin: stream, job, folder, feed.",
            ["origin"],
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        self.jobs = Counter(
            "tandem_retriever_jobs_total",
            "Jobs that ended, by state: finished, cancelled.",
            ["state"],
            registry=registry,
        )
        self.job_documents_waiting = Gauge(
            "tandem_retriever_job_documents_waiting", "Documents of jobs without a result.", registry=registry
        )
        self.spooled_bytes = Gauge(
            "tandem_retriever_spooled_bytes", "Bytes of jobs' documents that wait on the disk.", registry=registry
        )
        self.source_last_success = Gauge(
            "tandem_retriever_source_last_success_timestamp_seconds",
            "When the last look at a live source began that succeeded, in seconds since 1970.",
            ["source"],
            registry=registry,
        )
        self.source_lag = Gauge(
            "tandem_retriever_source_lag_seconds",
            "How long ago that was, or the start where there was none: what appeared since may not be known.",
            ["source"],
            registry=registry,
        )
        self.source_documents = Gauge(
            "tandem_retriever_source_documents",
            "Documents that a live source showed at the last look.",
            ["source"],
            registry=registry,
        )
        self.source_failures = Counter(
            "tandem_retriever_source_failures_total",
            "Looks at a live source that failed, wholly or in part.",
            ["source"],
            registry=registry,
        )
        self.search_seconds = Histogram(
            "tandem_retriever_search_seconds",
            "Time of one search, by mode (hybrid, dense, sparse) and stage (embed, dense, sparse, check, rerank, "
            "diversify, expand); dense and sparse run at the same time.",
            ["mode", "stage"],
            buckets=_SEARCH_BUCKETS,
            registry=registry,
        )
        self.passages = Counter("tandem_retriever_passages_total", "Passages returned.", registry=registry)
        self.stale_hits = Counter(
            "tandem_retriever_stale_hits_total",
            "Hits dropped from a ranking because their document's version was not the live one.",
            registry=registry,
        )
        self.snapshot_documents = Counter(
            "tandem_retriever_snapshot_documents_total",
            "Documents that the building of snapshots has cut, embedded and indexed anew.",
            registry=registry,
        )
        self.parse_failures = Counter(
            "tandem_retriever_parse_failures_total",
            "Documents that could not be read, by reason as in the result's ErrorInfo.",
            ["reason"],
            registry=registry,
        )
        self.store_restarts = Counter(
            "tandem_retriever_store_restarts_total", "Restarts of Milvus Lite after it died.", registry=registry
        )
