"""The registry: what it lets through, what it refuses and why, and who sees what."""

import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.domain import Adapter
from services.generator.registry import CONFIG, WEIGHTS, AdapterRefused, Registry, scan, verify
from tandem.errors import ConfigError, NotFound

SHAPES = {"model.layers.0.self_attn.q_proj": (6, 4)}
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
GOOD_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "lora_dropout": 0.0}


def tensors(rank: int = 2, out: int = 6, into: int = 4) -> dict[str, list[int]]:
    return {f"{PREFIX}.lora_A.weight": [rank, into], f"{PREFIX}.lora_B.weight": [out, rank]}


def safetensors_bytes(shapes: dict[str, list[int]], *, dtype: str = "F16", width: int = 2) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + shape[0] * shape[1] * width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def place(
    folder: Path, *, tenant: str = "halden", name: str = "answers", config: object = GOOD_CONFIG, data: bytes = b""
) -> Path:
    target = folder / tenant / name
    target.mkdir(parents=True)
    (target / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    (target / WEIGHTS).write_bytes(data or safetensors_bytes(tensors()))
    return target


def test_a_good_adapter_is_described(tmp_path: Path) -> None:
    adapter = verify(place(tmp_path), SHAPES)
    assert (adapter.tenant, adapter.name, adapter.rank, adapter.scale) == ("halden", "answers", 2, 2.0)
    assert adapter.num_parameters == 2 * 4 + 6 * 2
    assert len(adapter.sha256) == 64


def test_rank_stabilised_adapters_scale_with_the_root(tmp_path: Path) -> None:
    config = {**GOOD_CONFIG, "r": 4, "lora_alpha": 4, "use_rslora": True}
    assert verify(place(tmp_path, config=config, data=safetensors_bytes(tensors(rank=4))), SHAPES).scale == 2.0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "cannot be read"),
        ([], "does not describe a LoRA"),
        ({**GOOD_CONFIG, "peft_type": "PREFIX_TUNING"}, "does not describe a LoRA"),
        ({**GOOD_CONFIG, "r": "2"}, "r is not"),
        ({**GOOD_CONFIG, "r": 0}, "r is not"),
        ({**GOOD_CONFIG, "lora_alpha": None}, "lora_alpha"),
        ({**GOOD_CONFIG, "use_dora": True}, "use_dora is not supported"),
        ({**GOOD_CONFIG, "modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({**GOOD_CONFIG, "bias": "all"}, "biases"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(tmp_path: Path, config: object, reason: str) -> None:
    with pytest.raises(AdapterRefused, match=reason):
        verify(place(tmp_path, config=config), SHAPES)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00", "damaged"),
        (struct.pack("<Q", 2**63) + b"{}", "damaged"),
        (struct.pack("<Q", 3) + b"{]}", "damaged"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
        (struct.pack("<Q", 2) + b"{}", "no weights"),
        (struct.pack("<Q", 10) + b'{"a": {}} ', "damaged"),
        (safetensors_bytes(tensors())[:-1], "cut short"),
        (safetensors_bytes(tensors()) + b"x", "cut short or padded"),
        (safetensors_bytes(tensors(), dtype="I64", width=8), "number format"),
        (safetensors_bytes(tensors(), dtype="F32", width=2), "does not match"),
        (safetensors_bytes(tensors(rank=3)), "the base model needs"),
        (safetensors_bytes(tensors(out=7)), "the base model needs"),
        (safetensors_bytes({"base_model.model.other.lora_A.weight": [2, 4]}), "no place for"),
        (safetensors_bytes({f"{PREFIX}.lora_A.weight": [2, 4]}), "only one of its two"),
        (safetensors_bytes({"__proto__": [1, 1]}), "no place for"),
    ],
)
def test_weights_that_are_damaged_or_foreign_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(AdapterRefused, match=reason):
        verify(place(tmp_path, data=data), SHAPES)


@given(data=st.binary(max_size=200))
def test_no_bytes_at_all_break_the_check(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(AdapterRefused):
        verify(place(tmp_path_factory.mktemp("adapters"), data=data or b"\x00"), SHAPES)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    folder = place(tmp_path)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterRefused, match=r"only safetensors are loaded, not adapter_model\.bin"):
        verify(folder, SHAPES)


def test_a_scan_keeps_the_good_and_logs_the_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place(tmp_path)
    place(tmp_path, name="broken", data=b"\x00")
    place(tmp_path, tenant="_shared", name="style")
    place(tmp_path, name="has blank")
    with caplog.at_level(logging.WARNING):
        good, refused = scan(tmp_path, SHAPES, max_adapters=8)
    assert [adapter.key for adapter in good] == ["_shared/style", "halden/answers"]
    assert refused == 2
    assert "adapter refused" in caplog.text


def test_a_missing_folder_or_too_many_adapters_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        scan(tmp_path / "nowhere", SHAPES, max_adapters=8)
    for number in range(3):
        place(tmp_path, name=f"a{number}")
    with pytest.raises(ConfigError, match="holds 3 adapters"):
        scan(tmp_path, SHAPES, max_adapters=2)


def adapter(tenant: str, name: str) -> Adapter:
    folder = Path("/nowhere") / tenant / name
    return Adapter(tenant=tenant, name=name, sha256="", rank=1, scale=1.0, num_parameters=1, folder=folder)


def test_a_tenant_sees_its_own_adapters_and_the_shared_ones() -> None:
    registry = Registry(
        [adapter("halden", "answers"), adapter("_shared", "style"), adapter("_shared", "answers"), adapter("b", "x")]
    )
    assert [a.key for a in registry.visible("halden")] == ["halden/answers", "_shared/style"]
    assert [a.key for a in registry.visible("brightwater")] == ["_shared/answers", "_shared/style"]
    assert registry.find("answers", tenant="halden").tenant == "halden"
    assert registry.find("answers", tenant="b").tenant == "_shared"


@pytest.mark.parametrize("name", ["x", "../b/x", "b/x", "", "nothing"])
def test_another_tenants_adapter_is_not_found_like_one_that_does_not_exist(name: str) -> None:
    registry = Registry([adapter("b", "x")])
    with pytest.raises(NotFound) as error:
        registry.find(name, tenant="halden")
    assert error.value.message == "no such adapter is loaded"


def test_a_callers_tenant_named_like_the_shared_folder_sees_the_shared_only() -> None:
    registry = Registry([adapter("_shared", "style"), adapter("b", "x")])
    assert [a.key for a in registry.visible("_shared")] == ["_shared/style"]
