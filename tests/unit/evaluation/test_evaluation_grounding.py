"""From labelled answers to AUROC beside length and overlap."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.grounding.cases import Case, read
from evaluation.grounding.measuring import GROUNDEDNESS, LENGTH, OVERLAP, Judged, Report, bins, judge, report
from evaluation.grounding.metrics import Draws, auroc, curve, interval, overlap
from evaluation.grounding.telling import DATA, table, write
from tandem.errors import InvalidInput

GOOD = {"context": "The limit is 5.", "question": "?", "answer": "The limit is 5.", "label": 1}
BAD = GOOD | {"answer": "The limit is 6 or so.", "label": 0}


def file(folder: Path, *rows: Any) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_file_is_read(tmp_path: Path):
    first, second = read(file(tmp_path, GOOD, {"context": ["a", "b"], "answer": "x", "label": False, "group": 3}))
    assert first == Case(
        context=("The limit is 5.",),
        question="?",
        answer="The limit is 5.",
        supported=True,
        group="The limit is 5.",
    )
    assert (second.context, second.question, second.supported, second.group) == (("a", "b"), "", False, "3")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "cases.jsonl:2 is no JSON"),
        ("[]", "cases.jsonl:2 is no JSON object"),
        (GOOD | {"label": 2}, "cases.jsonl:2: .label."),
        (GOOD | {"label": None}, "cases.jsonl:2: .label."),
        (GOOD | {"context": []}, "cases.jsonl:2: .context."),
        (GOOD | {"answer": 5}, "cases.jsonl:2: .answer."),
        (GOOD | {"answer": ""}, "cases.jsonl:2: .answer. is empty"),
        (GOOD | {"answer": "a" * 8193}, "at most 8192 characters"),
        (GOOD | {"question": "a" * 4097}, "at most 4096 characters"),
        (GOOD | {"context": ["a"] * 21}, "at most 20 texts"),
        (GOOD | {"context": "a" * 65_537}, "at most 20 texts of 65536 characters"),
        (GOOD, "label 1 and answers with label 0"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, row: Any, told: str):
    with pytest.raises(InvalidInput) as caught:
        read(file(tmp_path, GOOD, row))
    assert re.search(told, str(caught.value.violations))


scored = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30)


@given(rows=scored)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]):
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    pairs = [(a > b) + (a == b) / 2 for a, x in rows if x for b, y in rows if not y]
    assert auroc(scores, labels) == pytest.approx(sum(pairs) / len(pairs) if pairs else 0.5)
    if pairs:
        points = curve(scores, labels)
        area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))
        assert area == pytest.approx(auroc(scores, labels))
        whole = Draws(labels, range(len(rows)), num=0)
        ordered = sorted((score, row) for row, score in enumerate(scores))
        assert whole._one(ordered, [1] * len(rows)) == pytest.approx(auroc(scores, labels))


def test_draws_take_whole_groups_and_are_the_same_for_every_score():
    draws = Draws([True, False] * 10, [row // 2 for row in range(20)], num=50)
    assert draws.aurocs([1.0, 0.0] * 10) == [1.0] * 50
    assert draws.aurocs([0.0, 1.0] * 10) == [0.0] * 50
    assert interval(1.0, []).low == -1


def test_overlap_counts_words_of_the_context():
    assert overlap("The limit, the LIMIT is 7", ["the limit", "is 5"]) == pytest.approx(5 / 6)
    assert overlap("!", ["a"]) == 0


def test_reliability_has_a_row_for_each_tenth_that_holds_answers():
    assert bins([0.05, 0.07, 1.0], [False, True, True]) == [(pytest.approx(0.06), 0.5, 2), (1.0, 1.0, 1)]


async def report_of(value: float | None = 0.9) -> Report:
    cases = [
        Case(context=(f"limit {n}",), question="<b>", answer=f"limit {n}" if n % 2 else "ten", supported=n % 2 == 1,
             group=str(n))
        for n in range(20)
    ]  # fmt: skip

    async def ask(case: Case) -> Judged:
        return Judged(value if case.supported else 0.1, "measured", ("lexical",))

    done: list[int] = []
    judged = await judge(cases, ask, done.append, concurrency=3)
    assert done == list(range(1, 21))
    return report(cases, {GROUNDEDNESS: judged})


async def test_groundedness_stands_beside_length_and_overlap(tmp_path: Path):
    found = await report_of()
    assert list(found.auroc) == [LENGTH, OVERLAP, GROUNDEDNESS]
    assert found.auroc[GROUNDEDNESS].value == 1
    assert found.auroc[LENGTH].value == 0
    assert found.gains[LENGTH].low == 1
    assert table(found, name="x").row_count == 3
    page = write(found, tmp_path / "out", name="<script>")
    assert "<script>" not in page.read_text()
    assert page.read_text().count("<svg") == 3
    assert json.loads((tmp_path / "out" / DATA).read_text())["auroc"]["groundedness"]["value"] == 1


async def test_answers_without_a_figure_count_as_nothing_and_are_told():
    found = await report_of(None)
    assert found.auroc[GROUNDEDNESS].value == 0
    assert found.notes == ["10 answers without a figure count as 0."]


def test_evidence_that_failed_is_told_for_each_way():
    cases = [Case(context=("a",), question="", answer="a", supported=n < 2, group=str(n)) for n in range(4)]
    words, partial = [Judged(0.5, "measured", ("lexical",))] * 4, [Judged(0.5, "partial", ("lexical",))] * 4
    found = report(cases, {"words": words, "vectors": partial})
    assert found.statuses == {"words": {"measured": 4}, "vectors": {"partial": 4}}
    assert found.notes == ["vectors: 4 answers lack evidence that was asked for; they rest on lexical alone."]
