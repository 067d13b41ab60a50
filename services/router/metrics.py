"""Every metric and span of the router."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SPANS: dict[str, str] = {
    "router.answer": "One answer, from admission to its closed audit record.",
    "router.rewrite": "The question is made self-contained.",
    "router.embed": "The question is embedded.",
    "router.search": "Passages are searched for.",
    "router.generate.finetuned": "The adapter answers from its weights.",
    "router.generate.rag": "An answer is read from passages.",
    "router.generate.ensemble": "Weights and passages answer together.",
    "router.scope": "The question's distance to the adapter's training questions is measured.",
    "router.ground": "How far passages support each sentence of the answer is judged.",
    "router.audit": "An audit record is made durable.",
}
STAGES = (
    "rewrite",
    "embed",
    "scope",
    "search",
    "generate.finetuned",
    "generate.rag",
    "generate.ensemble",
    "ground",
    "audit",
    "total",
)

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)


class RouterMetrics:
    """Holds the router's collectors; labels never carry ids, tenants or text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "tandem_router_answers_total",
            "Answers that ended, by the deciding policy, the path whose text was given, and how they ended.",
            ["policy", "route", "outcome"],
            registry=registry,
        )
        self.escalations = Counter(
            "tandem_router_escalations_total", "Drafts given up for another path.", ["policy"], registry=registry
        )
        self.degraded = Counter(
            "tandem_router_degraded_total",
            "Answers given without a part that was missing.",
            ["component"],
            registry=registry,
        )
        self.domain_loads = Counter(
            "tandem_router_domain_loads_total",
            "Files of domains that were new or changed: good, faulty (the last good version stays in use) or removed.",
            ["outcome"],
            registry=registry,
        )
        self.refused = Counter(
            "tandem_router_refused_total",
            "Questions refused at the door because too many were waiting.",
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "tandem_router_stage_seconds", "Wall time of a stage.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.confidence = Histogram(
            "tandem_router_confidence_ratio",
            "Confidence of drafts, accepted or not, by the path that made them.",
            ["route"],
            buckets=_SHARES,
            registry=registry,
        )
        self.scope = Counter(
            "tandem_router_scope_total",
            "Questions whose distance to what the adapter was trained on was measured, by where they lie: inside or "
            "outside of its scope.",
            ["lies"],
            registry=registry,
        )
        self.tokens = Counter(
            "tandem_router_tokens_total", "Tokens read and written, by path.", ["route", "direction"], registry=registry
        )
        self.citations = Counter("tandem_router_citations_total", "Citations given.", registry=registry)
        self.open_answers = Gauge("tandem_router_open_answers", "Answers being made now.", registry=registry)
        self.waiting_answers = Gauge(
            "tandem_router_waiting_answers", "Calls that wait for their turn.", registry=registry
        )
        self.breaker_state = Gauge(
            "tandem_router_breaker_state",
            "Whether a peer is asked: 0 yes, 1 one call on trial, 2 not for now because its last calls failed.",
            ["component"],
            registry=registry,
        )
        self.hedges = Counter(
            "tandem_router_hedges_total",
            "Calls that were sent once more because their answer took long.",
            ["component"],
            registry=registry,
        )
        self.audit_append_seconds = Histogram(
            "tandem_router_audit_append_seconds",
            "Time from handing over an audit entry to its durability.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.audit_batch_entries = Histogram(
            "tandem_router_audit_batch_entries",
            "Audit entries made durable by one commit.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.audit_failures = Counter(
            "tandem_router_audit_failures_total", "Audit entries that could not be written.", registry=registry
        )
        self.feedback = Counter(
            "tandem_router_feedback_total",
            "Verdicts of people that were recorded, by the policy that decided and the path whose text they judged.",
            ["policy", "route", "verdict"],
            registry=registry,
        )
        self.deflected_tickets = Counter(
            "tandem_router_deflected_tickets_total",
            "Answers that saved a ticket or a call, as people said, by the policy that decided.",
            ["policy"],
            registry=registry,
        )
