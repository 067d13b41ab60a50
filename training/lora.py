"""Low-rank adapters on a frozen model (LoRA, arXiv 2106.09685), saved in PEFT's layout.

The weights of the base model stay in the compute precision and get no
gradient; the adapter's matrices are float32 and are cast for each product.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """Adds scale * B(A(x)) to a frozen linear layer; x is (..., in), the result (..., out)."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=base.weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output with the adapter's part, unless it is switched off."""
        out: Tensor = self.base(x)
        if not self.enabled:
            return out
        low = nn.functional.linear(x, self.lora_A.to(x.dtype))
        return out + nn.functional.linear(low, (self.lora_B * self.scale).to(x.dtype))


def attach(model: nn.Module, *, rank: int, alpha: float) -> int:
    """Freezes the model and puts an adapter on each target layer; returns the number of trained weights."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS and isinstance(child, nn.Linear):
                setattr(parent, name, LoraLinear(child, rank=rank, alpha=alpha))
    return sum(weight.numel() for weight in trained(model))


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yields the adapted layers with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Returns the weights that training changes."""
    return [weight for _, layer in layers(model) for weight in (layer.lora_A, layer.lora_B)]


def switch(model: nn.Module, *, on: bool) -> None:
    """Puts the adapter in or out of effect."""
    for _, layer in layers(model):
        layer.enabled = on


def save(model: nn.Module, folder: Path, *, base_name: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors (float16) into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    rank, alpha = 0, 0.0
    for name, layer in layers(model):
        rank, alpha = layer.lora_A.shape[0], layer.scale * layer.lora_A.shape[0]
        for part in ("lora_A", "lora_B"):
            tensor = getattr(layer, part).detach().to(torch.float16).cpu().contiguous()
            weights[f"base_model.model.{name}.{part}.weight"] = tensor
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(TARGETS),
    }
    partial = folder / "adapter_model.safetensors.partial"
    save_file(weights, str(partial), metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def restore(model: nn.Module, folder: Path) -> None:
    """Puts saved weights back into an attached adapter of the same shape."""
    weights = load_file(str(folder / "adapter_model.safetensors"))
    with torch.no_grad():
        for name, layer in layers(model):
            layer.lora_A.copy_(weights[f"base_model.model.{name}.lora_A.weight"])
            layer.lora_B.copy_(weights[f"base_model.model.{name}.lora_B.weight"])
