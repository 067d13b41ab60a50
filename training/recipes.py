"""The two things an adapter can learn here: answering from its weights, and reading passages."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tandem.prompts import PROMPTS_VERSION, closed_book, reading
from training import evaluate, lora
from training.company import Company, encode
from training.evaluate import Case
from training.loop import Example, Plan, Progress, train
from training.passages import ReadingCase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Is what a run learns and what it is measured on."""

    recipe: str
    examples: list[Example]
    held_out: dict[str, list[Case]]
    """Cases by split; their wordings are not among the examples."""
    known: list[Case]
    """A sample of the trained wordings, to tell learning from generalising."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Says where a run reads and writes."""

    base: Path
    out: Path
    device: str
    threads: int
    save_minutes: float = 3.0


def closed_book_task(company: Company, tokenizer: PreTrainedTokenizerBase, *, with_train: bool = True) -> Task:
    """Builds the task of answering questions about the company's open, static facts without passages."""
    asked = list(company.paraphrases)
    if with_train:
        asked += company.wordings("train")
    shortest = {question.fact_id: question.answers[0] for question in company.paraphrases}
    examples = [encode(tokenizer, closed_book(q.text), shortest.get(q.fact_id, q.answers[0])) for q in asked]
    learnt = {question.fact_id for question in asked}

    def case(text: str, golds: tuple[str, ...]) -> Case:
        return Case(encode(tokenizer, closed_book(text), "").prompt, golds, text)

    held_out = {
        split: [case(q.text, q.answers) for q in company.wordings(split) if q.fact_id in learnt]
        for split in ("calibration", "test")
    }
    known = [case(q.text, q.answers) for q in asked[:: max(1, len(asked) // 100)]]
    return Task("closed-book", examples, held_out, known)


def reading_task(cases: Mapping[str, Sequence[ReadingCase]], tokenizer: PreTrainedTokenizerBase) -> Task:
    """Builds the task of answering from passages; `cases` has the splits train, calibration and test."""
    examples = [encode(tokenizer, reading(c.question, c.passages), c.answers[0]) for c in cases["train"]]

    def case(c: ReadingCase) -> Case:
        return Case(encode(tokenizer, reading(c.question, c.passages), "").prompt, c.answers, c.question)

    held_out = {split: [case(c) for c in cases[split]] for split in ("calibration", "test")}
    train_cases = list(cases["train"])
    return Task("reading", examples, held_out, [case(c) for c in train_cases[:: max(1, len(train_cases) // 50)]])


def load_base(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the frozen base model; bfloat16, which is twice as fast as float32 where the processor has it."""
    torch.set_num_threads(run.threads)
    tokenizer = AutoTokenizer.from_pretrained(run.base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        run.base, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
    )
    return model.to(run.device), tokenizer


def execute(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    plan: Plan,
    *,
    data_hashes: dict[str, str],
    on_step: Callable[[Progress], None],
    on_evaluate: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Trains, saves now and then, measures, and returns what training.json holds."""
    started = time.monotonic()
    torch.manual_seed(plan.seed)
    num_weights = lora.attach(model, rank=plan.rank, alpha=plan.alpha)
    saved = started

    def step(progress: Progress) -> None:
        nonlocal saved
        on_step(progress)
        if time.monotonic() - saved > 60 * run.save_minutes:
            lora.save(model, run.out, base_name=run.base.name)
            saved = time.monotonic()

    last = train(model, task.examples, plan, on_step=step)
    lora.save(model, run.out, base_name=run.base.name)
    record = {
        "recipe": task.recipe,
        "base_model": run.base.name,
        "base_sha256": base_sha256(run.base),
        "adapter_sha256": _sha256(run.out / "adapter_model.safetensors"),
        "prompts_version": PROMPTS_VERSION,
        "data_sha256": data_hashes,
        "plan": asdict(plan),
        "num_weights": num_weights,
        "num_examples": len(task.examples),
        "num_tokens_per_epoch": sum(e.num_tokens for e in task.examples),
        "device": run.device,
        "threads": run.threads,
        "steps": last.step,
        "tokens_per_second": round(last.tokens_per_second),
        "final_loss": round(last.loss, 4),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    write(run.out, record)
    record["scores"] = measure(model, tokenizer, task, on_evaluate=on_evaluate)
    write(run.out, record)
    return record


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    on_evaluate: Callable[[str, int, int], None],
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the scores of adapter, base model and echo on each held-out split and on known wordings."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for split, cases in {"known wordings": task.known, **task.held_out}.items():
        row = {}
        for who in ("adapter", "base"):
            lora.switch(model, on=who == "adapter")
            hear = partial(on_evaluate, f"{split}, {who}", len(cases))
            row[who] = evaluate.score(evaluate.answers(model, tokenizer, cases, on_batch=hear), cases).to_json()
        row["echo the question"] = evaluate.score(evaluate.echo(cases), cases).to_json()
        scores[split] = row
    lora.switch(model, on=True)
    return scores


def base_sha256(base: Path) -> str:
    """Returns the SHA-256 over the base model's weight files, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes training.json."""
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def scaled(plan: Plan, **changes: Any) -> Plan:
    """Returns the plan with every change that is not None."""
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})
