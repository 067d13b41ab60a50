"""The chaos in small: real processes, killed at random moments, and nothing acknowledged is lost or comes back."""

from pathlib import Path

from benchmarks.retriever_chaos import KILLS, chaos


async def test_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back(tmp_path: Path) -> None:
    told: list[str] = []
    record = await chaos(tmp_path, rounds=6, seed=11, tell=told.append)
    assert record.faults == []
    assert set(record.kills) == set(KILLS)
    assert record.counts["acknowledged"] > 20
    assert record.counts["searches"] > 20
    assert len(told) == 6
