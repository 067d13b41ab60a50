"""Every knob of the router; the variables are ROUTER_<FIELD>."""

from dataclasses import dataclass
from pathlib import Path

from tandem.config import ServerConfig, setting

POLICY_NAMES = ("auto", "cascade", "dual", "ensemble", "finetuned", "rag")
DEPTHS = ("words", "vectors", "likelihood", "entailment")


@dataclass(frozen=True, kw_only=True)
class RouterConfig(ServerConfig):
    """Holds the settings of one router process."""

    listen: str = setting("127.0.0.1:7700", help="Address of the gRPC server; port 0 takes a free one.")
    metrics_listen: str = setting(
        "127.0.0.1:9700", help="Address of the HTTP endpoint /metrics; port 0 takes a free one."
    )

    embedder_target: str = setting("127.0.0.1:7701", help="Address of the embedder.")
    retriever_target: str = setting("127.0.0.1:7702", help="Address of the retriever.")
    generator_target: str = setting("127.0.0.1:7703", help="Address of the generator.")
    breaker_failures: int = setting(
        5,
        help="Failures in a row after which a peer is not asked for a while: UNAVAILABLE, INTERNAL, UNKNOWN, and a "
        "deadline of at least 250 ms that passes before the peer begins to answer.",
        minimum=1,
        maximum=1000,
    )
    hedge_seconds: float = setting(
        0.0,
        help="After how long without an answer Embed and Search are sent once more, to another replica where there is "
        "one; a little over their p95 is a good time. At most a tenth of the calls are; 0 never sends twice.",
        unit="s",
        minimum=0.0,
        maximum=60,
    )
    breaker_seconds: float = setting(
        5.0,
        help="How long such a peer is not asked; then one call tries it.",
        unit="s",
        minimum=0.1,
        maximum=600,
    )

    domains_dir: Path | None = setting(
        None,
        help="Folder of one <name>.toml for each domain. Unset serves one domain, `default`, by the settings below; "
        "with a folder they are what a file leaves out.",
    )
    domains_refresh_seconds: float = setting(
        2.0, help="How often the files of the domains are looked at.", unit="s", minimum=0.1, maximum=3600
    )
    default_policy: str = setting("cascade", help="Policy of a domain that names none.", choices=POLICY_NAMES)
    cascade_threshold: float = setting(
        0.95,
        help="Confidence from which a fine-tuned answer is accepted in a domain without a calibration: the geometric "
        "mean of its tokens' probabilities, and small models are sure of too much. Higher escalates more.",
        minimum=0,
        maximum=1,
    )
    min_groundedness: float = setting(
        0.4,
        help="Least groundedness of an answer read from passages; with less it is withheld and the router abstains. "
        "0 withholds nothing.",
        minimum=0,
        maximum=1,
    )
    grounding_depth: str = setting(
        "words",
        help="Which evidence groundedness is told by: `words` asks no peer, `vectors` adds one call of Embed, "
        "`likelihood` one of Score as well; `entailment` asks ClassifyPairs instead.",
        choices=DEPTHS,
    )
    stream_drafts: bool = setting(
        True,
        help="Whether StreamAsk sends the deltas of a cascade's draft before it is accepted; an escalation then "
        "discards them. False holds them back: a later first token, but no text that is taken back.",
    )

    answer_adapter: str = setting(
        "answers",
        help="Name of the adapter that answers from its weights; `name@candidate` or `name@<version>` is one of them. "
        "Empty means none.",
    )
    reading_adapter: str = setting(
        "reading", help="Name of the adapter that reads passages; where it is not loaded the base model reads."
    )
    adapter_cache_seconds: float = setting(
        5.0, help="How long a tenant's list of adapters is believed.", unit="s", minimum=0, maximum=3600
    )
    max_answer_tokens: int = setting(192, help="Most tokens of an answer.", unit="tokens", minimum=1, maximum=4096)
    default_passages: int = setting(3, help="Passages retrieved when the request does not say.", minimum=1, maximum=20)
    max_prompt_characters: int = setting(
        12_000,
        help="Most characters of passages in a prompt; the last passages are left out beyond it. A prompt that still "
        "exceeds the model's context is tried again with half the passages.",
        unit="characters",
        minimum=256,
        maximum=60_000,
    )

    max_concurrent_answers: int = setting(
        32, help="Answers made at once; more wait or are refused.", minimum=1, maximum=10_000
    )
    max_waiting_answers: int = setting(
        32,
        help="Calls that may wait for their turn; more are refused with RESOURCE_EXHAUSTED.",
        minimum=0,
        maximum=10_000,
    )

    audit_url: str = setting(
        "sqlite:///.tandem/data/audit.db",
        help="SQLAlchemy URL of the audit log. SQLite is opened in WAL mode with synchronous=FULL.",
    )
    audit_text: str = setting(
        "full",
        help="What the audit log keeps of questions, answers and quotes: their text, or only its SHA-256.",
        choices=("full", "hash"),
    )
    writer: str = setting(
        "router",
        help="Name of this process's audit chain. It must be stable over restarts and is held by one process at a "
        "time: replicas need a name each, for example that of their pod.",
    )
    audit_queue: int = setting(
        1024,
        help="Audit entries that may wait for the writer; beyond it answers are refused.",
        minimum=2,
        maximum=100_000,
    )
