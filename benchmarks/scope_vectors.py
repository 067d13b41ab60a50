"""Embeds texts in process with the project's embedder model, and keeps the vectors for the next time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.embedder.backend import load_encoder
from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder

Matrix = NDArray[np.float32]
_BATCH = 64
_SAVE_EVERY = 40
"""Batches between two savings, so that a run that is broken off goes on where it was."""


class Vectors:
    """Returns the vectors of texts, (N, D), unit length; what was embedded before comes from the file."""

    def __init__(self, path: Path, *, precision: str = "auto") -> None:
        self._path = path
        self._precision = precision
        self._encoder: Encoder | None = None
        self._known: dict[str, Matrix] = {}
        self.model_sha256 = ""
        if path.is_file():
            with np.load(path, allow_pickle=False) as held:
                self._known = dict(zip(held["texts"].tolist(), held["vectors"], strict=True))
                self.model_sha256 = str(held["model_sha256"])

    def of(self, texts: Sequence[str]) -> Matrix:
        """Embeds what is not known yet, shortest first, and returns one row for each text."""
        missing = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        for number, start in enumerate(range(0, len(missing), _BATCH), 1):
            batch = missing[start : start + _BATCH]
            encoder = self._load()
            found = encoder.run(encoder.tokenize(batch))
            self._known.update(zip(batch, (np.asarray(row, dtype=np.float32) for row in found), strict=True))
            if number % _SAVE_EVERY == 0:
                self._save()
        if missing:
            self._save()
        return np.stack([self._known[text] for text in texts])

    def _load(self) -> Encoder:
        if self._encoder is None:
            config = EmbedderConfig(precision=self._precision)
            self._encoder = load_encoder(config, workers=1, threads=1)
            self.model_sha256 = self._encoder.info.sha256
        return self._encoder

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_name(f".{self._path.name}.partial.npz")
        held: dict[str, Any] = {
            "texts": np.array(list(self._known)),
            "vectors": np.stack(list(self._known.values())),
            "model_sha256": np.array(self.model_sha256),
        }
        np.savez(scratch, **held)
        scratch.replace(self._path)
