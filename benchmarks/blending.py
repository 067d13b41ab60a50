"""What blending a closed-book adapter with an evidence prompt is worth, and what tells right answers from wrong ones.

    python -m benchmarks.blending [--questions 120] [--threads 0] [--keep answers.jsonl]

Asks calibration questions of the sample company through the engine, greedily:
each prompt alone, and blends of two at several weights. The weight is chosen
on one half of the questions and judged on the other. The passages are the
three best of a plain word search, as they come: the answer may not be there.
Beside them, a third as many questions that nothing answers: there, abstaining
is right.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend import loading
from services.generator.config import GeneratorConfig
from services.generator.domain import (
    Backend,
    Confidence,
    Delta,
    Finished,
    GenerateInput,
    Limits,
    Message,
    Mixing,
    Prompt,
    Sampling,
    StreamInput,
)
from services.generator.engine import Engine, meaning
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import KeyFiles, Registry, Rules, verify
from tandem import prompts
from tandem.scoring import exact_match, f1
from training.company import read_company
from training.recipes import WordIndex, cut, holds

COMPANY = Path(__file__).parents[1] / "examples" / "company"
TENANT = "halden"
WEIGHTS = (0.2, 0.35, 0.5, 0.65, 0.8)
SAMPLES = 5
Arm = tuple[tuple[tuple[str, str, float], ...], Mixing]
"""Prompts as (closed or reading, adapter, weight), and how they are mixed."""


def arms() -> dict[str, Arm]:
    """Returns every way of answering, by name."""
    plain = Mixing.ARITHMETIC
    found: dict[str, Arm] = {
        "answers, closed book": ((("closed", "answers", 1.0),), plain),
        "reading, passages": ((("reading", "reading", 1.0),), plain),
        "base, passages": ((("reading", "", 1.0),), plain),
        "reading 1.5, without passages -0.5": (
            (("reading", "reading", 1.5), ("closed", "reading", -0.5)), Mixing.LOGARITHMIC,
        ),
    }  # fmt: skip
    for evidence, adapter in (("reading", "reading"), ("base", "")):
        for mixing in Mixing:
            for weight in WEIGHTS if adapter else (0.5,):
                blend = (("closed", "answers", weight), ("reading", adapter, 1 - weight))
                found[f"answers {weight} + {evidence}, {mixing.value}"] = (blend, mixing)
    return found


@dataclass(frozen=True)
class Answer:
    """Is what one arm said to one question."""

    text: str
    exact: float
    f1: float
    abstains: bool
    confidence: Confidence


async def ask(engine: Backend, registry: Registry, arm: Arm, asked: dict[str, Prompt], golds: Sequence[str]) -> Answer:
    """Returns one arm's answer."""
    streams, mixing = arm
    request = GenerateInput(
        streams=tuple(
            StreamInput(
                prompt=asked[kind], pin=registry.pin(adapter, tenant=TENANT) if adapter else None, weight=weight
            )
            for kind, adapter, weight in streams
        ),
        tenant=TENANT,
        mixing=mixing,
        sampling=Sampling(max_tokens=32),
    )
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Finished):
            text += event.tail
            abstains = bool(exact_match(text, [prompts.ABSTENTION]))
            return Answer(text, exact_match(text, golds), f1(text, golds), abstains, event.confidence)
    raise RuntimeError("no end")


async def disagreement(engine: Backend, registry: Registry, prompt: Prompt) -> float:
    """Returns the semantic entropy of the closed-book adapter's answers at temperature 1."""
    one = GenerateInput(streams=(), tenant=TENANT, sampling=Sampling(max_tokens=32, temperature=1.0))
    requests = [
        replace(
            one,
            streams=(StreamInput(prompt=prompt, pin=registry.pin("answers", tenant=TENANT)),),
            sampling=replace(one.sampling, seed=seed),
        )
        for seed in range(SAMPLES)
    ]
    return (await meaning.sample(engine, requests)).semantic_entropy


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Returns the chance that a right answer scores above a wrong one, ties counting half."""
    pairs = [(a > b) + 0.5 * (a == b) for a, r in zip(scores, right, strict=True) if r
             for b, s in zip(scores, right, strict=True) if not s]  # fmt: skip
    return sum(pairs) / len(pairs) if pairs else math.nan


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean difference, in points, over the same questions."""
    rng = random.Random(7)  # noqa: S311  (a bootstrap)
    gains = [100 * (a - b) for a, b in zip(first, second, strict=True)]
    means = sorted(sum(rng.choices(gains, k=len(gains))) / len(gains) for _ in range(4000))
    return means[100], means[3899]


def chosen_rows(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Prompt]], list[bool]]:
    """Returns calibration questions that everyone may ask, first those with an answer, their prompts, and whether a
    passage holds the answer.
    """
    company = read_company(COMPANY, TENANT)
    rows = [row for row in company.questions["calibration"] if not row["groups"] and not row["history"]]
    random.Random(11).shuffle(rows)  # noqa: S311  (a choice of questions)
    rows = [row for row in rows if row["answers"]][:count] + [row for row in rows if not row["answers"]][: count // 3]
    chunks = cut(company.documents())
    index = WordIndex([chunk.text for chunk in chunks])
    asked: list[dict[str, Prompt]] = []
    answered: list[bool] = []
    for row in rows:
        best = [chunks[place] for place in index.best(row["question"], 3)]
        kinds = {
            "closed": prompts.closed_book(row["question"]),
            "reading": prompts.reading(row["question"], [prompts.passage(c.title, c.text) for c in best]),
        }
        asked.append({kind: tuple(Message(m.role, m.content) for m in turns) for kind, turns in kinds.items()})
        answered.append(any(holds(chunk.text, row["answers"]) for chunk in best))
    return rows, asked, answered


async def collected(
    count: int, threads: int
) -> tuple[list[dict[str, Any]], list[bool], list[dict[str, Answer]], list[float]]:
    """Asks all questions in all ways."""
    rows, asked, answered = chosen_rows(count)
    config = GeneratorConfig(adapter_dir=COMPANY / "adapters", threads=threads, kv_cache_tokens=65_536)
    loaded = await asyncio.to_thread(loading.load, config)
    metrics = GeneratorMetrics(CollectorRegistry())
    keys = KeyFiles(trust=[COMPANY / "trusted-signers.json"])
    rules = Rules(shapes=loaded.shapes, base_sha256=loaded.model.sha256, keys=keys)
    registry = Registry(
        adapters=loaded.adapters,
        check=partial(verify, rules=rules),
        folder=config.adapter_dir,
        max_adapters=8,
        metrics=metrics,
    )
    engine = Engine(
        runner=loaded.runner, tokenizer=loaded.tokenizer, model=loaded.model, limits=Limits(max_waiting=256),
        metrics=metrics, tracer=NoOpTracer(), features=loaded.features,
    )  # fmt: skip
    await registry.start()
    await engine.start()
    told: list[dict[str, Answer]] = []
    entropies: list[float] = []
    for number, (row, one) in enumerate(zip(rows, asked, strict=True), 1):
        ways = arms()
        answers = await asyncio.gather(*(ask(engine, registry, way, one, row["answers"]) for way in ways.values()))
        told.append(dict(zip(ways, answers, strict=True)))
        entropies.append(await disagreement(engine, registry, one["closed"]))
        print(f"\r{number} of {len(rows)}", end="", flush=True)
    await engine.stop()
    await registry.stop()
    print()
    return rows, answered, told, entropies


def report(
    rows: list[dict[str, Any]], answered: list[bool], told: list[dict[str, Answer]], entropies: list[float]
) -> None:
    """Prints the tables."""

    unanswerable = told[sum(bool(row["answers"]) for row in rows) :]
    rows, told = [row for row in rows if row["answers"]], told[: len(told) - len(unanswerable)]
    entropies = entropies[: len(rows)]

    def column(arm: str, part: Callable[[Answer], float] = lambda answer: answer.exact) -> list[float]:
        return [part(one[arm]) for one in told]

    def mean(values: Sequence[float]) -> str:
        return f"{100 * sum(values) / max(1, len(values)):.1f}"

    static = [i for i, row in enumerate(rows) if row["label"] == "static"]
    print(f"{len(rows)} questions, {len(static)} static; a passage holds the answer of {sum(answered)}\n")
    print(f"the last column: of {len(unanswerable)} questions that nothing answers\n")
    print("| arm | EM | F1 | EM static | EM volatile | abstains | abstains rightly |\n|---|---|---|---|---|---|---|")
    for arm in arms():
        exact = column(arm)
        parts = [exact[i] for i in static], [value for i, value in enumerate(exact) if i not in static]
        silent = mean(column(arm, lambda a: a.abstains)), mean([one[arm].abstains for one in unanswerable])
        shown = [mean(exact), mean(column(arm, lambda a: a.f1)), *map(mean, parts), *silent]
        print(f"| {arm} | {' | '.join(shown)} |")
    alone = ("answers, closed book", "reading, passages")
    surer = [max((one[arm] for arm in alone), key=lambda a: a.confidence.mean_logprob).exact for one in told]
    either = [max(one[arm].exact for arm in alone) for one in told]
    print(f"| the surer of answers and reading (mean logprob) | {mean(surer)} | | | | | |")
    print(f"| either right, by an oracle | {mean(either)} | | | | | |\n")
    half = len(rows) // 2
    blends = [arm for arm in arms() if " + " in arm]
    best = max(blends, key=lambda arm: sum(column(arm)[:half]))
    single = max(alone, key=lambda arm: sum(column(arm)[:half]))
    for name, second in (("the better one alone", column(single)), ("the surer of both", surer)):
        low, high = interval(column(best)[half:], second[half:])
        means = f"EM {mean(column(best)[half:])} to {mean(second[half:])}"
        print(f"'{best}' (chosen on the first half) against {name} on the second: {means}, {low:+.1f} to {high:+.1f}")
    print("\n| AUROC, right against wrong | mean logprob | min logprob | mean entropy | max entropy | mean margin | "
          "min margin | semantic entropy |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for arm in (*alone, best):
        right = [value == 1 for value in column(arm)]
        signs = {"mean_logprob": 1, "min_logprob": 1, "mean_entropy": -1, "max_entropy": -1, "mean_margin": 1,
                 "min_margin": 1}  # fmt: skip
        found = [
            auroc([sign * getattr(one[arm].confidence, name) for one in told], right) for name, sign in signs.items()
        ]
        last = f"{auroc([-e for e in entropies], right):.2f}" if arm == alone[0] else ""
        print(f"| {arm} | {' | '.join(f'{value:.2f}' for value in found)} | {last} |")


def main() -> None:
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where to write every answer, as JSON lines")
    wishes = parser.parse_args()
    rows, answered, told, entropies = asyncio.run(collected(wishes.questions, wishes.threads))
    if wishes.keep:
        lines = [{"id": row["question_id"], "answers": {arm: a.text for arm, a in one.items()}, "golds": row["answers"]}
                 for row, one in zip(rows, told, strict=True)]  # fmt: skip
        wishes.keep.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(rows, answered, told, entropies)


if __name__ == "__main__":
    main()
