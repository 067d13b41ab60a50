"""The OpenVINO backend beside torch: the same vectors, less exact in int8."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.embedder.backend import load_encoder
from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder
from tandem.errors import ConfigError

TEXTS = ["short", "How long do I have to report a claim?", Path(__file__).read_text(), "Ünïcödé and emoji"]


def load(backend: str, precision: str, **settings: Any) -> Encoder:
    return load_encoder(EmbedderConfig(backend=backend, precision=precision, **settings), workers=1, threads=1)


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


def test_is_not_for_cuda() -> None:
    with pytest.raises(ConfigError, match=r"torch sees none|runs on the cpu"):
        load("openvino", "fp32", device="cuda")
