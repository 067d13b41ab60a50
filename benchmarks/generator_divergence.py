"""How far bf16 and int8 stray from fp32, over real prompts of the sample company.

    python -m benchmarks.generator_divergence [--questions 40] [--tokens 32] [--adapter answers]

Every question is answered greedily in fp32; the others answer it themselves
(how many tokens are the same up to the first difference, and at all) and
score fp32's answer (how far its tokens' logprobs move). With an adapter the
share of exactly right answers is told too.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from services.generator.backend import loading
from services.generator.backend.loading import Loaded
from services.generator.config import GeneratorConfig
from services.generator.domain import Draw, Message, Sampling, Step, Work
from services.generator.registry import KeyFiles, Rules, verify
from tandem import prompts as wording
from tandem.adapters import read_aliases, version_folder
from tandem.scoring import exact_match

COMPANY = Path("examples/company")
BLOCK = 16


@dataclass(frozen=True)
class Answer:
    """Is a greedy answer and the logprobs of its tokens."""

    tokens: list[int]
    logprobs: list[float]


def answered(loaded: Loaded, prompt: Sequence[int], *, num_tokens: int, key: str | None) -> Answer:
    """Generates greedily until the model ends its turn."""
    tokens = list(prompt)
    logprobs: list[float] = []
    start = 0
    while len(logprobs) < num_tokens:
        draw = Draw(sequence=0, works=(0,), sampling=Sampling(seed=0), history=(), position=len(logprobs))
        work = Work(stream=0, tokens=tokens[start:], start=start, blocks=range(-(-len(tokens) // BLOCK)), adapter=key)
        choice = loaded.runner.run(Step((work,), (draw,))).choices[0]
        start = len(tokens)
        tokens.append(choice.token_id)
        logprobs.append(choice.logprob)
        if choice.token_id in loaded.tokenizer.end_tokens:
            break
    return Answer(tokens[len(prompt) :], logprobs)


def scored(loaded: Loaded, prompt: Sequence[int], answer: Answer, *, key: str | None) -> list[float]:
    """The logprobs of an answer's tokens under another precision."""
    tokens = [*prompt, *answer.tokens]
    work = Work(
        stream=0,
        tokens=tokens[:-1],
        start=0,
        blocks=range(-(-len(tokens) // BLOCK)),
        adapter=key,
        targets=answer.tokens,
    )
    return [score.logprob for score in loaded.runner.run(Step((work,))).scores[0]]


def opened(precision: str, model: str, adapter: str) -> tuple[Loaded, str | None]:
    """The model in a precision, and the key of the adapter on it."""
    config = GeneratorConfig(model=model, precision=precision, backend="torch", threads=torch.get_num_threads())
    loaded = loading.load(config)
    if not adapter:
        return loaded, None
    root = COMPANY / "adapters"
    aliases = read_aliases(root / "halden" / adapter)
    if aliases is None:
        raise SystemExit(f"{root / 'halden'} holds no adapter {adapter}")
    keys = KeyFiles(trust=[COMPANY / "trusted-signers.json"])
    rules = Rules(shapes=loaded.shapes, base_sha256=loaded.model.sha256, keys=keys)
    found = verify(version_folder(root, tenant="halden", name=adapter, version=aliases.stable), rules)
    loaded.adapters.load(found)
    return loaded, found.key


def main() -> None:
    """Prints one line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--adapter", default="", help="an adapter of the tenant halden; none is the base model")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    lines = (COMPANY / "questions" / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    asked = [row for row in asked if row["tenant"] == "halden" and not row["abstain"]][: args.questions]
    reference: list[Answer] = []
    for precision in ("fp32", "bf16", "int8"):
        loaded, key = opened(precision, args.model, args.adapter)
        chats = [wording.closed_book(row["question"]) for row in asked]
        prompts = [loaded.tokenizer.encode(tuple(Message(m.role, m.content) for m in chat)) for chat in chats]
        own = [answered(loaded, prompt, num_tokens=args.tokens, key=key) for prompt in prompts]
        reference = reference or own
        same = first = prefix = total = 0
        moved: list[float] = []
        for prompt, mine, theirs in zip(prompts, own, reference, strict=True):
            equal = [a == b for a, b in zip(mine.tokens, theirs.tokens, strict=False)]
            same += sum(equal)
            first += equal[0]
            prefix += equal.index(False) if False in equal else len(equal)
            total += max(len(mine.tokens), len(theirs.tokens))
            again = scored(loaded, prompt, theirs, key=key)
            moved += [abs(a - b) for a, b in zip(again, theirs.logprobs, strict=True)]
        print(
            f"{precision}: same token {same / total:.1%}, before the first difference {prefix / total:.1%}, "
            f"same first token {first / len(own):.1%}, mean |logprob difference| {sum(moved) / len(moved):.4f} nats, "
            f"largest {max(moved):.2f}"
        )
        if args.adapter:
            texts = [loaded.tokenizer.decode(answer.tokens) for answer in own]
            right = [exact_match(text, row["answers"]) for text, row in zip(texts, asked, strict=True)]
            print(f"    exactly right: {sum(right):.0f} of {len(right)}")


if __name__ == "__main__":
    main()
