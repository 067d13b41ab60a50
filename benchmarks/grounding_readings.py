"""Reads labelled answers with the models, a while at a time, and keeps what it read: token likelihoods and cosines.

Both answers of a dialogue are scored in one pass after their common prompt, each blind to the other: the likelihoods
are those of two passes.
"""

import json
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.grounding_sets import Row
from services.embedder.backend import load_encoder
from services.embedder.config import EmbedderConfig
from services.router.domain import Passage, Span
from services.router.grounding.text import claims
from services.router.grounding.windows import windows_of
from tandem import prompts
from tandem.config import cache_home

MODEL = "smollm2-135m-instruct"
_LAST_OF_QUESTION = 400
_AT_ONCE = 16


def read(rows: Sequence[Row], cache: Path, *, seconds: float) -> None:
    """Appends to lk.jsonl, then to emb.jsonl, until all rows are there or the time is over."""
    until = time.monotonic() + seconds
    cache.mkdir(parents=True, exist_ok=True)
    for name, work in (("lk.jsonl", _likelihoods), ("emb.jsonl", _vectors)):
        path = cache / name
        done = {json.loads(line)["id"] for line in path.read_text().splitlines()} if path.exists() else set()
        todo = [row for row in rows if row.name not in done]
        with path.open("a", encoding="utf-8") as stream:
            left = len(todo) - (work(todo, stream, until) if todo else 0)
        print(f"{path}: {left} answers left")


def _likelihoods(rows: Sequence[Row], stream: Any, until: float) -> int:
    folder = cache_home() / "models" / MODEL
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    num = 0
    for _, group in groupby(rows, key=lambda row: (row.context, row.question)):
        if time.monotonic() > until:
            break
        several = list(group)
        encoded = [tokenizer(row.answer, add_special_tokens=False, return_offsets_mapping=True) for row in several]
        tokens = [one["input_ids"] for one in encoded]
        scored = [
            _score(model, _prompt(tokenizer, several[0].question, shown), tokens)
            for shown in ([several[0].context], [])
        ]
        for row, one, told, guessed in zip(several, encoded, *scored, strict=True):
            starts = [start for start, _ in one["offset_mapping"]]
            stream.write(json.dumps({"id": row.name, "at": starts, "w": told, "wo": guessed}) + "\n")
        num += len(several)
    return num


def _prompt(tokenizer: Any, question: str, passages: list[str]) -> list[int]:
    messages = [{"role": one.role, "content": one.content} for one in prompts.reading(question, passages)]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


@torch.inference_mode()
def _score(model: Any, prompt: list[int], continuations: Sequence[list[int]]) -> list[list[float]]:
    """Returns the logprobs of each continuation's tokens after the prompt."""
    num, total = len(prompt), len(prompt) + sum(map(len, continuations))
    seen = torch.zeros(total, total, dtype=torch.bool)
    seen[:num, :num] = torch.ones(num, num).tril().bool()
    ids, places, rows = list(prompt), list(range(num)), []
    for tokens in continuations:
        start, end = len(ids), len(ids) + len(tokens)
        seen[start:end, :num] = True
        seen[start:end, start:end] = torch.ones(len(tokens), len(tokens)).tril().bool()
        rows += [num - 1, *range(start, end - 1)]
        ids += tokens
        places += range(num, num + len(tokens))
    mask = torch.zeros(1, 1, total, total, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)
    hidden = model.model(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([places]), attention_mask=mask, use_cache=False
    ).last_hidden_state[0]
    logprobs = torch.log_softmax(model.lm_head(hidden[rows]).float(), -1)
    found = iter(logprobs[range(len(rows)), ids[num:]].tolist())
    return [[round(next(found), 4) for _ in tokens] for tokens in continuations]


def _vectors(rows: Sequence[Row], stream: Any, until: float) -> int:
    encoder = load_encoder(EmbedderConfig(), workers=1, threads=2)
    num = 0
    for at in range(0, len(rows), _AT_ONCE):
        if time.monotonic() > until:
            break
        texts = [_texts(row) for row in rows[at : at + _AT_ONCE]]
        flat = sorted({text for said, near, asked in texts for text in (*said, *near, asked)}, key=len)
        tokens = encoder.tokenize(flat)
        found: dict[str, Any] = {}
        for part in range(0, len(flat), 2 * _AT_ONCE):
            batch = slice(part, part + 2 * _AT_ONCE)
            found |= dict(zip(flat[batch], map(torch.tensor, encoder.run(tokens[batch])), strict=True))
        for row, (said, near, asked) in zip(rows[at:], texts, strict=False):
            cosines = [[round(float(found[one] @ found[other]), 4) for other in near] for one in said]
            echoes = [round(float(found[one] @ found[asked]), 4) for one in said]
            stream.write(json.dumps({"id": row.name, "cos": cosines, "q": echoes}) + "\n")
            num += 1
    return num


def _texts(row: Row) -> tuple[list[str], list[str], str]:
    passage = Passage(document_id="d", chunk_id="c", title="", text=row.context, span=Span(0, len(row.context)))
    said = [row.answer[claim.start : claim.end] for claim in claims(row.answer)]
    return said, [window.text for window in windows_of([passage])], row.question[-_LAST_OF_QUESTION:]
