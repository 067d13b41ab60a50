"""The figures that the benchmarks report."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report, runner
from benchmarks.peers.protocol import Result
from benchmarks.soak import growth
from benchmarks.stats import Cell, agreement, middle, percentile, slope, summarise
from benchmarks.throughput import Plan, Table

CELL = Cell(tokens_per_second=10, ttft_p50=100, ttft_p95=200, gap_p50=10, gap_p95=20, tokens=96, requests=2)
PLAN = Plan(concurrency=[1, 4], threads=[2], rounds=3, max_tokens=48, seed=1)


def faster(factor: float) -> Cell:
    return Cell(**{**vars(CELL), "tokens_per_second": 10 * factor})


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3], 0.95, 3), ([1, 2, 3], 0.5, 2), ([4, 1, 3, 2], 0.5, 2.5), (range(101), 0.95, 95), ([1, 2], 1, 2)],
)
def test_a_percentile_lies_between_its_neighbours(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == pytest.approx(expected)


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_stays_within_the_values(values: list[float], share: float) -> None:
    assert min(values) <= percentile(values, share) <= max(values)


def test_a_load_lasts_from_its_first_request_to_its_last_output() -> None:
    results = [
        Result(submitted=10.0, times=[10.5, 10.6, 10.8], tokens=3),
        Result(submitted=10.2, times=[11.2, 11.4, 12.0], tokens=3),
    ]
    cell = summarise(results)
    assert cell.tokens_per_second == pytest.approx(6 / 2)
    assert (cell.tokens, cell.requests) == (6, 2)
    assert cell.ttft_p50 == pytest.approx(750)
    assert cell.gap_p50 == pytest.approx(200)


def test_rounds_are_summed_up_by_their_median() -> None:
    assert middle([faster(1), faster(9), faster(2)]).tokens_per_second == 20


def test_agreement_is_the_share_before_the_texts_part() -> None:
    assert agreement(["abcd", "abXd"], ["abcd", "abcd"]) == pytest.approx(0.75)
    assert agreement(["abcdef", ""], ["abcd", "abcd"]) == pytest.approx(0.5)


def test_memory_is_judged_after_its_warm_up() -> None:
    flat = [(0.0, 500.0), (1.0, 900.0)] + [(float(minute), 1000.0) for minute in range(2, 10)]
    assert growth(flat) == (pytest.approx(0), pytest.approx(0))
    leaking = [(float(minute), 1000.0 + 10 * minute) for minute in range(30)]
    grown, per_minute = growth(leaking)
    assert grown == pytest.approx(160)
    assert per_minute == pytest.approx(10)


def test_a_line_needs_two_points() -> None:
    assert slope([(1.0, 5.0)]) == 0
    assert slope([(1.0, 5.0), (1.0, 7.0)]) == 0


def test_the_page_compares_with_the_sequential_reference_and_names_who_is_absent() -> None:
    table = Table()
    table.cells[("sequential", 2, 1)] = [faster(1)] * 3
    table.cells[("tandem-bf16", 2, 4)] = [faster(4), faster(5), faster(6)]
    table.versions = {"sequential": "1", "tandem-bf16": "2"}
    table.absent = {"vllm-bf16": "could not be installed: no such version"}
    page = report.throughput_page(table, PLAN)
    assert "| tandem-bf16 | 50.0 (40.0 to 60.0) | 5.0 |" in page
    assert "vllm-bf16 is absent: could not be installed" in page


def test_results_of_one_day_do_not_replace_one_another(tmp_path: Path) -> None:
    about = {"started": "2026-01-02T03:04:05", "cpu": "Some (R) CPU @ 2 GHz"}
    first = report.write("generator", about, "# One\n", {"cells": []}, folder=tmp_path)
    second = report.write("generator", about, "# Two\n", {"cells": []}, folder=tmp_path)
    assert first.name == "2026-01-02-generator-some.md"
    assert "# One" in first.read_text()
    assert second != first
    assert json.loads(second.with_suffix(".json").read_text())["conditions"]["cpu"] == about["cpu"]


def test_peers_have_names_of_their_own() -> None:
    assert len({peer.name for peer in runner.PEERS}) == len(runner.PEERS)


def test_a_load_is_made_of_whole_waves() -> None:
    assert all(PLAN.requests(level) % level == 0 for level in (1, 4, 16, 32))
