"""The gate's model: batches change no answer, adapters come from bytes, perplexity is that of the tokens."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tandem.prompts import Message, closed_book
from tests.fakes.generator_model import write_adapter, write_model
from training.gate.answering import ModelAnswerer
from training.methods import MethodError, models


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


EXACT = torch.float32
PROMPTS = [closed_book("x" * length)[1:] for length in (3, 30, 11, 7)]


def test_a_prompt_is_answered_alike_alone_and_among_others(base: Path) -> None:
    answerer = ModelAnswerer.of_folder(base, dtype=EXACT)
    heard: list[int] = []
    together = answerer.answers(PROMPTS, max_tokens=6, on_batch=heard.append)
    assert together == [answerer.answers([prompt], max_tokens=6)[0] for prompt in PROMPTS]
    assert heard[-1] == 4
    few = ModelAnswerer(answerer._model, answerer._tokenizer, max_batch_tokens=40)
    assert few.answers(PROMPTS, max_tokens=6, on_batch=heard.append) == together
    assert len(heard) > 2


def test_perplexity_is_exp_of_the_mean_loss(base: Path) -> None:
    answerer = ModelAnswerer.of_folder(base, dtype=EXACT)
    model, tokenizer = models.load_model(base, EXACT, "cpu"), models.load_tokenizer(base)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer("One text.", add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert answerer.perplexity(["One text."]) == pytest.approx(math.exp(loss), rel=1e-4)
    assert answerer.perplexity(["One text.", "One text."]) == pytest.approx(math.exp(loss), rel=1e-4)


def test_an_adapter_is_opened_from_bytes_and_changes_answers(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = (folder / "adapter_model.safetensors").read_bytes()
    bare, adapted = (
        ModelAnswerer.of_folder(base, dtype=EXACT),
        ModelAnswerer.of_adapter(base, config, weights, dtype=EXACT),
    )
    assert adapted.perplexity(["One text."]) != bare.perplexity(["One text."])
    assert adapted.answers(PROMPTS, max_tokens=6) != bare.answers(PROMPTS, max_tokens=6)


def test_a_prefix_is_opened_from_bytes(base: Path, tmp_path: Path) -> None:
    config = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    sizes = {"num_layers": 2, "num_attention_heads": 2, "token_dim": 16, "num_transformer_submodules": 1}
    torch.manual_seed(1)
    save_file({"prompt_embeddings": torch.randn(4, 2 * 2 * 16)}, str(tmp_path / "p.safetensors"))
    weights = (tmp_path / "p.safetensors").read_bytes()
    adapted = ModelAnswerer.of_adapter(base, {**config, **sizes, "inference_mode": True}, weights, dtype=EXACT)
    together = adapted.answers(PROMPTS, max_tokens=6)
    assert together == [adapted.answers([prompt], max_tokens=6)[0] for prompt in PROMPTS]
    assert together != ModelAnswerer.of_folder(base, dtype=EXACT).answers(PROMPTS, max_tokens=6)
    assert adapted.perplexity(["One text."]) > 1


def test_a_folder_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="--prepare"):
        ModelAnswerer.of_folder(tmp_path)


def test_messages_are_the_chat(base: Path) -> None:
    answerer = ModelAnswerer.of_folder(base, dtype=EXACT)
    one = answerer.answers([[Message("user", "a")]], max_tokens=6)
    assert one != answerer.answers([[Message("system", "b"), Message("user", "a")]], max_tokens=6)
