"""The checks of adapters on disk: what they let through, and what they refuse and why."""

import logging
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.registry import CONFIG, WEIGHTS, AdapterRefused, scan, verify
from tandem.errors import ConfigError
from tests.fakes.generator_adapters import GOOD_CONFIG, PREFIX, SHAPES, place, safetensors_bytes, tensors


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
        ({**GOOD_CONFIG, "lora_alpha": float("nan")}, "lora_alpha"),
        ({**GOOD_CONFIG, "lora_alpha": 10**400}, "lora_alpha"),
        ("[" * 100_000, "cannot be read"),
        ('{"r": 1' + " " * 2**20 + "}", "cannot be read"),
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
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "damaged"),
        (struct.pack("<Q", 41) + b'{"a": {"data_offsets":[0,0], "shape": 7}}', "damaged"),
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


def test_the_key_tells_weights_and_scale_apart(tmp_path: Path) -> None:
    first = verify(place(tmp_path), SHAPES)
    assert verify(place(tmp_path), SHAPES).key == first.key
    stronger = verify(place(tmp_path, config={**GOOD_CONFIG, "lora_alpha": 8}), SHAPES)
    assert stronger.sha256 == first.sha256
    assert len({first.key, stronger.key, verify(place(tmp_path, fill=1), SHAPES).key}) == 3


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    secret = place(tmp_path, tenant="brightwater", name="secret")
    folder = place(tmp_path)
    (folder / name).unlink()
    (folder / name).symlink_to(secret / name)
    with pytest.raises(AdapterRefused, match="leads out of the folder"):
        verify(folder, SHAPES)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    secret = place(tmp_path, tenant="brightwater", name="secret")
    (tmp_path / "halden").mkdir()
    (tmp_path / "halden" / "answers").symlink_to(secret)
    with pytest.raises(AdapterRefused, match="its folder is a link"):
        verify(tmp_path / "halden" / "answers", SHAPES)


def test_a_link_inside_the_folder_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    folder = place(tmp_path / "real")
    (folder / WEIGHTS).rename(folder / "version-1")
    (folder / WEIGHTS).symlink_to("version-1")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert verify(tmp_path / "root" / "halden" / "answers", SHAPES).name == "answers"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_pipe_in_place_of_a_file_does_not_hold_anything_up(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(AdapterRefused):
        verify(folder, SHAPES)


def test_a_scan_keeps_the_good_and_logs_the_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place(tmp_path)
    place(tmp_path, name="broken", data=b"\x00")
    place(tmp_path, tenant="_shared", name="style")
    place(tmp_path, name="has blank")
    with caplog.at_level(logging.WARNING):
        good, refused = scan(tmp_path, SHAPES, max_adapters=8)
    assert [(adapter.tenant, adapter.name) for adapter in good] == [("_shared", "style"), ("halden", "answers")]
    assert refused == 2
    assert "adapter refused" in caplog.text


def test_a_missing_folder_or_too_many_adapters_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        scan(tmp_path / "nowhere", SHAPES, max_adapters=8)
    for number in range(3):
        place(tmp_path, name=f"a{number}")
    with pytest.raises(ConfigError, match="holds 3 adapters"):
        scan(tmp_path, SHAPES, max_adapters=2)
