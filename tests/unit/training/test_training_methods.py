"""Settings, batches and the loss."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fakes.generator_model import write_model
from tests.fakes.training_runs import example
from training.methods import Method, MethodError, models
from training.methods.batches import Encoded, by_length, encode, encode_all, evenly, schedule, shared_prefix
from training.methods.loss import held_out, share_exact, summed_loss
from training.methods.watch import num_evaluations, num_evaluations_in

token_lists = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)


def encoded(lengths: list[int]) -> list[Encoded]:
    return [Encoded((n,) * length, (1,)) for n, length in enumerate(lengths)]


def test_every_setting_is_explained_and_its_default_is_in_range() -> None:
    assert set(Method.describe()) == {field.name for field in dataclasses.fields(Method)}
    assert all(len(text) > 15 for text in Method.describe().values())
    for name in ("lora", "prefix", "full"):
        assert Method.from_json(Method.of(name).to_json()) == Method.of(name)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "qlora"}, "lora, prefix, full"),
        ({"epochs": 0}, "out of range"),
        ({"epochs": math.nan}, "out of range"),
        ({"rank": 1.5}, "whole number"),
        ({"rank": True}, "whole number"),
        ({"minutes": "5"}, "not a number"),
        ({"precision": "fp8"}, "bf16, fp32"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(MethodError, match=word) as caught:
        Method(**change)
    assert next(iter(change)) in str(caught.value)


def test_a_setting_of_another_version_is_refused() -> None:
    with pytest.raises(MethodError, match="momentum"):
        Method.from_json(Method().to_json() | {"momentum": 1})
    with pytest.raises(MethodError, match="momentum"):
        Method.of("lora", momentum=1)


@given(st.lists(token_lists, min_size=1, max_size=6))
def test_the_shared_prefix_is_the_longest_that_leaves_each_prompt_a_token(prompts: list[tuple[int, ...]]) -> None:
    length = shared_prefix([Encoded(prompt, (1,)) for prompt in prompts])
    assert len({prompt[:length] for prompt in prompts}) == 1
    assert length < min(map(len, prompts))
    longer = {prompt[: length + 1] for prompt in prompts}
    assert len(longer) > 1 or length == min(map(len, prompts)) - 1


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 6), st.integers(40, 200), st.integers(1, 3)
)
def test_each_epoch_holds_every_example_once_within_the_limits(
    lengths: list[int], rows: int, tokens: int, epochs: int
) -> None:
    found = encoded(lengths)
    chosen = Method(epochs=epochs, max_batch_rows=rows, max_batch_tokens=tokens)
    for made, times in ((schedule(found, chosen), epochs), (by_length(found, chosen), 1)):
        assert sorted(index for batch in made for index in batch) == sorted(list(range(len(found))) * times)
        for batch in made:
            assert len(batch) <= rows
            assert len(batch) == 1 or len(batch) * max(found[index].num_tokens for index in batch) <= tokens


def test_a_part_of_an_epoch_is_a_part_of_its_batches() -> None:
    found = encoded([5] * 40)
    chosen = Method(epochs=1, max_batch_rows=4)
    assert len(schedule(found, dataclasses.replace(chosen, epochs=0.5))) == 5
    assert schedule(found, dataclasses.replace(chosen, epochs=1.5))[:10] == schedule(found, chosen)
    assert len(schedule(found, dataclasses.replace(chosen, epochs=0.01))) == 1


def test_the_order_follows_from_the_seed() -> None:
    found = encoded([5] * 40)
    one, same, other = (schedule(found, Method(epochs=2, max_batch_rows=4, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_validation_examples_are_drawn_from_all_over() -> None:
    rows = [example(str(n), "q", "a") for n in range(100)]
    assert [row.id for row in evenly(rows, 4)] == ["0", "25", "50", "75"]
    assert evenly(rows, 100) == rows


def test_an_example_is_rendered_as_serving_renders_it(tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(write_model(tmp_path))
    found = encode(tokenizer, example("e", "Who?", "Ada"))
    assert tokenizer.decode(found.prompt).endswith("<s>user\nWho?</s><s>assistant\n")
    assert tokenizer.decode(found.target) == "Ada</s>"


def test_examples_that_are_too_long_are_all_told(tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(write_model(tmp_path))
    rows = [example("short", "q", "a"), example("long", "q" * 500, "a"), example("longer", "q" * 600, "a")]
    with pytest.raises(MethodError, match=r"2 of 3 examples are longer than 256 tokens: long \(\d+\), longer"):
        encode_all(tokenizer, rows, max_tokens=256)


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    )


BATCH = [Encoded((5, 6, 7, *range(10, 10 + n)), tuple(range(40, 42 + n % 2))) for n in (2, 5, 3, 1)]


def test_the_loss_is_summed_over_answer_tokens_whatever_is_shared() -> None:
    model = tiny()
    wanted = 0.0
    for row in BATCH:
        logits = model(torch.tensor([row.prompt + row.target])).logits[0, len(row.prompt) - 1 : -1]
        wanted += float(torch.nn.functional.cross_entropy(logits, torch.tensor(row.target), reduction="sum").detach())
    for prefix in (0, 2, 3):
        loss, count = summed_loss(model, BATCH, prefix)
        assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4)
        assert count == sum(len(row.target) for row in BATCH)


def test_saying_the_same_to_everything_counts_as_one_answer() -> None:
    rows = [Encoded((1,), (9,)), Encoded((2,), (9,)), Encoded((3,), (4, 5)), Encoded((4,), (6,))]
    assert share_exact(rows, [True, True, False, False]) == pytest.approx(1 / 3)
    assert share_exact(rows, [False, False, True, True]) == pytest.approx(2 / 3)
    assert share_exact(rows, [True, False, True, True]) == pytest.approx(2.5 / 3)


def test_an_answer_counts_where_greedy_decoding_gives_it_word_for_word() -> None:
    model, prompt = tiny(), (5, 6, 7)
    said = list(prompt)
    for _ in range(3):
        said.append(int(model(torch.tensor([said])).logits[0, -1].argmax()))
    right = Encoded(prompt, tuple(said[3:]))
    wrong = Encoded(prompt, (*said[3:5], (said[5] + 1) % 64))
    assert held_out(model, [right, wrong], 2)[1:] == (6, [True, False])
    assert held_out(model, [wrong], 2)[2] == [False]
    assert held_out(model, [right, wrong], 2)[0] == pytest.approx(
        float(summed_loss(model, [right, wrong], 2)[0].detach())
    )


def test_gradients_flow_through_what_is_shared() -> None:
    grads = []
    for prefix in (0, 3):
        model = tiny()
        summed_loss(model, BATCH, prefix)[0].backward()
        grads.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("minutes", "validation_s", "expected"),
    [(10, 1.0, 10), (10, 40.0, 3), (1.5, 45.0, 1), (10, 0.0, 10), (0.01, 600.0, 1)],
)
def test_validation_takes_a_fifth_of_a_limited_run_at_most_but_comes_once(
    minutes: float, validation_s: float, expected: int
) -> None:
    assert num_evaluations_in(minutes, validation_s) == expected


def test_validation_takes_a_fifth_of_the_computing_at_most_and_is_left_out_where_there_is_none() -> None:
    assert num_evaluations(training_tokens=1000, validation_tokens=0) == 0
    assert num_evaluations(training_tokens=90_000, validation_tokens=3_000) == 10
    assert num_evaluations(training_tokens=90_000, validation_tokens=9_000) == 6
    assert num_evaluations(training_tokens=90_000, validation_tokens=900_000) == 2
