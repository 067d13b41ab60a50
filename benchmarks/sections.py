"""What only the generator has, each against its target: adapters in a batch, shared prefixes, long prompts."""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Prompt, Result, Submit, closed_loop
from benchmarks.peers.tandem_runner import submitter
from benchmarks.prompts import COMPANY, Prompts
from benchmarks.server import copy_adapter, end_tokens, generator
from benchmarks.stats import first_tokens, gaps, middle, percentile, summarise
from benchmarks.throughput import Plan

_ADAPTER = COMPANY / "adapters" / "halden" / "reading"
_NAMES = ("a", "b", "c", "d")


@dataclass
class Line:
    """Is one figure: `value` is to be at most `target`, or at least where `at_least` says so."""

    what: str
    value: float
    target: float
    at_least: bool = False
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure keeps to its target."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Section:
    """Is one subject with its figures."""

    title: str
    about: str
    lines: list[Line] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return asdict(self)


def _settings(model: Path, plan: Plan, precision: str) -> dict[str, str]:
    return {
        "MODEL": str(model), "PRECISION": precision, "THREADS": str(plan.threads[-1]), "BACKEND": "torch",
        "PREFIX_SHARING": "false", "MAX_DEADLINE_SECONDS": "1800",
    }  # fmt: skip


async def adapters(model: Path, plan: Plan, precision: str) -> Section:
    """Measures a batch on four adapters against the same batch on none."""
    section = Section("Adapters", "Rows of four LoRA adapters (rank 8, all linear layers) in turn, against no adapter.")
    prompts, levels = Prompts(model, seed=plan.seed), ([4] if plan.quick else [4, 16])
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        home = Path(folder)
        for number, name in enumerate(_NAMES):
            copy_adapter(_ADAPTER, home / "adapters" / "bench" / name, number=number)
        settings = _settings(model, plan, precision) | {"ADAPTER_DIR": str(home / "adapters")}
        async with generator(home, settings) as server, server.client() as client:
            for level in levels:
                arms = {"none": ("",), "four": _NAMES}
                cells: dict[str, list[Any]] = {arm: [] for arm in arms}
                for round_ in range(plan.rounds + 1):
                    for arm, names in arms.items():
                        submit = submitter(client, ban=end_tokens(model), adapters=names)
                        results = await closed_loop(
                            submit, prompts.take(level), concurrency=level, max_tokens=plan.max_tokens
                        )
                        if round_:  # the first warms up
                            cells[arm].append(summarise(results))
                none, four = middle(cells["none"]), middle(cells["four"])
                detail = f"{four.gap_p50:.1f} ms against {none.gap_p50:.1f} ms"
                section.lines.append(
                    Line(f"time between tokens, {level} at once", four.gap_p50 / none.gap_p50, 1.5, detail=detail)
                )
                detail = f"{four.tokens_per_second:.1f} against {none.tokens_per_second:.1f} tokens/s"
                section.lines.append(
                    Line(
                        f"whole time, {level} at once",
                        none.tokens_per_second / four.tokens_per_second,
                        1.5,
                        detail=detail,
                    )
                )
    return section


async def prefix(model: Path, plan: Plan, precision: str) -> Section:
    """Measures the first token of questions that begin alike, with and without shared prefixes."""
    section = Section(
        "Shared prefixes", "Sixteen prompts of about 300 tokens that begin with the same 200, one after the other; the "
        "first, which nothing can help, is left out."
    )  # fmt: skip
    dealt = Prompts(model, seed=plan.seed)
    sets = [dealt.shared(16, common=200) for _ in range(plan.rounds)]
    found: dict[str, list[float]] = {}
    for sharing in ("false", "true"):
        with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
            settings = _settings(model, plan, precision) | {"PREFIX_SHARING": sharing}
            async with generator(Path(folder), settings) as server, server.client() as client:
                submit = submitter(client, ban=end_tokens(model))
                await closed_loop(submit, dealt.take(2), concurrency=1, max_tokens=4)
                found[sharing] = []
                for prompts in sets:
                    results = await closed_loop(submit, prompts, concurrency=1, max_tokens=4)
                    found[sharing] += first_tokens(results[1:])
    without, with_ = percentile(found["false"], 0.5), percentile(found["true"], 0.5)
    detail = f"p50 {1000 * without:.0f} ms without, {1000 * with_:.0f} ms with"
    section.lines.append(Line("first token sooner by", without / with_, 2.0, at_least=True, detail=detail))
    return section


async def mixed(model: Path, plan: Plan, precision: str) -> Section:
    """Measures how far long prompts that arrive disturb streams that run."""
    section = Section(
        "Long prompts beside running streams", "Four streams of short prompts; p95 of the time between tokens while "
        "prompts of about 1,500 tokens arrive one after the other, against none arriving."
    )  # fmt: skip
    dealt, max_tokens = Prompts(model, seed=plan.seed), 64 if plan.quick else 256
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        settings = _settings(model, plan, precision)
        async with generator(Path(folder), settings) as server, server.client() as client:
            submit = submitter(client, ban=end_tokens(model))
            await closed_loop(submit, dealt.take(1, length=1500), concurrency=1, max_tokens=4)
            quiet: list[float] = []
            busy: list[float] = []
            waits: list[float] = []
            sent = 0
            for _ in range(plan.rounds):
                shorts = [dealt.take(4, length=60) for _ in range(2)]
                quiet += gaps(await closed_loop(submit, shorts[0], concurrency=4, max_tokens=max_tokens))
                longs = dealt.take(40, length=1500)
                results, answered, begun = await _disturbed(submit, shorts[1], longs, max_tokens)
                busy += gaps(results)
                waits += first_tokens(answered)
                sent += begun
    p95 = percentile(quiet, 0.95), percentile(busy, 0.95)
    detail = f"p95 {1000 * p95[0]:.1f} ms alone, {1000 * p95[1]:.1f} ms beside them; "
    detail += f"{sent} long prompts sent, {len(waits)} answered"
    detail += f", their first token after {percentile(waits, 0.5):.1f} s" if waits else ""
    section.lines.append(Line("p95 between tokens", p95[1] / p95[0], 2.0, detail=detail))
    return section


async def _disturbed(
    submit: Submit, shorts: list[Prompt], longs: list[Prompt], max_tokens: int
) -> tuple[list[Result], list[Result], int]:
    """Runs the short streams while long prompts arrive, the next when the one before has its answer.

    Returns the short ones, the long ones that were answered, and how many of these were sent.
    """
    answered: list[Result] = []
    sent = 0

    async def arrive() -> None:
        nonlocal sent
        for prompt in longs:
            sent += 1
            answered.extend(await closed_loop(submit, [prompt], concurrency=1, max_tokens=2))

    arriving = asyncio.create_task(arrive())
    try:
        results = await closed_loop(submit, shorts, concurrency=len(shorts), max_tokens=max_tokens)
    finally:
        arriving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await arriving
    return results, answered, sent


def page(found: list[Section], precision: str, plan: Plan) -> str:
    """Returns the sections as Markdown."""
    lines = ["# The generator by itself", "", f"{precision}, {plan.threads[-1]} compute threads, {plan.rounds} rounds."]
    for section in found:
        lines += ["", f"## {section.title}", "", section.about, ""]
        lines += ["| figure | measured | target | met | detail |", "|---|---|---|---|---|"]
        for line in section.lines:
            target = f"{'at least' if line.at_least else 'at most'} {line.target:.1f}x"
            met = "yes" if line.met else "no"
            lines.append(f"| {line.what} | {line.value:.2f}x | {target} | {met} | {line.detail} |")
    return "\n".join(lines) + "\n"


SECTIONS: dict[str, Callable[[Path, Plan, str], Awaitable[Section]]] = {
    "adapters": adapters,
    "prefix": prefix,
    "mixed": mixed,
}
