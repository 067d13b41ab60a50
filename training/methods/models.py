"""Loads a base model, puts on it what is to be trained, and writes what came out.

LoRA (arXiv 2106.09685) and prefix tuning (arXiv 2101.00190) leave the base
model in its compute precision and without a gradient; what they train is
float32. A full fine-tune holds float32 weights and computes in bfloat16.

Written are, as float16 or as the base model has it:

    lora     adapter_config.json, adapter_model.safetensors: base_model.model.<layer>.lora_A|B.weight
    prefix   adapter_config.json, adapter_model.safetensors: prompt_embeddings (n, 2 * layers * key-value heads * head)
    full     a folder in Hugging Face layout, tokenizer included

A prefix's keys stand in the cache as they are, position already applied, in
the order layer 0 keys, layer 0 values, layer 1 keys, ...; the prompt's first
token has position n.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model, get_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from training.methods.batches import Encoded
from training.methods.plan import Method, MethodError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps libraries from writing over a progress bar, and a deprecation within them from the user."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers 5.23 by an attribute's former name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def check_base(folder: Path) -> Path:
    """Returns the folder of a base model; raises MethodError where there is none."""
    folder = folder.expanduser()
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise MethodError(
            f"there is no base model in {folder}: it needs config.json and *.safetensors; "
            "`python -m services.generator --prepare` makes the bundled one"
        )
    return folder


def base_sha256(folder: Path) -> str:
    """Returns the SHA-256 over the base model's weight files, in order of name, as the generator counts it."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_device(device: str) -> str:
    """Returns "cpu" or "cuda"; raises MethodError where the machine has no such device."""
    if device not in ("cpu", "cuda"):
        raise MethodError(f"device {device!r} is not one of: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MethodError("this machine or this build of torch has no CUDA device; train with device cpu")
    return device


def load_config(folder: Path) -> Any:
    """Returns the base model's configuration; raises MethodError where it cannot be read."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MethodError(f"the configuration of {folder} cannot be read: {error}") from None


def load_tokenizer(folder: Path) -> Any:
    """Returns the base model's tokenizer; raises MethodError where it cannot render a chat."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MethodError(f"the tokenizer of {folder} cannot be loaded: {error}") from None
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise MethodError(f"the tokenizer of {folder} has no chat template or no end token; take an instruct model")
    return tokenizer


def load_model(folder: Path, dtype: torch.dtype, device: str) -> Any:
    """Returns the causal language model of a folder; raises MethodError where its weights cannot be read."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise MethodError(f"the base model in {folder} cannot be loaded: {error}") from None
    return model.to(device)


def compute_dtype(method: Method) -> torch.dtype:
    """Returns what the base model computes in."""
    return torch.bfloat16 if method.precision == "bf16" else torch.float32


def prepare(folder: Path, method: Method, device: str) -> Any:
    """Returns the base model with what the method trains on it, the first weights drawn from the method's seed."""
    torch.manual_seed(method.seed)
    model = load_model(folder, torch.float32 if method.name == "full" else compute_dtype(method), device)
    if method.name == "full":
        return model
    if method.name == "prefix":
        return get_peft_model(
            model, PrefixTuningConfig(num_virtual_tokens=method.virtual_tokens, task_type="CAUSAL_LM")
        )
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = [name for name in TARGETS if name in names]
    if not targets:
        raise MethodError(f"the base model in {folder} has none of the layers {', '.join(TARGETS)}")
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def first_prefix(model: Any, examples: Sequence[Encoded]) -> None:
    """Gives a prefix its first values: the keys and values of the first examples' prompts.

    Values drawn at random are far from any that the model knows, and cost most of a short run.
    """
    wanted = model.active_peft_config.num_virtual_tokens
    tokens: list[int] = []
    for example in examples:
        tokens += example.prompt
        if len(tokens) >= wanted:
            break
    while len(tokens) < wanted:
        tokens += tokens
    base = model.get_base_model()
    with torch.no_grad():
        found = base(input_ids=torch.tensor([tokens[:wanted]], device=base.device), use_cache=True)
    initialize_kv_prefix_from_past_key_values(model, past_key_values=found.past_key_values)


@contextlib.contextmanager
def computing(model: Any, method: Method) -> Iterator[None]:
    """Computes in the method's precision: trained float32 weights are cast for each product."""
    device = torch.device(model.device).type
    with contextlib.ExitStack() as stack:
        if method.precision == "bf16":
            stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
            if method.name == "lora":
                stack.enter_context(disable_input_dtype_casting(model))
        yield


def num_trained(model: Any) -> int:
    """Returns the number of weights that training changes."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def export(model: Any, tokenizer: Any, folder: Path, *, base: Path, method: Method) -> Path:
    """Writes the result into an empty folder and returns the file of its weights; raises MethodError for NaN."""
    folder.mkdir(parents=True, exist_ok=True)
    if method.name == "full":
        _check_finite(weight for weight in model.parameters() if weight.requires_grad)
        return _export_full(model, tokenizer, folder, base=base)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.detach().to(torch.float16).cpu().contiguous() for name, tensor in sorted(state.items())}
    _check_finite(weights.values())
    save_file(weights, str(folder / WEIGHTS), metadata={"format": "pt"})
    config = _lora_config(model, base) if method.name == "lora" else _prefix_config(model, base)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder / WEIGHTS


def _check_finite(weights: Iterable[torch.Tensor]) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise MethodError(
            "training ended with weights that are no numbers, or too large to be kept; train with a lower learning rate"
        )


def _export_full(model: Any, tokenizer: Any, folder: Path, *, base: Path) -> Path:
    stored = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, use_safetensors=True).dtype
    was = model.dtype
    model.to(stored)
    model.save_pretrained(folder, max_shard_size="1TB")
    model.to(was)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder / "model.safetensors"


def _lora_config(model: Any, base: Path) -> dict[str, Any]:
    config = model.active_peft_config
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(config.target_modules),
    }


def _prefix_config(model: Any, base: Path) -> dict[str, Any]:
    config = model.active_peft_config
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": config.num_virtual_tokens,
        "prefix_projection": False,
        "token_dim": config.token_dim,
    }
