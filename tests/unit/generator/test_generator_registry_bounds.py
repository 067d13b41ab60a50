"""The registry's bounds, and changes that meet: what is unloaded or fails meanwhile, who waits and who leaves."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.generator.metrics import GeneratorMetrics
from services.generator.registry.holdings import Holdings
from tandem.errors import FailedPrecondition, NotFound, Overloaded, TooLarge, Unavailable
from tests.fakes.generator_adapters import FakeAdapters, place
from tests.fakes.generator_registry import CHECK, Bench, opened, refused


async def loading(bench: Bench, name: str) -> "asyncio.Task[object]":
    """Returns a load that waits for the gate."""
    bench.memory.entered.clear()
    task: asyncio.Task[object] = asyncio.create_task(bench.registry.load(name, tenant="halden"))
    await asyncio.to_thread(bench.memory.entered.wait, 30)
    return task


async def test_a_version_that_is_unloaded_while_another_is_loaded_stays_out(tmp_path: Path) -> None:
    gate = threading.Semaphore(2)
    place(tmp_path, fill=1)
    async with opened(tmp_path, gate=gate) as bench:
        second, third = bench.versions(2, 3)
        await bench.registry.load(f"answers@{second}", tenant="halden")
        task = await loading(bench, f"answers@{third}")
        bench.registry.unload(f"answers@{second}", tenant="halden")
        gate.release()
        await task
        await refused(lambda: bench.got(f"answers@{second}"), NotFound)
        assert bench.got(f"answers@{third}") == third
        assert len(await bench.settled()) == 2
        bench.registry.unload("answers", tenant="halden")
        assert await bench.settled() == []


async def test_what_has_left_the_memory_cannot_be_held(tmp_path: Path) -> None:
    holdings = Holdings(FakeAdapters(), max_versions=1, metrics=GeneratorMetrics(CollectorRegistry()))
    held = await holdings.bring(CHECK(place(tmp_path)))
    holdings.release(held)
    with pytest.raises(LookupError):
        holdings.hold(held)
    await holdings.stop()


@pytest.mark.parametrize("fault", [RuntimeError("not contiguous"), MemoryError(), KeyError("x"), RecursionError()])
async def test_an_unforeseen_failure_is_that_adapters_alone(
    tmp_path: Path, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    place(tmp_path, name="a")
    place(tmp_path, name="b")
    async with opened(tmp_path, fail=fault) as bench:
        assert [shown.adapter.name for shown in bench.registry.visible("halden")] == ["b"]
        place(tmp_path, name="a", fill=2)
        newer = place(tmp_path, name="b", fill=2).name
        bench.memory.fail = fault
        await bench.registry.refresh()
        assert bench.got("b") == newer
        place(tmp_path, name="b", fill=3)
        bench.memory.fail = fault
        caplog.clear()
        error = await refused(lambda: bench.registry.load("b", tenant="halden"), FailedPrecondition)
        assert (error.reason, error.metadata["refusal"]) == ("ADAPTER_REFUSED", "LOAD_FAILED")
        (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
        assert record.exc_info is not None
        assert record.exc_info[1] is fault
        await bench.registry.load("b", tenant="halden")


async def test_few_changes_of_a_tenant_wait_and_none_whose_caller_has_left(tmp_path: Path) -> None:
    gate = threading.Semaphore(0)
    async with opened(tmp_path, gate=gate) as bench:
        first, second = bench.versions(1, 2)
        bench.alias(first)
        running = await loading(bench, "answers")
        many = [asyncio.create_task(bench.registry.load(f"answers@{second}", tenant="halden")) for _ in range(2_000)]
        await asyncio.sleep(0)
        turned_away = [task.exception() for task in many if task.done()]
        assert len(turned_away) == 2_000 - 4
        for error in turned_away:
            assert isinstance(error, Overloaded)
            assert error.reason == "TOO_MANY_CHANGES"
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        place(tmp_path, tenant="brightwater")
        other = asyncio.create_task(bench.registry.load("answers", tenant="brightwater"))
        gate.release(3)
        await asyncio.gather(running, other)
        await refused(lambda: bench.got(f"answers@{second}"), NotFound)
        await bench.registry.load(f"answers@{second}", tenant="halden")
        assert [kind for kind, _ in bench.memory.calls] == ["load"] * 3


async def test_what_waits_when_the_registry_stops_never_begins(tmp_path: Path) -> None:
    gate = threading.Semaphore(0)
    async with opened(tmp_path, gate=gate) as bench:
        bench.alias(*bench.versions(1))
        running = await loading(bench, "answers")
        waiting = asyncio.create_task(bench.registry.load("answers", tenant="halden"))
        await asyncio.sleep(0)
        gate.release()
        await bench.registry.stop()
        ended = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [asyncio.CancelledError, Unavailable]
        assert len(bench.memory.calls) == 1


async def test_candidates_without_room_do_not_stop_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = place(tmp_path, name="a", fill=2)
    old = place(tmp_path, name="a", fill=1)
    place(tmp_path, name="b")
    aliases = tmp_path / "halden" / "a" / "aliases.json"
    aliases.write_text(f'{{"stable": "{old.name}", "candidate": "{new.name}", "canary_share": 1.0}}')
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path, room=2) as bench:
            assert bench.got("a") == old.name
            assert {record.message[:24] for record in caplog.records} == {"version refused: NO_ROOM"}
            bench.registry.unload("b", tenant="halden")
            await bench.registry.refresh()
            assert bench.got("a") == new.name


async def test_candidates_that_fit_serve_from_the_start(tmp_path: Path) -> None:
    new = place(tmp_path, fill=2)
    old = place(tmp_path, fill=1)
    aliases = tmp_path / "halden" / "answers" / "aliases.json"
    aliases.write_text(f'{{"stable": "{old.name}", "candidate": "{new.name}", "canary_share": 1.0}}')
    async with opened(tmp_path, room=2) as bench:
        assert bench.got() == new.name
        assert bench.metric("adapter_loads_total", outcome="loaded") == 0


async def test_a_tenant_may_have_few_versions_beside_its_aliases(tmp_path: Path) -> None:
    async with opened(tmp_path, room=32) as bench:
        versions = bench.versions(*range(10))
        bench.alias(versions[0])
        place(tmp_path, tenant="brightwater", fill=2)
        theirs = place(tmp_path, tenant="brightwater", fill=1).name
        for version in versions[:9]:
            await bench.registry.load(f"answers@{version}", tenant="halden")
        more = f"answers@{versions[9]}"
        error = await refused(lambda: bench.registry.load(more, tenant="halden"), TooLarge)
        assert error.reason == "TOO_MANY_ADAPTERS"
        await bench.registry.load(f"answers@{versions[8]}", tenant="halden")
        await bench.registry.load(f"answers@{theirs}", tenant="brightwater")
        bench.registry.unload(f"answers@{versions[1]}", tenant="halden")
        await bench.registry.load(more, tenant="halden")
