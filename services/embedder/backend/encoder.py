"""Embeds texts with torch."""

from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch.nn import functional

from services.embedder.backend.folder import ModelFolder, clean, hash_weights, load_tokenizer
from services.embedder.backend.hidden import load_hidden
from services.embedder.domain import ModelInfo, TokenizedText, Vector


class TextTokenizer:
    """Turns texts into token ids as the model of a folder reads them."""

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        self._tokenizer = load_tokenizer(folder)

    def tokenize(self, inputs: Sequence[str]) -> list[TokenizedText]:
        """Returns the token ids of each text. A lone surrogate, which is no character, is read as "?"."""
        texts = [clean(text, lower_case=self._folder.lower_case) for text in inputs]
        return [
            TokenizedText(encoding.ids, truncated=bool(encoding.overflowing))
            for encoding in self._tokenizer.encode_batch_fast(texts)
        ]

    def warm_up(self) -> list[TokenizedText]:
        """Returns a short text and one of the model's limit."""
        return self.tokenize(["warm up", "warm up " * self._folder.max_tokens])


class TorchEncoder(TextTokenizer):
    """Implements the Encoder port. Vectors are normalised, whether or not the folder lists a Normalize module."""

    def __init__(self, folder: ModelFolder, *, precision: str, device: str) -> None:
        super().__init__(folder)
        self._pooling = folder.pooling
        sha256 = hash_weights(folder.weights)
        self._hidden = load_hidden(folder, precision=precision, device=device)
        self.info = ModelInfo(
            name=folder.name,
            sha256=sha256,
            dimension=self._hidden.dimension,
            max_tokens=folder.max_tokens,
            precision=precision,
            pads=self._hidden.pads,
        )

    @torch.inference_mode()
    def run(self, batch: Sequence[TokenizedText]) -> list[Vector]:
        """Returns one vector for each text."""
        groups = self._hidden([tokens.ids for tokens in batch])
        pooled = [group.vectors[:, 0] if self._pooling == "cls" else group.mean() for group in groups]  # (rows, D) each
        found = vectors(functional.normalize(torch.cat(pooled), dim=-1).cpu().numpy())
        places = [place for group in groups for place in group.places]
        return [vector for _, vector in sorted(zip(places, found, strict=True), key=itemgetter(0))]


def vectors(rows: Any) -> list[Vector]:
    """Returns the rows of a NumPy matrix of 32-bit floats."""
    return [array("f", row.tobytes()) for row in rows]
