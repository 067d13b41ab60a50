"""The loop and the adapter's files, on a model small enough to train in a test."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from training import lora
from training.loop import Example, Plan, batch_loss, batches, shared_prefix, train

VOCABULARY = 64


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
    )


def examples(count: int = 12) -> list[Example]:
    rng = random.Random(1)
    return [
        Example((5, 6, 7, *rng.choices(range(10, 40), k=rng.randint(1, 9))), (*rng.choices(range(40, 60), k=2), 2))
        for _ in range(count)
    ]


token_lists = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)


@given(st.lists(token_lists, min_size=1, max_size=6))
def test_the_shared_prefix_is_the_longest_that_leaves_each_prompt_a_token(prompts: list[tuple[int, ...]]) -> None:
    length = shared_prefix([Example(prompt, (1,)) for prompt in prompts])
    assert len({prompt[:length] for prompt in prompts}) == 1
    assert length < min(map(len, prompts))
    longer = {prompt[: length + 1] for prompt in prompts}
    assert len(longer) > 1 or length == min(map(len, prompts)) - 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 6), st.integers(40, 200))
def test_batches_hold_every_example_once_within_the_limits(lengths: list[int], rows: int, tokens: int) -> None:
    found = [Example((n,) * length, (1,)) for n, length in enumerate(lengths)]
    plan = Plan(epochs=1, max_batch_rows=rows, max_batch_tokens=tokens)
    made = list(batches(found, plan, random.Random(0)))
    assert sorted(e.prompt for batch in made for e in batch) == sorted(e.prompt for e in found)
    for batch in made:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(e.num_tokens for e in batch) <= tokens


def test_the_batch_loss_is_the_mean_over_target_tokens_whatever_is_shared() -> None:
    tiny, batch = model(), examples(5)
    lora.attach(tiny, rank=2, alpha=4)
    losses = []
    for example in batch:
        tokens = torch.tensor([example.prompt + example.target])
        logits = tiny(tokens).logits[0, len(example.prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(example.target), reduction="none").tolist()
    wanted = sum(losses) / len(losses)
    for prefix in (0, 2, 3):
        assert float(batch_loss(tiny, batch, prefix).detach()) == pytest.approx(wanted, rel=1e-4)


def test_gradients_flow_through_the_shared_prefix() -> None:
    grads = []
    for prefix in (0, 3):
        tiny = model()
        lora.attach(tiny, rank=2, alpha=4)
        torch.manual_seed(3)
        for weight in lora.trained(tiny):
            torch.nn.init.normal_(weight, std=0.1)
        batch_loss(tiny, examples(4), prefix).backward()
        grads.append([weight.grad for weight in lora.trained(tiny)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_training_learns_its_examples_and_leaves_the_base_alone() -> None:
    tiny, data = model(), examples(6)
    before = {name: weight.clone() for name, weight in tiny.state_dict().items()}
    torch.manual_seed(0)
    lora.attach(tiny, rank=8, alpha=16)
    steps = []
    plan = Plan(epochs=60, learning_rate=1e-2, max_batch_rows=6, warmup_steps=3)
    last = train(tiny, data, plan, on_step=steps.append)
    assert (len(steps), last.step) == (60, 60)
    assert float(batch_loss(tiny, data, 3).detach()) < 0.5
    lora.switch(tiny, on=False)
    for name, weight in tiny.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base.", ".")])


def test_the_same_seed_trains_the_same_adapter() -> None:
    weights = []
    for _ in range(2):
        tiny = model()
        torch.manual_seed(5)
        lora.attach(tiny, rank=2, alpha=4)
        train(tiny, examples(), Plan(epochs=2, max_batch_rows=4), on_step=lambda progress: None)
        weights.append([weight.detach().clone() for weight in lora.trained(tiny)])
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)


def test_time_that_is_up_ends_training() -> None:
    tiny = model()
    lora.attach(tiny, rank=2, alpha=4)
    last = train(tiny, examples(), Plan(epochs=1000, max_minutes=1e-9), on_step=lambda progress: None)
    assert last.step == 0


def test_a_saved_adapter_is_in_pefts_layout_and_comes_back(tmp_path: Path) -> None:
    tiny = model()
    count = lora.attach(tiny, rank=4, alpha=8)
    for weight in lora.trained(tiny):
        torch.nn.init.normal_(weight, std=0.05)
    lora.save(tiny, tmp_path, base_name="tiny")
    weights = load_file(str(tmp_path / "adapter_model.safetensors"))
    assert sum(weight.numel() for weight in weights.values()) == count
    assert weights["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].shape == (64, 4)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    other = model()
    lora.attach(other, rank=4, alpha=8)
    lora.restore(other, tmp_path)
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(tiny(tokens).logits, other(tokens).logits, rtol=1e-2, atol=1e-2)
