"""Every metric and span of the generator."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SPANS: dict[str, str] = {
    "generator.tokenize": "Rendering and tokenisation of the prompts of one call.",
    "generator.sequence": "One sequence, from the queue to its last token. Attributes gen_ai.request.model, "
    "gen_ai.usage.input_tokens, gen_ai.usage.output_tokens.",
    "generator.score": "The scoring of one call's continuations, from the queue to the last. Attributes "
    "gen_ai.request.model, gen_ai.usage.input_tokens.",
}
"""Spans that the generator opens itself, inside the server span of the call."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)


class GeneratorMetrics:
    """Owns the generator's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._declare_load()
        self._declare_tokens()
        self._declare_times()
        self._declare_cache()
        self._declare_adapters()

    def _declare_load(self) -> None:
        self.waiting = Gauge(
            "tandem_generator_waiting_sequences",
            "Sequences that have arrived and not started; a scoring counts once.",
            registry=self._registry,
        )
        self.running = Gauge(
            "tandem_generator_running_sequences", "Sequences that hold a place in the batch.", registry=self._registry
        )
        self.batch_rows = Histogram(
            "tandem_generator_batch_rows",
            "Rows of one step: the prompts that were continued or read in it.",
            buckets=_ROWS,
            registry=self._registry,
        )
        self.sequences = Counter(
            "tandem_generator_sequences_total",
            "Sequences that left, by reason: stop, length, cancelled, deadline, failed. Each scored continuation "
            "is one.",
            ["reason"],
            registry=self._registry,
        )
        self.refused = Counter(
            "tandem_generator_sequences_refused_total",
            "Calls refused at the door because the queue was full.",
            registry=self._registry,
        )
        self.preemptions = Counter(
            "tandem_generator_preemptions_total",
            "Sequences that gave their blocks away and are read again later.",
            registry=self._registry,
        )

    def _declare_tokens(self) -> None:
        self.prefill_tokens = Counter(
            "tandem_generator_prefill_tokens_total",
            "Tokens read before the first one is drawn, again after a preemption; those of shared blocks not counted.",
            registry=self._registry,
        )
        self.decode_tokens = Counter(
            "tandem_generator_decode_tokens_total", "Tokens generated.", registry=self._registry
        )
        self.blended_rows = Counter(
            "tandem_generator_blended_rows_total",
            "Rows computed for the tokens of blends, one for each prompt of each token.",
            registry=self._registry,
        )
        self.scored_tokens = Counter(
            "tandem_generator_scored_tokens_total",
            "Tokens of continuations whose likelihood was computed.",
            registry=self._registry,
        )
        self.tenant_tokens = Counter(
            "tandem_generator_tenant_tokens_total",
            "Tokens of each tenant's sequences that left, by kind: input (prompts and scored continuations), output.",
            ["tenant", "kind"],
            registry=self._registry,
        )

    def _declare_times(self) -> None:
        self.step_seconds = Histogram(
            "tandem_generator_step_seconds",
            "Duration of one step of the model, by kind: prefill, decode, mixed.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.queue_seconds = Histogram(
            "tandem_generator_queue_seconds",
            "Time of a sequence from arrival to the start of its prefill.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.time_to_first_token = Histogram(
            "tandem_generator_time_to_first_token_seconds",
            "Time of a sequence from arrival to its first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.time_per_output_token = Histogram(
            "tandem_generator_time_per_output_token_seconds",
            "Mean time between the tokens of a finished sequence, after its first.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def _declare_cache(self) -> None:
        self.kv_blocks = Gauge(
            "tandem_generator_kv_blocks",
            "Blocks of keys and values, by state: used (held by running sequences), cached (kept for prefixes to "
            "come), free. Together they are all that there are.",
            ["state"],
            registry=self._registry,
        )
        self.prefix_lookup_tokens = Counter(
            "tandem_generator_prefix_lookup_tokens_total",
            "Tokens of starting sequences that might have come from shared blocks.",
            registry=self._registry,
        )
        self.prefix_hit_tokens = Counter(
            "tandem_generator_prefix_hit_tokens_total",
            "Tokens that did come from shared blocks and were not read again.",
            registry=self._registry,
        )

    def _declare_adapters(self) -> None:
        self.adapters = Gauge(
            "tandem_generator_loaded_adapters", "Adapters in memory that calls may name.", registry=self._registry
        )
        self.adapters_retired = Gauge(
            "tandem_generator_retired_adapters",
            "Adapter versions that no new call gets and that stay in memory until their last sequence has ended.",
            registry=self._registry,
        )
        self.adapters_refused = Counter(
            "tandem_generator_adapters_refused_total",
            "Versions in the adapter folder that were to serve and failed a check, operators' loads not counted.",
            registry=self._registry,
        )
        self.adapter_loads = Counter(
            "tandem_generator_adapter_loads_total",
            "Loads of an adapter while serving, by outcome: loaded, unchanged, refused, failed.",
            ["outcome"],
            registry=self._registry,
        )
        self.adapter_calls = Counter(
            "tandem_generator_adapter_calls_total",
            "Calls that named an adapter, once for each name, by what they got: stable, candidate, version (one that "
            "was named by its hash).",
            ["version"],
            registry=self._registry,
        )
        self.adapter_changes = Counter(
            "tandem_generator_adapter_changes_total",
            "Changes of aliases by operators of this process, by kind: promoted, rolled_back, canary.",
            ["kind"],
            registry=self._registry,
        )
        self.adapter_unloads = Counter(
            "tandem_generator_adapter_unloads_total",
            "Adapter versions whose weights were dropped from memory.",
            registry=self._registry,
        )
