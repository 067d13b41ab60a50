"""Asks a model questions and scores its answers against the golds, beside baselines that cost nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tandem.scoring import exact_match, f1


@dataclass(frozen=True)
class Case:
    """Is one prompt, as token ids, with the answers that count as right."""

    prompt: tuple[int, ...]
    golds: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class Score:
    """Is a mean over the cases, in percent."""

    exact_match: float
    f1: float
    count: int

    def to_json(self) -> dict[str, float]:
        """Returns the score as it stands in training.json."""
        return {"exact_match": round(self.exact_match, 1), "f1": round(self.f1, 1), "count": self.count}


def score(answers: Sequence[str], cases: Sequence[Case]) -> Score:
    """Returns the mean scores of the answers."""
    if not cases:
        return Score(0.0, 0.0, 0)
    pairs = list(zip(answers, cases, strict=True))
    matched = sum(exact_match(answer, case.golds) for answer, case in pairs)
    overlap = sum(f1(answer, case.golds) for answer, case in pairs)
    return Score(100 * matched / len(pairs), 100 * overlap / len(pairs), len(pairs))


def echo(cases: Sequence[Case]) -> list[str]:
    """Returns the questions as answers: what no model at all would score."""
    return [case.question for case in cases]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    *,
    max_tokens: int = 32,
    max_batch_tokens: int = 4096,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Returns the model's greedy answers in the order of the cases; on_batch hears how many are done."""
    order = sorted(range(len(cases)), key=lambda index: len(cases[index].prompt))
    found: dict[int, str] = {}
    model.eval()
    while len(found) < len(cases):
        batch: list[int] = []
        for index in order[len(found) :]:
            if (batch and (len(batch) + 1) * len(cases[index].prompt) > max_batch_tokens) or len(batch) == 32:
                break
            batch.append(index)
        texts = _generate(model, tokenizer, [cases[index].prompt for index in batch], max_tokens)
        found.update(zip(batch, texts, strict=True))
        on_batch(len(found))
    return [found[index] for index in range(len(cases))]


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[tuple[int, ...]], max_tokens: int
) -> list[str]:
    width = max(len(prompt) for prompt in prompts)
    end = int(tokenizer.eos_token_id)
    rows = [[end] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
    return [text.strip() for text in tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]
