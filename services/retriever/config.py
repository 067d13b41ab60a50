"""Knobs of the retriever, read from ``RETRIEVER_*`` environment variables."""

from dataclasses import dataclass
from pathlib import Path

from tandem.config import ServerConfig, setting
from tandem.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig(ServerConfig):
    """Configures one retriever process."""

    listen: str = setting("127.0.0.1:7702", help="Address that the gRPC server binds, host:port.")
    metrics_listen: str = setting("127.0.0.1:9702", help="Address of the Prometheus endpoint, host:port.")
    milvus_uri: str = setting(
        ".tandem/data/milvus.db",
        help="Where Milvus is: a file path runs Milvus Lite as a child process on that file; http(s)://host:port is a "
        "server, https speaks TLS. BM25 needs Milvus 2.5; an older one (2.3 or newer) ranks by meaning alone.",
    )
    milvus_token: str = setting("", help="user:password or API key of the Milvus server; unused for a file.")
    milvus_token_file: Path | None = setting(None, help="File with user:password, in place of MILVUS_TOKEN.")
    milvus_ca_file: Path | None = setting(
        None, help="PEM file of the authority that signs the server's certificate. Unset: those that gRPC brings."
    )
    milvus_cert_file: Path | None = setting(
        None, help="PEM file of the retriever's own certificate, for a server that asks for one; with MILVUS_CA_FILE."
    )
    milvus_key_file: Path | None = setting(None, help="PEM file of the key of MILVUS_CERT_FILE, without a password.")
    milvus_server_name: str = setting(
        "", help="Name in the server's certificate where it is not the host of MILVUS_URI."
    )
    collection: str = setting(
        "tandem",
        help="Name of the collections: <name>_documents, <name>_texts, <name>_meta and <name>_s_<key> for each "
        "snapshot.",
    )
    dimension: int = setting(
        384,
        minimum=2,
        maximum=32_768,
        help="Components of an embedding: that of the embedder's model. A collection keeps the one it was made with.",
    )
    analyzer: str = setting(
        "english",
        choices=("english", "standard"),
        help="How BM25 splits text into terms in a new collection or snapshot: english also stems and drops stop "
        "words.",
    )
    snapshot_refresh_seconds: float = setting(
        2.0,
        unit="s",
        minimum=0.1,
        maximum=60,
        help="How often each replica on a Milvus server reads which snapshot is live.",
    )
    consistency: str = setting(
        "Bounded",
        choices=("Bounded", "Strong"),
        help="What makes acknowledged writes visible on a Milvus server. Bounded: a write is acknowledged once reads "
        "see it, and reads do not wait. Strong: reads wait for the server's newest tick, about 200 ms each; for "
        "collections that the server keeps in several in-memory replicas. Milvus Lite is always consistent.",
    )
    store_timeout_seconds: float = setting(
        20.0, unit="s", minimum=0.1, maximum=600, help="Longest wait for one answer of Milvus."
    )
    store_concurrency: int = setting(8, minimum=1, maximum=256, help="Calls to Milvus under way at once.")
    embedder_target: str = setting("127.0.0.1:7701", help="Address of the embedder.")
    embedder_next_target: str = setting(
        "",
        help="Address of a second embedder, with another model, while the collection goes over to it: snapshots are "
        "made with its model, and each search asks the one whose model its snapshot has. Empty: none.",
    )
    embed_timeout_seconds: float = setting(
        120.0, unit="s", minimum=0.1, maximum=3600, help="Longest wait for one Embed call of an ingestion."
    )
    embed_batch_texts: int = setting(
        64, unit="chunks", minimum=1, maximum=512, help="Most chunks of one Embed call of an ingestion."
    )
    embed_concurrency: int = setting(
        2, minimum=1, maximum=64, help="Embed calls of ingestions under way at once; two hide the network."
    )
    fusion: str = setting(
        "weighted",
        choices=("weighted", "rrf"),
        help="How a hybrid search that does not say merges its rankings: weighted by scores, rrf by places. By places, "
        "a ranking that is much the worse of the two drags the other down.",
    )
    fusion_dense_weight: float = setting(
        0.5,
        minimum=0,
        maximum=1,
        help="Share of the dense ranking in that; the rest is BM25's. `tandem evaluate retrieval --tune` tells what "
        "is best for labelled questions of your own.",
    )
    fusion_k: int = setting(
        60, minimum=1, maximum=1_000, help="How little the first places count more in rrf; see ReciprocalRank.k."
    )
    rerank: bool = setting(
        False, help="Whether searches that do not say ask the embedder's reranker, which it must then have."
    )
    chunk_characters: int = setting(
        900,
        unit="characters",
        minimum=100,
        maximum=8_000,
        help="Most characters of a chunk in a new collection or snapshot. What the embedding model does not read of a "
        "chunk is found by BM25 only: 900 fit 256 tokens of English with title and headings.",
    )
    parse_workers: int = setting(1, minimum=1, maximum=64, help="Processes that parse documents.")
    parse_seconds: float = setting(
        30.0, unit="s", minimum=0.1, maximum=3600, help="Longest time that one document may take to parse."
    )
    parse_memory_mib: int = setting(
        1024, unit="MiB", minimum=256, maximum=65_536, help="Address space of a parsing process."
    )
    max_text_characters: int = setting(
        3_000_000,
        unit="characters",
        minimum=1_000,
        maximum=30_000_000,
        help="Most extracted text of one document; beyond it the document is rejected. GetDocument returns the text "
        "in one message: raise MAX_MESSAGE_BYTES along.",
    )
    write_batch_chunks: int = setting(
        500, unit="chunks", minimum=1, maximum=5_000, help="Chunks that one write gathers from waiting documents."
    )
    max_ingest_streams: int = setting(4, minimum=1, maximum=1_000, help="IngestDocuments calls served at once.")
    max_ingest_documents: int = setting(
        64, minimum=1, maximum=10_000, help="Documents of one stream in the service at a time."
    )
    max_ingest_mib: int = setting(
        64, unit="MiB", minimum=32, maximum=65_536, help="Bytes of one stream's documents in the service at a time."
    )
    spool_dir: Path | None = setting(
        None,
        help="Folder in which jobs wait and survive a restart; one for each process, on a disk that outlives it. "
        "Unset: <file>.spool beside the Milvus file, .tandem/data/spool where Milvus is a server.",
    )
    job_concurrency: int = setting(
        2, minimum=1, maximum=64, help="Tenants whose jobs are worked on at once; the others take turns with them."
    )
    max_jobs: int = setting(
        100, minimum=1, maximum=10_000, help="Jobs of a tenant that run; as many that have ended are remembered."
    )
    max_job_mib: int = setting(
        2048, unit="MiB", minimum=32, maximum=16_777_216, help="Disk that a tenant's jobs and their results may take."
    )
    job_keep_days: float = setting(
        7.0, unit="days", minimum=0, maximum=3650, help="How long a job that has ended is remembered."
    )
    sources_file: Path | None = setting(
        None, help="TOML file of the folders to watch and the feeds to pull; read at the start. Unset: none."
    )

    @property
    def spool(self) -> Path:
        """The folder in which jobs wait."""
        if self.spool_dir is not None:
            return self.spool_dir
        is_server = self.milvus_uri.startswith(("http://", "https://"))
        return Path(".tandem/data/spool") if is_server else Path(f"{self.milvus_uri}.spool")

    def __post_init__(self) -> None:
        tls = {
            "CA_FILE": self.milvus_ca_file,
            "CERT_FILE": self.milvus_cert_file,
            "KEY_FILE": self.milvus_key_file,
            "SERVER_NAME": self.milvus_server_name,
        }
        for name, value in tls.items():
            if value and not self.milvus_uri.startswith("https://"):
                raise ConfigError(f"RETRIEVER_MILVUS_{name} is for TLS: RETRIEVER_MILVUS_URI must begin with https://")
        if (self.milvus_cert_file is None) != (self.milvus_key_file is None):
            raise ConfigError("set both RETRIEVER_MILVUS_CERT_FILE and RETRIEVER_MILVUS_KEY_FILE, or neither")
        if self.milvus_cert_file is not None and self.milvus_ca_file is None:
            raise ConfigError("RETRIEVER_MILVUS_CERT_FILE needs RETRIEVER_MILVUS_CA_FILE too")
        if self.milvus_token and self.milvus_token_file is not None:
            raise ConfigError("set one of RETRIEVER_MILVUS_TOKEN and RETRIEVER_MILVUS_TOKEN_FILE, not both")
        if "://" in self.milvus_uri and not self.milvus_uri.startswith(("http://", "https://")):
            raise ConfigError(f"RETRIEVER_MILVUS_URI={self.milvus_uri!r} must be a path, http:// or https://host:port")
