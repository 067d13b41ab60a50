"""Cross-encoders of random weights, beside what transformers computes from the same folder; late interaction."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from services.embedder.backend import load_classifier, load_encoder, load_reranker
from services.embedder.config import EmbedderConfig
from services.embedder.domain import LATE_INTERACTION
from tandem.errors import ConfigError
from tests.fakes.cross_encoder import write_cross_encoder

PAIRS = [("w1 w2", "w3"), ("w4 " * 40, "w5 w6"), ("w7", "w8 " * 40), ("w9", "nowhere w1 w2 w3 w4")]


def expected(folder: Path) -> torch.Tensor:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    rows = []
    for first, second in PAIRS:
        inputs = tokenizer(
            first, second, truncation="longest_first", max_length=32, return_tensors="pt", return_token_type_ids=True
        )
        with torch.no_grad():
            rows.append(model(**inputs).logits[0])
    return torch.stack(rows)


def test_a_classifier_says_what_transformers_says(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "nli", labels=3)
    classifier = load_classifier(EmbedderConfig(classifier=str(folder), precision="fp32"), threads=1)
    tokens = classifier.tokenize(PAIRS)
    assert [each.truncated for each in tokens] == [False, True, True, False]
    assert torch.allclose(torch.tensor(classifier.run(tokens)), expected(folder), atol=1e-5)
    assert classifier.info.labels == ("label 0", "label 1", "label 2")
    assert (classifier.info.name, classifier.info.max_tokens) == ("nli", 32)
    assert max(len(each.ids) for each in classifier.warm_up()) == 32


def test_a_reranker_has_one_score(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "ranker", labels=1)
    reranker = load_reranker(EmbedderConfig(reranker=str(folder), precision="fp32"), threads=1)
    assert torch.allclose(torch.tensor(reranker.run(reranker.tokenize(PAIRS))), expected(folder), atol=1e-5)
    assert reranker.info.labels == ("score",)


def test_a_score_does_not_depend_on_batch_mates(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "ranker", labels=1)
    reranker = load_reranker(EmbedderConfig(reranker=str(folder), precision="fp32"), threads=1)
    tokens = reranker.tokenize(PAIRS)
    alone = torch.tensor([reranker.run([each])[0] for each in tokens])
    assert torch.allclose(torch.tensor(reranker.run(tokens)), alone, atol=1e-5)


def test_refuses_what_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        load_classifier(EmbedderConfig(classifier=str(tmp_path / "nowhere")), threads=1)
    folder = write_cross_encoder(tmp_path / "headless", labels=1)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ConfigError, match="is no cross-encoder"):
        load_classifier(EmbedderConfig(classifier=str(folder)), threads=1)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="no safetensors"):
        load_classifier(EmbedderConfig(classifier=str(folder)), threads=1)


def test_late_interaction_prefers_the_text_that_answers() -> None:
    reranker = load_reranker(EmbedderConfig(reranker=LATE_INTERACTION, precision="fp32"), threads=1)
    query = "How many days do I have to report water damage?"
    texts = [
        "The cat sleeps on the warm windowsill.",
        "Damage by water must be reported within fourteen days.",
        "word " * 400,
    ]
    tokens = reranker.tokenize([(query, text) for text in texts])
    scores = [row[0] for row in reranker.run(tokens)]
    assert max(scores) == scores[1]
    assert [each.truncated for each in tokens] == [False, False, True]
    alone = [reranker.run([each])[0][0] for each in tokens]
    assert scores == pytest.approx(alone, abs=1e-3)
    # A text is most like itself: every token finds its equal.
    ((same,),) = reranker.run(reranker.tokenize([(query, query)]))
    assert same == pytest.approx(len(reranker.tokenize([(query, query)])[0].ids) / 2, abs=1e-3)


def test_int8_is_for_openvino_alone() -> None:
    with pytest.raises(ConfigError, match="needs the backend openvino"):
        load_encoder(EmbedderConfig(backend="torch", precision="int8"), workers=1, threads=1)
