"""Every metric and span of the embedder."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SPANS: dict[str, str] = {
    "embedder.tokenize": "Tokenisation of the texts of one call.",
    "embedder.queue": "Wait of the call's slowest text for its batch, once it is tokenised.",
    "embedder.infer": "Inference of the batch that the call's slowest text was in.",
}
"""Spans that the embedder opens itself, inside the server span of the call."""

_TOKEN_BUCKETS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
_TEXT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class EmbedderMetrics:
    """Owns the embedder's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_texts = Gauge(
            "tandem_embedder_queue_texts", "Tokenised texts that wait for a batch.", registry=registry
        )
        self.queue_tokens = Gauge(
            "tandem_embedder_queue_tokens",
            "Tokens admitted and not yet in a batch; an estimate for texts that are being tokenised.",
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tandem_embedder_queue_seconds",
            "Time of a text from arrival to the start of its batch.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "tandem_embedder_batch_tokens",
            "Tokens of one batch, padding included.",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.batch_texts = Histogram(
            "tandem_embedder_batch_texts", "Texts of one batch.", buckets=_TEXT_BUCKETS, registry=registry
        )
        self.inference_seconds = Histogram(
            "tandem_embedder_inference_seconds",
            "Duration of one batch on the model.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.texts = Counter("tandem_embedder_texts_total", "Texts embedded.", registry=registry)
        self.tokens = Counter("tandem_embedder_tokens_total", "Tokens embedded, without padding.", registry=registry)
        self.padding_tokens = Counter(
            "tandem_embedder_padding_tokens_total", "Tokens computed only to even out a batch.", registry=registry
        )
        self.cache_hits = Counter(
            "tandem_embedder_cache_hits_total", "Texts whose vectors were still known.", registry=registry
        )
        self.truncated_texts = Counter(
            "tandem_embedder_truncated_texts_total",
            "Texts embedded that were cut to what the model reads.",
            registry=registry,
        )
        self.failed_batches = Counter(
            "tandem_embedder_failed_batches_total", "Batches that the model failed on.", registry=registry
        )
