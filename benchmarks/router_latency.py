"""How long the sample company's people wait on the local stack, one question at a time, and for what."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.evaluation import COMPANY, stack
from benchmarks.router_asking import ask
from benchmarks.router_figures import GROUND, Asked, by_stage, spread, told
from benchmarks.sections import Line
from tandem.client import AsyncRouterClient
from tandem.stack import Home

TENANT, PRINCIPAL, LABEL = "halden", "erin", "static"
QUESTIONS = 60
_WARM_UP = 5


@dataclass(frozen=True)
class Arm:
    """Is a policy at a depth of grounding; the goal is for the p95 at the caller, in milliseconds."""

    name: str
    policy: str
    depth: str
    goal_ms: float


STACKS = (
    (Arm("finetuned", "finetuned", "words", 200), Arm("evidence, words", "rag", "words", 500)),
    (Arm("evidence, vectors", "rag", "vectors", 500),),
    (Arm("evidence, likelihood", "rag", "likelihood", 500),),
)
"""Arms by the stack that they are asked of: two that embed or read the same would find each other's work kept."""
ENTAILMENT = "The depth `entailment` needs a classifier at the embedder, which the local stack does not have."


@dataclass
class Found:
    """Holds the answers of each arm by its name, in the order of the questions."""

    answers: dict[str, list[Asked]] = field(default_factory=dict)


def questions(path: Path, count: int) -> tuple[list[str], list[str]]:
    """Returns the first so many questions to measure by, and some that follow them to warm up with."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [row["question"] for row in rows if row["tenant"] == TENANT and row["label"] == LABEL]
    if len(chosen) < count + _WARM_UP:
        raise ValueError(f"{path} holds {len(chosen)} questions of {TENANT} labelled {LABEL}; {count + _WARM_UP} asked")
    return chosen[:count], chosen[count : count + _WARM_UP]


def domain(arm: Arm) -> str:
    """Returns the file of an arm's domain: nothing is withheld, so that every answer's text is told."""
    return (
        f'description = "measured by make bench-router"\ntenants = ["{TENANT}"]\npolicy = "{arm.policy}"\n'
        f'depth = "{arm.depth}"\n\n[abstention]\nmin_groundedness = 0.0\nbelow = "tell"\n'
    )


def measure(count: int, work: Path) -> Found:
    """Asks each arm all questions, arms of one stack in turn; raises RuntimeError where the stack does not serve."""
    found = Found()
    asked, warm_up = questions(COMPANY / "questions" / "test.jsonl", count)
    home = work.resolve() / "home"
    for arms in STACKS:
        with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
            for arm in arms:
                (Path(folder) / f"{_domain(arm)}.toml").write_text(domain(arm), encoding="utf-8")
            with stack(home, Path(folder), sample=True):
                found.answers |= asyncio.run(_turns(Home(home), arms, asked, warm_up))
    return found


async def _turns(
    home: Home, arms: Sequence[Arm], asked: Sequence[str], warm_up: Sequence[str]
) -> dict[str, list[Asked]]:
    answers: dict[str, list[Asked]] = {arm.name: [] for arm in arms}
    target = json.loads(home.endpoints.read_text())["router"]["grpc"]
    token = json.loads(home.credentials.read_text())[PRINCIPAL]
    async with AsyncRouterClient(target, token=token) as client:
        for question in warm_up:
            for arm in arms:
                await ask(client, question, domain=_domain(arm))
        for question in asked:
            for arm in arms:
                answers[arm.name].append(await ask(client, question, domain=_domain(arm)))
    for name, of_arm in answers.items():
        print(f"{name}: {spread([one.seconds for one in of_arm])} ms", flush=True)
    return answers


def _domain(arm: Arm) -> str:
    return arm.name.replace(", ", "-")


def _arms() -> tuple[Arm, ...]:
    return tuple(arm for arms in STACKS for arm in arms)


def lines(found: Found) -> list[Line]:
    """Returns the p95 of each arm against its goal."""
    result = []
    for arm in _arms():
        times = spread([asked.seconds for asked in found.answers[arm.name]])
        result.append(Line(arm.name, times.p95, arm.goal_ms, detail=f"ms at p95; p50 {told(times.p50)}"))
    return result


def page(found: Found) -> list[str]:
    """Returns the section as lines of Markdown."""
    num = min(len(answers) for answers in found.answers.values())
    rows = [
        "## How long callers wait", "",
        f"The local stack with the sample company, everything at its defaults but for the domain; the first {num} "
        f"questions of its test set that are labelled {LABEL}, asked by {PRINCIPAL} of {TENANT} one after the other by "
        "StreamAsk. Milliseconds at the caller, p50 / p95 / p99. *First text* is the first piece of the answer's text; "
        "*without grounding* is the same answers less their stage `ground`, which comes after the text and beside "
        "nothing else. Tokens are those of the answer's usage, median (least to most). *Partly* counts answers "
        "that lack a part. Each depth has a stack of its "
        f"own, so that none finds what another left in a cache. {ENTAILMENT}", "",
        "| path | whole answer | without grounding | first text | prompt tokens | answer tokens | abstained | partly |",
        "|---" * 8 + "|",
    ]  # fmt: skip
    for arm in _arms():
        answers = found.answers[arm.name]
        first = [asked.first_s for asked in answers if asked.first_s is not None]
        grounded = any(GROUND in asked.timings for asked in answers)
        columns = [
            spread([asked.seconds for asked in answers]),
            spread([asked.ungrounded_s for asked in answers]) if grounded else "-",
            spread(first),
            _counts([asked.input_tokens for asked in answers]),
            _counts([asked.output_tokens for asked in answers]),
            sum(asked.abstained for asked in answers),
            sum(asked.degraded for asked in answers),
        ]
        rows.append(f"| {arm.name} | {' | '.join(map(str, columns))} |")
    stages = {arm.name: by_stage(found.answers[arm.name]) for arm in _arms()}
    names = list(dict.fromkeys(name for of_arm in stages.values() for name in of_arm))
    rows += ["", "Where it goes, by stage:", "", f"| path | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    rows += [f"| {name} | {' | '.join(str(s.get(stage, '-')) for stage in names)} |" for name, s in stages.items()]
    return [*rows, ""]


def _counts(values: Sequence[int]) -> str:
    return f"{median(values):.0f} ({min(values)} to {max(values)})" if values else "-"


def data(found: Found) -> dict[str, Any]:
    """Returns the section as plain data, every answer of it."""
    return {
        "arms": [asdict(arm) for arm in _arms()],
        "answers": {name: [asdict(asked) for asked in answers] for name, answers in found.answers.items()},
    }
