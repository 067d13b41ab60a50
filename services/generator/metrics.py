"""Every metric and span of the generator."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SPANS: dict[str, str] = {
    "generator.tokenize": "Rendering and tokenisation of one prompt.",
    "generator.sequence": "One sequence, from the queue to its last token. Attributes gen_ai.request.model, "
    "gen_ai.usage.input_tokens, gen_ai.usage.output_tokens.",
}
"""Spans that the generator opens itself, inside the server span of the call."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)


class GeneratorMetrics:
    """Owns the generator's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge("tandem_generator_waiting_sequences", "Sequences not yet started.", registry=registry)
        self.running = Gauge("tandem_generator_running_sequences", "Sequences being decoded.", registry=registry)
        self.running_tokens = Gauge(
            "tandem_generator_running_tokens",
            "Tokens that the running sequences may come to hold, prompts and outputs.",
            registry=registry,
        )
        self.adapters = Gauge("tandem_generator_loaded_adapters", "Adapters in memory.", registry=registry)
        self.adapters_refused = Counter(
            "tandem_generator_adapters_refused_total",
            "Adapters on disk that failed a check and were not loaded.",
            registry=registry,
        )
        self.prefill_tokens = Counter(
            "tandem_generator_prefill_tokens_total", "Prompt tokens read, without padding.", registry=registry
        )
        self.decode_tokens = Counter("tandem_generator_decode_tokens_total", "Tokens generated.", registry=registry)
        self.batch_sequences = Histogram(
            "tandem_generator_batch_sequences", "Sequences in one decoding step.", buckets=_ROWS, registry=registry
        )
        self.step_seconds = Histogram(
            "tandem_generator_step_seconds",
            "Duration of one step of the model, by kind: prefill, decode.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tandem_generator_queue_seconds",
            "Time of a sequence from arrival to the start of its prefill.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "tandem_generator_time_to_first_token_seconds",
            "Time of a sequence from arrival to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.time_per_output_token = Histogram(
            "tandem_generator_time_per_output_token_seconds",
            "Mean time between the tokens of a finished sequence, after its first.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.sequences = Counter(
            "tandem_generator_sequences_total",
            "Sequences that left, by reason: stop, length, cancelled, deadline, failed.",
            ["reason"],
            registry=registry,
        )
        self.refused = Counter(
            "tandem_generator_sequences_refused_total",
            "Sequences refused at the door because the queue was full.",
            registry=registry,
        )
