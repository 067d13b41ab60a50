"""The OpenVINO backend beside torch: the same vectors, less exact in int8."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.embedder import backend
from services.embedder.backend import load_encoder
from services.embedder.backend.folder import BUNDLED_MODEL, find_folder, read_folder
from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder
from tandem.errors import ConfigError

TEXTS = ["short", "How long do I have to report a claim?", Path(__file__).read_text(), "Ünïcödé and emoji"]


def load(engine: str, precision: str, **settings: Any) -> Encoder:
    return load_encoder(EmbedderConfig(backend=engine, precision=precision, **settings), workers=1, threads=1)


def vectors(encoder: Encoder) -> torch.Tensor:
    return torch.tensor([list(row) for row in encoder.run(encoder.tokenize(TEXTS))])


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    return vectors(load("torch", "fp32"))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("int8", 0.97)])
def test_stays_close_to_torch(
    reference: torch.Tensor, precision: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    encoder = load("openvino", precision, cache_dir=tmp_path)
    found = vectors(encoder)
    assert (found * reference).sum(1).min() > least
    assert torch.allclose(found.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-2)
    assert (encoder.info.dimension, encoder.info.precision) == (384, precision)
    alone = torch.tensor([list(encoder.run([tokens])[0]) for tokens in encoder.tokenize(TEXTS)])
    assert (alone * found).sum(1).min() > 0.999
    plain = load("torch", "fp32").info
    same = (encoder.info.name, encoder.info.sha256) == (plain.name, plain.sha256)
    assert same == (precision != "int8")  # whose vectors belong into a collection of their own
    if precision == "int8":  # kept from here on: nothing is calibrated again
        monkeypatch.setattr("services.embedder.backend.openvino.OpenVinoEncoder._quantise", None)
        assert torch.allclose(vectors(load("openvino", precision, cache_dir=tmp_path)), found, atol=1e-5)


def test_a_text_alone_sees_nothing_of_the_one_before() -> None:
    pytest.importorskip("openvino")
    encoder = load("openvino", "fp32")
    (long,), (short,) = encoder.tokenize(["a b c d e f g h i j k"]), encoder.tokenize(["a claim"])
    first = list(encoder.run([short])[0])
    encoder.run([long])
    assert list(encoder.run([short])[0]) == pytest.approx(first, abs=1e-6)


def test_auto_takes_openvino_where_it_is_and_torch_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    fast = load("auto", "auto")
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    plain = load("auto", "auto")
    assert (fast.info.backend, plain.info.backend) == ("openvino", "torch")
    # They may share a collection, so they go by one name and make the same vectors.
    assert (fast.info.name, fast.info.sha256) == (plain.info.name, plain.info.sha256)
    assert (vectors(fast) * vectors(plain)).sum(1).min() > 0.999


@pytest.mark.parametrize(
    ("config", "machine", "settings", "chosen"),
    [
        ({"model_type": "bert"}, "x86_64", {}, "openvino"),
        ({"model_type": "bert", "is_decoder": True}, "x86_64", {}, "torch"),
        ({"model_type": "mpnet"}, "x86_64", {}, "torch"),
        ({"model_type": "bert"}, "aarch64", {}, "torch"),
        ({"model_type": "bert"}, "x86_64", {"device": "cuda"}, "torch"),
        ({"model_type": "mpnet"}, "x86_64", {"precision": "int8"}, "openvino"),
        ({"model_type": "bert"}, "x86_64", {"backend": "torch"}, "torch"),
    ],
)
def test_chooses_what_carries_the_model(
    config: dict[str, Any],
    machine: str,
    settings: dict[str, str],
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    monkeypatch.setattr(backend.platform, "machine", lambda: machine)
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = replace(read_folder(find_folder(BUNDLED_MODEL), name="m"), weights=tmp_path)
    assert backend.choose_backend(EmbedderConfig(**settings), folder) == chosen


def test_reports_nothing_to_its_makers() -> None:
    pytest.importorskip("openvino")
    code = (
        "import services.embedder.backend.openvino as room\n"
        "room._package('openvino').convert_model\n"
        "from openvino.tools.ovc import convert_impl\n"
        "print(convert_impl.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_is_not_for_cuda() -> None:
    with pytest.raises(ConfigError, match=r"torch sees none|runs on the cpu"):
        load("openvino", "fp32", device="cuda")
