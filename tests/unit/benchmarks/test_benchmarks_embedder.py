"""What the comparison of embedders reports, and when it says that a goal is met."""

import os
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import embedder
from benchmarks.embedder import SECTIONS, SPEED, Work, judge, speed
from benchmarks.embedder_arms import ARMS, DEFAULT, REFERENCE, SERVER, Answer, Arm, Embedder, ours
from benchmarks.embedder_page import Cell, Plan, Round, cells, goals, page
from benchmarks.embedder_texts import Texts, cosines, draw, ndcg_at_10, read

PLAN = Plan(source="texts", rounds=2, passages=2, queries=4, threads=1, seed=1)
TEXTS = Texts([*"abc"], [*"qrst"], [*"abc"], [*"qrst"], {query: {"a": 1} for query in "qrst"})


def vector(*values: float) -> "array[float]":
    return array("f", values)


class FakeEmbedder:
    """Implements Embedder: texts have vectors by their length and take a second; ends the run after so many turns."""

    version = "fake"
    serves = True

    def __init__(self, turns: int) -> None:
        self.turns = turns

    async def single(self, texts: Sequence[str], *, concurrency: int) -> Answer:
        return self._answer(texts)

    async def bulk(self, texts: Sequence[str]) -> Answer:
        if not self.turns:
            raise KeyboardInterrupt
        self.turns -= 1
        return self._answer(texts)

    def _answer(self, texts: Sequence[str]) -> Answer:
        assert len(set(texts)) == len(texts)
        return Answer([1.0] * len(texts), [vector(1, len(text)) for text in texts])


def fake_arms(monkeypatch: pytest.MonkeyPatch, *, turns: int) -> list[str]:
    """Lets every arm be a fake, and returns the names of those that are started."""
    started: list[str] = []

    def fake(arm: Arm) -> Arm:
        @asynccontextmanager
        async def start(model: Path, threads: int) -> AsyncIterator[Embedder]:
            started.append(arm.name)
            yield FakeEmbedder(turns)

        return Arm(arm.name, arm.about, start, arm.ours)

    monkeypatch.setattr(embedder, "ARMS", [fake(arm) for arm in ARMS])
    return started


def results(measured: dict[str, tuple[Round, float | None]]) -> dict[str, Any]:
    """Returns one round of all arms, and their quality."""
    speed = {
        "versions": dict.fromkeys(measured, "1"),
        "rounds": [{name: vars(turn) for name, (turn, _) in measured.items()}],
    }
    return {"speed": speed} | {f"quality-{name}": {"ndcg": ndcg} for name, (_, ndcg) in measured.items()}


def arm(
    rate: float, single: float, at_once: float | None = 10, ndcg: float | None = None
) -> tuple[Round, float | None]:
    return Round(rate, single, at_once, (0.99, 0.98)), ndcg


def test_ndcg_is_one_for_the_best_order_and_discounts_later_places() -> None:
    texts = Texts(["a", "b"], ["q"], ["a", "b"], ["q"], {"q": {"b": 1}})
    passages = [vector(1, 0), vector(0, 1)]
    assert ndcg_at_10(texts, passages, [vector(0, 1)]) == pytest.approx(1)
    assert ndcg_at_10(texts, passages, [vector(1, 0)]) == pytest.approx(0.6309, abs=1e-4)


def test_cosines_are_of_the_same_texts() -> None:
    mean, least = cosines([vector(1, 0), vector(0, 2)], [vector(1, 0), vector(1, 1)])
    assert (mean, least) == (pytest.approx((1 + 0.5**0.5) / 2), pytest.approx(0.5**0.5))


def test_without_a_set_there_are_texts_of_our_own() -> None:
    texts = read(None)
    assert len(draw(texts.passages, 32, seed=1)) == 32
    assert len(draw(texts.queries, 100, seed=1)) == 100
    assert not texts.relevant


def test_goals_are_judged_by_the_reference_of_the_same_run() -> None:
    measured = {
        REFERENCE: arm(10, 10, None),
        SERVER: arm(9, 11, 100),
        "tandem-torch-fp32": arm(17, 4, ndcg=0.650),
        DEFAULT: arm(36, 4, 40, ndcg=0.649),
        "tandem-torch": arm(90, 1, ndcg=0.640),
        "tandem-openvino-int8": arm(51, 2, ndcg=0.646),
        "openvino-int8": arm(99, 1, ndcg=0.650),
    }
    found = goals(cells(results(measured)))
    assert [met for _, _, met in found] == [True, True, True, True, True]
    assert "tandem-openvino-int8" in found[2][0]
    measured[DEFAULT] = arm(34, 6, 51)
    assert [met for _, _, met in goals(cells(results(measured)))] == [False, False, True, True, False]


def test_ratios_are_of_the_same_round() -> None:
    """A slow minute hits arm and reference alike; medians of each alone would mix the minutes."""
    rounds = [(Round(rate * 3, 1), {REFERENCE: Round(rate, 2)}) for rate in (10.0, 20.0, 40.0)]
    cell = Cell("1", [*rounds, (Round(3, 1), {})])
    assert cell.ratio("passages_per_second", REFERENCE) == pytest.approx(3)
    assert cell.ratio("passages_per_second", SERVER) is None
    assert cell.ratio("at_once_ms", REFERENCE) is None


def test_the_page_names_what_is_absent_and_that_nothing_is_cached() -> None:
    written = page(cells(results({REFERENCE: arm(10, 10, None)})), {"openvino-int8": "no wheel"}, PLAN)
    assert f"| {REFERENCE} | 10.0 (10.0 to 10.0) [1.0] | 10.0 (10.0 to 10.0) [1.0] | - |" in written
    assert "- openvino-int8 is absent: no wheel" in written
    assert "EMBEDDER_CACHE_TEXTS=0" in written


def test_every_arm_is_in_a_section_beside_the_reference() -> None:
    assert {name for names in SPEED.values() for name in names} == {arm.name for arm in ARMS}
    assert all(REFERENCE in names for names in SPEED.values())
    assert {f"quality-{arm.name}" for arm in ARMS if arm.ours} <= set(SECTIONS)


async def test_our_arms_keep_no_queries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def spec(*parts: Any) -> None:
        seen.append(parts[-1])
        raise InterruptedError

    monkeypatch.setattr("benchmarks.embedder_arms.Spec", spec)
    with pytest.raises(InterruptedError):
        async with ours({"PRECISION": "fp32"})(tmp_path, 2):
            pass
    assert (seen[0]["EMBEDDER_CACHE_TEXTS"], seen[0]["EMBEDDER_WORKERS"]) == ("0", "2")


async def test_a_section_goes_on_after_its_last_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work = Work(tmp_path, PLAN)
    started = fake_arms(monkeypatch, turns=2)  # one to warm up, one round
    with pytest.raises(KeyboardInterrupt):
        await speed("torch", tmp_path, PLAN, texts=TEXTS, work=work)
    assert len((work.read("torch") or {})["rounds"]) == 1
    fake_arms(monkeypatch, turns=2)
    await speed("torch", tmp_path, PLAN, texts=TEXTS, work=work)
    done = work.read("torch") or {}
    assert [set(each) for each in done["rounds"]] == [set(SPEED["torch"])] * 2
    assert done["rounds"][1]["tandem-torch"]["cosine"] == pytest.approx([1, 1])
    started.clear()
    await speed("torch", tmp_path, PLAN, texts=TEXTS, work=work)
    assert not started
    assert Work(tmp_path, Plan(**{**vars(PLAN), "seed": 2})).read("torch") is None


async def test_quality_goes_on_after_its_last_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedder, "_PART", 3)
    work, section = Work(tmp_path, PLAN), f"quality-{DEFAULT}"
    fake_arms(monkeypatch, turns=2)
    with pytest.raises(KeyboardInterrupt):
        await judge(section, tmp_path, PLAN, texts=TEXTS, work=work)
    assert work.read(section) is None
    fake_arms(monkeypatch, turns=1)
    await judge(section, tmp_path, PLAN, texts=TEXTS, work=work)
    assert (work.read(section) or {})["ndcg"] == pytest.approx(1)
    assert os.listdir(tmp_path) == [f"{section}.json"]
    work.forget(section)
    assert work.read(section) is None
