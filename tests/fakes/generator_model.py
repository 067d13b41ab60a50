"""A tiny language model with random weights, and adapters for it: real files that load in milliseconds."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CONTEXT = 256
WIDTH, HIDDEN = 32, 48


def write_model(folder: Path, *, chat_template: bool = True, seed: int = 0) -> Path:
    """Writes a two-layer Llama whose tokens are bytes; returns the folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "</s>": 1, "<s>": 2} | {sign: index + 3 for index, sign in enumerate(alphabet)}
    inner = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_relative(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Writes a tiny model with random weights of another kind of the Llama family, without a tokenizer."""
    sizes = {
        "vocab_size": 97,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    made: dict[str, tuple[type, PreTrainedConfig]] = {
        "llama-tied": (LlamaForCausalLM, LlamaConfig(**sizes, tie_word_embeddings=True)),
        "llama-biased": (LlamaForCausalLM, LlamaConfig(**sizes, attention_bias=True, mlp_bias=True)),
        "llama3-rope": (LlamaForCausalLM, LlamaConfig(**sizes, rope_parameters=llama3)),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**sizes)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**sizes, head_dim=16)),
    }
    torch.manual_seed(seed)
    architecture, config = made[kind]
    model = architecture(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                # Neither 1 nor 0, as they are at first: leaving them out must show.
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return folder


def write_adapter(folder: Path, *, seed: int, rank: int = 2, width: int = WIDTH, scale: float = 1.0) -> Path:
    """Writes an adapter with random weights on q_proj and down_proj of both layers; returns the folder.

    `scale` enlarges what goes in: from 1e38 on, activations overflow.
    """
    folder.mkdir(parents=True)
    noise = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(2):
        for name, into in ((f"layers.{layer}.self_attn.q_proj", width), (f"layers.{layer}.mlp.down_proj", HIDDEN)):
            prefix = f"base_model.model.model.{name}"
            weights[f"{prefix}.lora_A.weight"] = (torch.randn(rank, into, generator=noise) * scale).clamp(-3e38, 3e38)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(width, rank, generator=noise)
    save_file(weights, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_prefix(folder: Path, *, seed: int, num_virtual: int = 5, values: int = 2 * 2 * WIDTH // 2) -> Path:
    """Writes a prefix with random keys and values for the tiny Llama, as PEFT keeps it; returns the folder."""
    folder.mkdir(parents=True)
    found = torch.randn(num_virtual, values, generator=torch.Generator().manual_seed(seed))
    save_file({"prompt_embeddings": found}, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "inference_mode": True,
        "num_attention_heads": 2,
        "num_layers": 2,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": num_virtual,
        "prefix_projection": False,
        "token_dim": WIDTH // 2,
        "encoder_hidden_size": WIDTH // 2,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
