"""Embeds texts with OpenVINO, in fp32, bf16 or int8. Imported only where the extra embedder-openvino is asked for."""

import contextlib
import importlib
import importlib.metadata
import io
import logging
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from services.embedder.backend.encoder import TextTokenizer, vectors
from services.embedder.backend.folder import ModelFolder, hash_weights
from services.embedder.backend.kept import kept
from services.embedder.domain import ModelInfo, TokenizedText, Vector
from tandem.errors import ConfigError

log = logging.getLogger(__name__)

_CALIBRATION = Path(__file__).with_name("calibration.txt")
_MAKERS = ("openvino", "nncf", "torch", "transformers")
_FILE = "model.xml"
_STEPS = ((32, 8), (128, 16), (1 << 20, 32))
"""Up to so many tokens a batch is filled up to a multiple of so many: each new shape costs OpenVINO milliseconds."""


class OpenVinoEncoder(TextTokenizer):
    """Implements the Encoder port: one request of the compiled model for each thread that calls ``run``.

    int8 is made here from the folder's weights: weights by output channel, activations by ranges seen on the
    calibration texts, outliers moved into the weights (SmoothQuant, arXiv 2211.10438), all by nncf. It is kept in
    ``cache``.
    """

    def __init__(self, folder: ModelFolder, *, precision: str, workers: int, threads: int, cache: Path) -> None:
        super().__init__(folder)
        self._folder = folder
        self._core = _package("openvino").Core()
        sha256 = hash_weights(folder.weights)
        model = self._kept_int8(sha256, cache) if precision == "int8" else self._convert(folder)
        hint = "f32" if precision == "fp32" or not torch.cpu.get_capabilities().get("avx512_bf16") else "bf16"
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": workers * threads,
            "NUM_STREAMS": workers,
        }
        self._compiled = self._core.compile_model(model, "CPU", options)
        self._of_thread = threading.local()
        self.info = ModelInfo(
            name=folder.name,
            sha256=sha256,
            dimension=int(model.outputs[0].partial_shape[1].get_length()),
            max_tokens=folder.max_tokens,
            precision=precision,
        )

    def run(self, batch: Sequence[TokenizedText]) -> list[Vector]:
        """Returns one vector for each text."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        inputs = self._inputs(batch)
        return vectors(self._of_thread.request.infer(inputs, share_inputs=True)[0])

    def _kept_int8(self, sha256: str, cache: Path) -> Any:
        folder = self._folder
        about = [(folder.weights / name).read_text(encoding="utf-8") for name in ("config.json", "tokenizer.json")]
        settings = [folder.pooling, str(folder.max_tokens), str(folder.lower_case)]
        texts = _CALIBRATION.read_text(encoding="utf-8")
        return kept(
            cache,
            [sha256, *about, *settings, texts, *(f"{name} {_version(name)}" for name in _MAKERS)],
            make=lambda: self._quantise(self._convert(folder)),
            write=lambda model, to: _package("openvino").save_model(model, to / _FILE, compress_to_fp16=False),
            read=lambda found: self._core.read_model(found / _FILE),
        )

    def _convert(self, folder: ModelFolder) -> Any:
        model = AutoModel.from_pretrained(
            folder.weights, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        example = torch.ones(2, 8, dtype=torch.int64)
        # Tracing warns of everything that the example fixes; the tests compare other shapes with torch.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return _package("openvino").convert_model(
                _Pooled(model.eval(), folder.pooling), example_input=(example, example)
            )

    def _quantise(self, model: Any) -> Any:
        nncf, started = _package("nncf"), time.perf_counter()
        logging.getLogger("nncf").setLevel(logging.ERROR)
        texts = _CALIBRATION.read_text(encoding="utf-8").splitlines()

        # What it prints are bars of progress; a service's output is its log.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = nncf.quantize(
                model,
                nncf.Dataset(texts, lambda text: self._inputs(self.tokenize([text]))),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(texts),
            )
        log.info("calibrated int8", extra={"num_texts": len(texts), "seconds": round(time.perf_counter() - started, 1)})
        return found

    def _inputs(self, batch: Sequence[TokenizedText]) -> list[Any]:
        """Returns ids and mask, (B, T) each."""
        longest = max(len(tokens.ids) for tokens in batch)
        step = next(step for most, step in _STEPS if longest <= most)
        length = min(-(-longest // step) * step, self._folder.max_tokens)
        ids = np.full((len(batch), length), self._folder.pad_token_id, np.int64)
        mask = np.zeros((len(batch), length), np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens.ids)] = tokens.ids
            mask[row, : len(tokens.ids)] = 1
        return [ids, mask]


class _Pooled(torch.nn.Module):
    """Is a model with pooling and normalisation; ids and mask are (B, T), the result is (B, D)."""

    def __init__(self, model: torch.nn.Module, pooling: str) -> None:
        super().__init__()
        self._model = model
        self._pooling = pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            return functional.normalize(hidden[:, 0], dim=-1)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _needs_more(error) from None


def _version(name: str) -> str:
    # Asked of the installation: to import nncf takes seconds.
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise _needs_more(error) from None


def _needs_more(error: ImportError) -> ConfigError:
    return ConfigError(f"the backend openvino needs more: pip install 'tandem[embedder-openvino]' ({error})")
