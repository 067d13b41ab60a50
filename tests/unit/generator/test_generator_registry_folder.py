"""The adapter folder: what is followed when other processes change it, and what is passed over."""

import asyncio
import fcntl
import logging
import threading
from pathlib import Path

import pytest

from services.generator.registry.store import Store
from tandem.adapters import Aliases
from tandem.adapters.changing import LOCK, changing_aliases
from tandem.errors import FailedPrecondition, NotFound
from tests.fakes.generator_adapters import place
from tests.fakes.generator_registry import opened, refused


async def test_changed_aliases_and_new_adapters_are_followed(tmp_path: Path) -> None:
    first = place(tmp_path, fill=1).name
    place(tmp_path, tenant="_shared", name="style", fill=1)
    async with opened(tmp_path) as bench:
        (second,) = bench.versions(2)
        bench.alias(first, second, 0.5)
        place(tmp_path, name="claims")
        newer = place(tmp_path, tenant="_shared", name="style", fill=2).name
        await bench.registry.refresh()
        bench.lot = 0.1
        assert (bench.got(), bench.got("answers@stable")) == (second, first)
        assert (len(bench.got("claims")), bench.got("style")) == (16, newer)
        assert bench.metric("adapter_loads_total", outcome="loaded") == 3
        bench.alias(second)
        await bench.registry.refresh()
        assert bench.got() == second
        assert len(await bench.settled()) == 3


async def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        await bench.registry.load("answers", tenant="halden")
        (second,) = bench.versions(2)
        await bench.registry.promote("answers", tenant="halden", version=second)
        loads = bench.metric("adapter_loads_total", outcome="loaded")
        for _ in range(3):
            await bench.registry.refresh()
        assert len(await bench.settled()) == 1
        assert [what for what, _ in bench.memory.calls] == ["load", "load", "unload"]  # the first version, dropped
        assert bench.metric("adapter_loads_total", outcome="loaded") == loads


async def test_what_was_unloaded_stays_out_until_it_is_loaded(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path) as bench:
        bench.registry.unload("answers", tenant="halden")
        place(tmp_path, fill=2)
        await bench.registry.refresh()
        await refused(lambda: bench.got(), NotFound)
        await bench.registry.load("answers", tenant="halden")
        newest = place(tmp_path, fill=3).name
        await bench.registry.refresh()
        assert bench.got() == newest


async def test_what_is_unloaded_while_it_is_followed_stays_out(tmp_path: Path) -> None:
    gate = threading.Semaphore(1)
    place(tmp_path, fill=1)
    async with opened(tmp_path, gate=gate) as bench:
        bench.memory.entered.clear()
        place(tmp_path, fill=2)
        following = asyncio.create_task(bench.registry.refresh())
        await asyncio.to_thread(bench.memory.entered.wait, 30)
        bench.registry.unload("answers", tenant="halden")
        gate.release()
        await following
        await refused(lambda: bench.got(), NotFound)
        assert await bench.settled() == []


async def test_an_unload_in_the_middle_of_a_load_leaves_the_loaded_versions_held(tmp_path: Path) -> None:
    gate = threading.Semaphore(1)
    place(tmp_path, fill=1)
    async with opened(tmp_path, gate=gate) as bench:
        old = bench.got()
        (new,) = bench.versions(2)
        bench.alias(old, new, 0.5)
        bench.memory.entered.clear()
        loading = asyncio.create_task(bench.registry.load("answers", tenant="halden"))
        await asyncio.to_thread(bench.memory.entered.wait, 30)  # the stable one is held already, the candidate comes
        bench.registry.unload("answers", tenant="halden")
        gate.release()
        await loading
        assert len(await bench.settled()) == 2
        assert (bench.got("answers@stable"), bench.got("answers@candidate")) == (old, new)
        bench.registry.unload("answers", tenant="halden")
        assert await bench.settled() == []


async def test_a_change_that_fails_a_check_is_told_once_and_the_version_before_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = place(tmp_path, fill=1).name
    other = place(tmp_path, name="other", fill=1).name
    async with opened(tmp_path) as bench:
        bad = place(tmp_path, fill=2, base_sha256="00" * 32).name
        newer = place(tmp_path, name="other", fill=2).name
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await bench.registry.refresh()
        assert len([record for record in caplog.records if "adapter refused" in record.message]) == 1
        assert bench.metric("adapters_refused_total") == 1
        assert (bench.got(), bench.got("other")) == (good, newer)
        assert newer != other
        shown = next(shown for shown in bench.registry.visible("halden") if shown.adapter.name == "answers")
        assert {row.version: row.refusal[:13] for row in shown.versions} == {good: "", bad: "BASE_MISMATCH"}
        bench.alias(good)
        await bench.registry.refresh()
        assert bench.got() == good


async def test_what_has_no_room_now_is_tried_again(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path, room=1) as bench:
        pin = bench.registry.pin("answers", tenant="halden")
        new = place(tmp_path, fill=2).name
        await bench.registry.refresh()
        assert bench.got() == pin.adapter.version
        pin.release()
        await bench.registry.refresh()
        assert bench.got() == new


async def test_the_folder_is_looked_at_again_and_again(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path, refresh_s=0.001) as bench:
        await bench.until(place(tmp_path, fill=2).name)
        aliases = tmp_path / "halden" / "answers" / "aliases.json"
        aliases.write_text("{")
        for _ in range(6_000):
            if bench.metric("adapters_refused_total"):
                break
            await asyncio.sleep(0.005)
        await bench.until(place(tmp_path, fill=3).name)


async def test_damaged_aliases_are_refused(tmp_path: Path) -> None:
    folder = place(tmp_path).parents[1]
    async with opened(tmp_path) as bench:
        good = bench.got()
        (folder / "aliases.json").write_text('{"stable": "../../x"}')
        await bench.registry.refresh()
        error = await refused(lambda: bench.registry.load("answers", tenant="halden"), FailedPrecondition)
        assert (error.reason, error.metadata["refusal"]) == ("ADAPTER_REFUSED", "ALIASES_INVALID")
        assert bench.got() == good


async def test_old_folders_and_wrong_names_are_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = place(tmp_path, tenant="brightwater", name="secret")
    flat = tmp_path / "halden" / "flat"
    flat.mkdir(parents=True)
    (flat / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "halden" / "has blank").mkdir()
    (tmp_path / "halden" / ".scratch").mkdir()
    (tmp_path / "halden" / "linked").symlink_to(secret.parents[1])
    (tmp_path / "README.md").write_text("a file")
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path) as bench:
            await bench.registry.refresh()
            assert len(bench.registry) == 1
    told = {str(vars(record)["adapter"]): record.message for record in caplog.records}
    assert set(told) == {"halden/flat", "halden/has blank", "halden/linked"}
    assert len(caplog.records) == 3
    assert "tandem train register" in told["halden/flat"]


def test_a_writer_waits_for_another_and_not_for_ever(tmp_path: Path) -> None:
    with (tmp_path / LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError), changing_aliases(tmp_path, timeout_s=0.0):
            pass
        timer = threading.Timer(0.05, lambda: fcntl.flock(handle, fcntl.LOCK_UN))
        timer.start()
        with changing_aliases(tmp_path, timeout_s=30):
            pass
        timer.join()


def test_many_writers_lose_no_change(tmp_path: Path) -> None:
    place(tmp_path)
    key, store = ("halden", "answers"), Store(tmp_path)
    done: list[str] = []

    def write(number: int) -> None:
        version = f"{number:016x}"
        while True:
            found = store.read(key)
            assert found is not None

            def add(aliases: Aliases, version: str = version) -> Aliases:
                return Aliases(stable=aliases.stable, history=(*aliases.history, version))

            try:
                store.change(key, add, expected=found.aliases)
            except FailedPrecondition:
                continue
            done.append(version)
            return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.read(key)
    assert found is not None
    assert sorted(found.aliases.history) == sorted(done) == [f"{number:016x}" for number in range(8)]
