"""Fits the weights of the router's grounding and reports them on what was not fitted.

    python -m benchmarks.grounding read   --data ../shared/data --cache DIR   likelihoods and vectors, 200 s at a time
    python -m benchmarks.grounding fit    --data ../shared/data --cache DIR   writes services/router/grounding/weights.json
    python -m benchmarks.grounding report --data ../shared/data --cache DIR   AUROC on the test halves

Likelihoods and vectors are dear, so they are kept for a sample of each part; the words alone are fitted on all of it.
"""  # noqa: E501

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import grounding_fit, grounding_sets
from benchmarks.grounding_fit import Example
from benchmarks.grounding_sets import BEGIN, DIALOGUE, Row
from evaluation.grounding.cases import Case
from evaluation.grounding.measuring import Judged, report
from services.router.domain import Passage, Span
from services.router.domain.grounding import Signal
from services.router.grounding import reading
from services.router.grounding.case import case_of
from services.router.grounding.combining import Combination, answer_groundedness, committed
from services.router.grounding.text import Sentence

WEIGHTS = Path("services/router/grounding/weights.json")
SETS = (
    (Signal.LEXICAL,),
    (Signal.LEXICAL, Signal.EMBEDDING),
    (Signal.LEXICAL, Signal.LIKELIHOOD),
    (Signal.LEXICAL, Signal.EMBEDDING, Signal.LIKELIHOOD),
)
ALONE = ((Signal.EMBEDDING,), (Signal.LIKELIHOOD,))
SIZES = {(DIALOGUE, True): 400, (BEGIN, True): 430, (DIALOGUE, False): 300, (BEGIN, False): 450}
"""Contexts of each part that are read by models: two answers each of dialogue, one of begin."""
LIKELIHOODS, VECTORS = "lk.jsonl", "emb.jsonl"


def sampled(rows: list[Row]) -> list[Row]:
    """Returns the rows that models read."""
    return [
        row
        for (source, fits), most in SIZES.items()
        for row in grounding_sets.sample(rows, source=source, fits=fits, most=most)
    ]


def kept(path: Path) -> dict[str, Any]:
    """Returns what a file of readings holds by name of the row."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {found["id"]: found for found in map(json.loads, lines)}


def readings(row: Row, likelihood: Any, vectors: Any) -> list[tuple[Sentence, dict[str, float]]]:
    """Returns the readings of each sentence, those of the models where they were kept."""
    passage = Passage(document_id="d", chunk_id="c", title="", text=row.context, span=Span(0, len(row.context)))
    case = case_of(row.question, row.answer, [passage])
    if not case.windows or not case.claims:
        return []
    said, found = case.claims, list(zip(case.claims, reading.lexical(case), strict=True))
    if vectors:
        for at, (_, one) in enumerate(found):
            one |= {"near": max(vectors["cos"][at]), "echo": vectors["q"][at]}
    if likelihood:
        ends = [*likelihood["at"][1:], len(row.answer)]
        split: list[tuple[list[float], list[float]]] = [([], []) for _ in said]
        for end, told, guessed in zip(ends, likelihood["w"], likelihood["wo"], strict=True):
            owner = max((at for at, claim in enumerate(said) if claim.start < end), default=0)
            split[owner][0].append(told)
            split[owner][1].append(guessed)
        for (_, one), (told, guessed) in zip(found, split, strict=True):
            one |= reading.likelihood(told, guessed)
    return found


def examples(rows: Sequence[Row], cache: Path, *, models: bool) -> Iterator[tuple[Row, Example, list[int]]]:
    """Yields the rows with their examples and the content words of each sentence; with `models`, those kept alone."""
    likelihoods, vectors = kept(cache / LIKELIHOODS), kept(cache / VECTORS)
    for row in rows:
        if models and not (row.name in likelihoods and row.name in vectors):
            continue
        found = readings(row, likelihoods.get(row.name), vectors.get(row.name))
        telling = [pair for pair in found if pair[0].content] or found
        if telling:
            yield (
                row,
                Example(row.source, row.supported, [one for _, one in telling]),
                [len(claim.content) for claim, _ in telling],
            )


def fitted(rows: list[Row], cache: Path, signals: Sequence[Signal]) -> tuple[Combination, int]:
    """Returns a combination and the number of answers it was fitted on."""
    chosen = [row for row in rows if row.fits]
    found = [example for _, example, _ in examples(chosen, cache, models=tuple(signals) != SETS[0])]
    return grounding_fit.fit(found, signals), len(found)


def write(data: Path, cache: Path) -> None:
    """Fits all sets of signals and writes the weights."""
    rows = grounding_sets.read(data)
    combinations = []
    for signals in SETS:
        one, num = fitted(rows, cache, signals)
        parts = zip(one.readings, one.means, one.scales, one.weights, strict=True)
        table = [{"reading": n, "mean": m, "scale": s, "weight": w} for n, m, s, w in parts]
        combinations.append({"signals": list(signals), "answers": num, "bias": one.bias, "readings": table})
    told = {
        "source": "halueval dialogue, the half for fitting (MIT), and begin dev (wizard of wikipedia)",
        "fitted": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.grounding fit --data ../shared/data --cache DIR",
        "data_sha256": grounding_sets.sha256(data),
        "seed": grounding_sets.SEED,
        "models": "SmolLM2-135M-Instruct (bf16) for likelihoods, all-MiniLM-L6-v2 (bf16) for vectors",
        "combinations": combinations,
    }
    WEIGHTS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def tell(data: Path, cache: Path, *, models: bool) -> None:
    """Prints the test figures of each source: by words on all of it, by every signal on the sample."""
    rows = grounding_sets.read(data)
    weights = committed().combinations
    named = {" + ".join(signals): weights[frozenset(signals)] for signals in (SETS if models else SETS[:1])}
    if models:
        named = {f"{signals[0]} alone": fitted(rows, cache, signals)[0] for signals in ALONE} | named
    for source in (DIALOGUE, BEGIN):
        test = [row for row in rows if row.source == source and not row.fits]
        found = list(examples(test, cache, models=models))
        cases = [
            Case(
                context=(row.context,), question=row.question, answer=row.answer, supported=row.supported,
                group=row.group,
            )
            for row, _, _ in found
        ]  # fmt: skip
        judged = {
            name: [
                Judged(answer_groundedness([(one.sentence(s), n) for s, n in zip(e.sentences, num, strict=True)]), "")
                for _, e, num in found
            ]
            for name, one in named.items()
        }
        made = report(cases, judged, seed=grounding_sets.SEED)
        print(f"{source}, test: {len(cases)} answers, {made.about['groups']} groups")
        for name, value in made.auroc.items():
            print(f"  {name:40} {value}")
        for name, value in made.gains.items():
            print(f"  above {name:34} {value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]")


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["read", "fit", "report"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200, help="how long to read, the rest the next time")
    given = parser.parse_args()
    if given.what == "fit":
        write(given.data, given.cache)
    elif given.what == "report":
        for models in (False, True):
            tell(given.data, given.cache, models=models)
    else:
        from benchmarks.grounding_readings import read

        read(sampled(grounding_sets.read(given.data)), given.cache, seconds=given.seconds)


if __name__ == "__main__":
    main()
