"""Embeds texts with OpenVINO, in fp32, bf16 or int8. Imported only where that is asked for, or installed."""

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import logging
import sys
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
_FORM = "from words' vectors"  # what a kept model reads
_ALONE = (16, 24, 32, 48)
"""Lengths at which a text alone has a compiled model of its own: a shared one takes longer over the change of shapes
than over the text. Each costs half a second at the start, and the memory of the layers' weights."""
_ALONE_THREADS = 4  # a short text is done before more have met
_KINDS = (np.float32, np.int64)
"""Of the words' vectors and the mask."""
_STEPS = ((16, 16), (32, 8), (128, 16), (1 << 20, 32))
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
        source = _load(folder)
        # Looked up here, once for all compiled models: each would keep a table of its own, most of its memory.
        self._words = source.get_input_embeddings().weight.detach().numpy()
        model = self._kept_int8(source, sha256, cache) if precision == "int8" else self._convert(source)
        hint = "f32" if precision == "fp32" or not torch.cpu.get_capabilities().get("avx512_bf16") else "bf16"
        cores = workers * threads
        self._compiled = self._compile(model, hint, streams=workers, threads=cores)
        self._alone: dict[int, Any] = {}
        for length in (length for length in _ALONE if length <= folder.max_tokens):
            fixed = model.clone()
            words, mask = fixed.inputs
            fixed.reshape({words: [1, length, self._words.shape[1]], mask: [1, length]})
            self._alone[length] = self._compile(fixed, hint, streams=1, threads=min(cores, _ALONE_THREADS))
        self._of_thread = threading.local()
        name = folder.name
        if precision == "int8":  # other weights, whose vectors belong into a collection of their own
            name, sha256 = f"{name} (int8)", hashlib.sha256(f"{sha256} int8".encode()).hexdigest()
        self.info = ModelInfo(
            name=name,
            sha256=sha256,
            dimension=int(model.outputs[0].partial_shape[1].get_length()),
            max_tokens=folder.max_tokens,
            precision=precision,
            backend="openvino",
        )

    def run(self, batch: Sequence[TokenizedText]) -> list[Vector]:
        """Returns one vector for each text."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
            self._of_thread.alone = {length: _Alone(model) for length, model in self._alone.items()}
        length = self._length(batch)
        if len(batch) == 1 and length in self._alone:
            alone: _Alone = self._of_thread.alone[length]
            return alone(self._words, batch[0].ids)
        return vectors(self._of_thread.request.infer(self._inputs(batch, length), share_inputs=True)[0])

    def _compile(self, model: Any, hint: str, *, streams: int, threads: int) -> Any:
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams}
        return self._core.compile_model(model, "CPU", options)

    def _kept_int8(self, source: Any, sha256: str, cache: Path) -> Any:
        folder = self._folder
        about = [(folder.weights / name).read_text(encoding="utf-8") for name in ("config.json", "tokenizer.json")]
        settings = [folder.pooling, str(folder.max_tokens), str(folder.lower_case)]
        texts = _CALIBRATION.read_text(encoding="utf-8")
        return kept(
            cache,
            [_FORM, sha256, *about, *settings, texts, *(f"{name} {_version(name)}" for name in _MAKERS)],
            make=lambda: self._quantise(self._convert(source)),
            write=lambda model, to: _package("openvino").save_model(model, to / _FILE, compress_to_fp16=False),
            read=lambda found: self._core.read_model(found / _FILE),
        )

    def _convert(self, source: Any) -> Any:
        example = torch.ones(2, 8, self._words.shape[1]), torch.ones(2, 8, dtype=torch.int64)
        # Tracing warns of everything that the example fixes; the tests compare other shapes with torch.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return _package("openvino").convert_model(_Pooled(source, self._folder.pooling), example_input=example)

    def _quantise(self, model: Any) -> Any:
        nncf, started = _package("nncf"), time.perf_counter()
        logging.getLogger("nncf").setLevel(logging.ERROR)
        texts = _CALIBRATION.read_text(encoding="utf-8").splitlines()

        def inputs(text: str) -> list[Any]:
            batch = self.tokenize([text])
            return self._inputs(batch, self._length(batch))

        # What it prints are bars of progress; a service's output is its log.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = nncf.quantize(
                model,
                nncf.Dataset(texts, inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(texts),
            )
        log.info("calibrated int8", extra={"num_texts": len(texts), "seconds": round(time.perf_counter() - started, 1)})
        return found

    def _length(self, batch: Sequence[TokenizedText]) -> int:
        """Returns the tokens to which each text is filled up."""
        longest = max(len(tokens.ids) for tokens in batch)
        step = next(step for most, step in _STEPS if longest <= most)
        return min(-(-longest // step) * step, self._folder.max_tokens)

    def _inputs(self, batch: Sequence[TokenizedText], length: int) -> list[Any]:
        """Returns the words' vectors, (B, T, D), and the mask, (B, T)."""
        ids = np.full((len(batch), length), self._folder.pad_token_id, np.int64)
        mask = np.zeros((len(batch), length), np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens.ids)] = tokens.ids
            mask[row, : len(tokens.ids)] = 1
        return [self._words[ids], mask]


class _Alone:
    """Runs a model of fixed shape on memory that stays in its place: to hand arrays over takes a fifth of the time."""

    def __init__(self, compiled: Any) -> None:
        tensor = _package("openvino").Tensor
        self._words, self._mask = (
            np.zeros(list(each.shape), kind) for each, kind in zip(compiled.inputs, _KINDS, strict=True)
        )
        self._request = compiled.create_infer_request()
        for place, memory in enumerate((self._words, self._mask)):
            self._request.set_input_tensor(place, tensor(memory, shared_memory=True))
        self._found = self._request.get_output_tensor(0).data  # (1, D)

    def __call__(self, words: Any, ids: Sequence[int]) -> list[Vector]:
        """Returns the vector of one text, of whose filling, masked out, nothing is seen."""
        self._words[0, : len(ids)] = words[ids]
        self._mask[0] = np.arange(self._mask.shape[1]) < len(ids)
        self._request.infer()
        return vectors(self._found)


class _Pooled(torch.nn.Module):
    """Is a model with pooling and normalisation: from words, (B, T, D), and mask, (B, T), to (B, D)."""

    def __init__(self, model: torch.nn.Module, pooling: str) -> None:
        super().__init__()
        self._model = model
        self._pooling = pooling

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self._model(inputs_embeds=words, attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            return functional.normalize(hidden[:, 0], dim=-1)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _load(folder: ModelFolder) -> Any:
    model: Any = AutoModel.from_pretrained(
        folder.weights, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    model.loss_function = functional.cross_entropy  # tracing reads it, and the choice of one would be warned of
    return model.eval()


def _package(name: str) -> Any:
    # OpenVINO and nncf report every conversion to their makers unless this package is not there.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
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
    return ConfigError(f"the backend openvino needs more: pip install 'tandem[embedder-int8]' ({error})")
