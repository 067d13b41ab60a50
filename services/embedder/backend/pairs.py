"""Reads two texts at once: cross-encoders, and late interaction of the embedding model's token vectors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from services.embedder.backend.encoder import TextTokenizer
from services.embedder.backend.folder import ModelFolder, clean, hash_weights, load_tokenizer
from services.embedder.backend.hidden import DTYPES, load_hidden, pad
from services.embedder.domain import LATE_INTERACTION, ModelInfo, Pair, Scores, TokenizedText
from tandem.errors import ConfigError


class CrossEncoder:
    """Implements the PairScorer port with a sequence classification model of transformers."""

    def __init__(self, folder: ModelFolder, *, precision: str, device: str) -> None:
        self._folder = folder
        self._device = torch.device(device)
        self._tokenizer = load_tokenizer(folder)
        sha256 = hash_weights(folder.weights)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder.weights,
            dtype=DTYPES[precision],
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, loading = model
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise ConfigError(f"{folder.weights} is no cross-encoder: its weights lack {missing}")
        self._model = model.to(self._device).eval()
        self._has_types = getattr(model.config, "type_vocab_size", 0) > 1
        names = model.config.id2label
        labels = tuple(str(names[number]) for number in range(model.config.num_labels))
        self.info = ModelInfo(
            name=folder.name,
            sha256=sha256,
            dimension=len(labels),
            max_tokens=folder.max_tokens,
            precision=precision,
            labels=labels if len(labels) > 1 else ("score",),
        )

    def tokenize(self, inputs: Sequence[Pair]) -> list[TokenizedText]:
        """Returns the token ids of each pair; the longer text of a pair is cut first."""
        pairs = [(clean(first, lower_case=False), clean(second, lower_case=False)) for first, second in inputs]
        return [
            TokenizedText(encoding.ids, truncated=bool(encoding.overflowing), types=encoding.type_ids)
            for encoding in self._tokenizer.encode_batch(pairs)
        ]

    @torch.inference_mode()
    def run(self, batch: Sequence[TokenizedText]) -> list[Scores]:
        """Returns the model's outputs for each pair."""
        ids, mask = pad([tokens.ids for tokens in batch], self._folder.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._has_types:
            inputs["token_type_ids"], _ = pad([tokens.types for tokens in batch], 0)
        logits: Tensor = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).logits
        rows: list[Scores] = logits.float().tolist()
        return rows

    def warm_up(self) -> list[TokenizedText]:
        """Returns a pair of the model's limit."""
        return self.tokenize([("warm up " * self._folder.max_tokens, "warm up")])


class LateInteraction:
    """Implements the PairScorer port without weights of its own: MaxSim (Khattab and Zaharia, arXiv 2004.12832).

    The score is the sum over the query's tokens of the greatest cosine to any token of the text.
    """

    def __init__(self, folder: ModelFolder, *, precision: str, device: str) -> None:
        self._tokenizer = TextTokenizer(folder)
        self._hidden = load_hidden(folder, precision=precision, device=device)
        self.info = ModelInfo(
            name=f"{folder.name} ({LATE_INTERACTION})",
            sha256=hash_weights(folder.weights),
            dimension=1,
            max_tokens=2 * folder.max_tokens,
            precision=precision,
            labels=("score",),
            pads=self._hidden.pads,
        )

    def tokenize(self, inputs: Sequence[Pair]) -> list[TokenizedText]:
        """Returns the token ids of each pair's texts, one after the other, each cut to what the model reads."""
        texts = list(dict.fromkeys(text for pair in inputs for text in pair))  # a query comes in all its pairs
        found = dict(zip(texts, self._tokenizer.tokenize(texts), strict=True))
        return [
            TokenizedText(
                [*found[first].ids, *found[second].ids],
                truncated=found[first].truncated or found[second].truncated,
                types=[0] * len(found[first].ids) + [1] * len(found[second].ids),
            )
            for first, second in inputs
        ]

    @torch.inference_mode()
    def run(self, batch: Sequence[TokenizedText]) -> list[Scores]:
        """Returns one score for each pair."""
        rows: dict[tuple[int, ...], int] = {}
        pairs = []
        for tokens in batch:
            cut = list(tokens.types).index(1)
            texts = tuple(tokens.ids[:cut]), tuple(tokens.ids[cut:])
            pairs.append([rows.setdefault(text, len(rows)) for text in texts])
        found: dict[int, Tensor] = {}
        for group in self._hidden(list(rows)):
            unit = functional.normalize(group.vectors, dim=-1)
            for place, length, vectors in zip(group.places, group.lengths, unit, strict=True):
                found[place] = vectors[:length]
        return [[float((found[query] @ found[text].T).amax(1).sum())] for query, text in pairs]

    def warm_up(self) -> list[TokenizedText]:
        """Returns a pair of the model's limit."""
        longest = "warm up " * self.info.max_tokens
        return self.tokenize([(longest, longest)])
