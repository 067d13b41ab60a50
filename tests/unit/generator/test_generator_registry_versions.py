"""The registry: who sees what, and how long the weights of each version stay in memory."""

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.domain import Pin
from tandem.errors import ConfigError, FailedPrecondition, NotFound, Overloaded, PermissionDenied, TooLarge
from tests.fakes.generator_adapters import place
from tests.fakes.generator_registry import opened, refused


async def test_a_tenant_sees_its_own_adapters_and_the_shared_ones(tmp_path: Path) -> None:
    for tenant, name in (("halden", "answers"), ("_shared", "style"), ("_shared", "answers"), ("b", "x")):
        place(tmp_path, tenant=tenant, name=name)
    async with opened(tmp_path) as bench:
        shown = {
            tenant: [(a.adapter.tenant, a.adapter.name) for a in bench.registry.visible(tenant)]
            for tenant in ("halden", "c", "_shared")
        }
        shared = [("_shared", "answers"), ("_shared", "style")]
        assert shown == {"halden": [("halden", "answers"), ("_shared", "style")], "c": shared, "_shared": shared}
        assert bench.registry.find("answers", tenant="halden").tenant == "halden"
        assert bench.registry.find("answers", tenant="b").tenant == "_shared"
        assert bench.metric("loaded_adapters") == 4


@pytest.mark.parametrize("name", ["x", "../b/x", "b/x", "", "nothing", "..", ".", "\x00", "x" * 1000])
async def test_another_tenants_adapter_is_not_found_like_one_that_does_not_exist(tmp_path: Path, name: str) -> None:
    place(tmp_path, tenant="b", name="x")
    async with opened(tmp_path) as bench:
        registry = bench.registry
        errors = [
            await refused(lambda: registry.find(name, tenant="halden"), NotFound),
            await refused(lambda: registry.pin(name, tenant="halden"), NotFound),
            await refused(lambda: registry.unload(name, tenant="halden"), NotFound),
        ]
        assert {error.message for error in errors} == {"no such adapter is loaded"}
        await refused(lambda: registry.load(name, tenant="halden"), NotFound)
        assert len(registry) == 1


@pytest.mark.parametrize("tenant", ["..", ".", "../halden", "", "a/b", "\x00"])
async def test_a_tenant_whose_name_is_a_path_has_no_adapters(tmp_path: Path, tenant: str) -> None:
    place(tmp_path / "root", tenant="halden")
    place(tmp_path, tenant="halden")
    async with opened(tmp_path / "root") as bench:
        await refused(lambda: bench.registry.load("answers", tenant=tenant), NotFound)


async def test_a_link_to_another_tenants_adapter_is_not_there(tmp_path: Path) -> None:
    secret = place(tmp_path, tenant="brightwater", name="secret")
    (tmp_path / "halden").mkdir()
    async with opened(tmp_path) as bench:
        (tmp_path / "halden" / "mine").symlink_to(secret)
        await refused(lambda: bench.registry.load("mine", tenant="halden"), NotFound)


async def test_shared_adapters_are_loaded_at_the_start_only(tmp_path: Path) -> None:
    place(tmp_path, tenant="_shared", name="style")
    async with opened(tmp_path) as bench:
        await refused(lambda: bench.registry.load("style", tenant="_shared"), PermissionDenied)
        await refused(lambda: bench.registry.load("style", tenant="halden"), NotFound)
        for tenant in ("_shared", "halden"):
            await refused(lambda tenant=tenant: bench.registry.unload("style", tenant=tenant), NotFound)


async def test_without_a_folder_there_is_nothing_to_load() -> None:
    async with opened(None) as bench:
        await refused(lambda: bench.registry.load("answers", tenant="halden"), NotFound)


async def test_a_newer_version_takes_over_and_the_older_one_leaves(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path) as bench:
        old = bench.registry.find("answers", tenant="halden")
        place(tmp_path, fill=2)
        loaded = await bench.registry.load("answers", tenant="halden")
        assert loaded.before == old
        assert bench.registry.find("answers", tenant="halden") == loaded.adapter
        assert await bench.settled() == [loaded.adapter.key]
        assert bench.metric("adapter_loads_total", outcome="loaded") == 1
        assert bench.metric("adapter_unloads_total") == 1


async def test_a_pinned_version_stays_until_its_last_pin_is_released(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path) as bench:
        pins = [bench.registry.pin("answers", tenant="halden") for _ in range(2)]
        old = pins[0].adapter
        place(tmp_path, fill=2)
        new = (await bench.registry.load("answers", tenant="halden")).adapter
        assert bench.registry.pin("answers", tenant="halden").adapter == new
        assert (bench.registry.num_pins(old), bench.registry.num_pins(new)) == (2, 1)
        assert bench.metric("retired_adapters") == 1
        for pin in pins:
            assert old.key in await bench.settled()
            pin.release()
            pin.release()
        assert await bench.settled() == [new.key]
        assert bench.metric("retired_adapters") == 0


async def test_an_unloaded_adapter_is_gone_for_new_calls_and_stays_for_those_that_run(tmp_path: Path) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        pin = bench.registry.pin("answers", tenant="halden")
        bench.registry.unload("answers", tenant="halden")
        await refused(lambda: bench.registry.pin("answers", tenant="halden"), NotFound)
        assert await bench.settled() == [pin.adapter.key]
        pin.release()
        assert await bench.settled() == []
        assert (bench.metric("loaded_adapters"), bench.metric("retired_adapters")) == (0, 0)


async def test_loading_the_same_weights_again_changes_nothing_and_says_so(tmp_path: Path) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        again = await bench.registry.load("answers", tenant="halden")
        assert again.before == again.adapter
        assert [kind for kind, _ in bench.memory.calls] == ["load"]
        assert bench.metric("adapter_loads_total", outcome="unchanged") == 1


async def test_a_version_that_comes_back_while_it_is_still_held_is_not_read_again(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path) as bench:
        pin = bench.registry.pin("answers", tenant="halden")
        place(tmp_path, fill=2)
        await bench.registry.load("answers", tenant="halden")
        place(tmp_path, fill=1)
        back = await bench.registry.load("answers", tenant="halden")
        assert back.adapter == pin.adapter
        assert await bench.settled() == [pin.adapter.key]
        pin.release()
        assert await bench.settled() == [pin.adapter.key]
        assert [kind for kind, _ in bench.memory.calls] == ["load", "load", "unload"]


async def test_a_version_that_comes_back_right_after_it_was_dropped_is_read_again(tmp_path: Path) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        key = bench.registry.unload("answers", tenant="halden").key
        assert (await bench.registry.load("answers", tenant="halden")).adapter.key == key
        assert await bench.settled() == [key]
        assert [kind for kind, _ in bench.memory.calls] == ["load", "unload", "load"]


async def test_versions_that_only_wait_for_their_end_count_against_the_room(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path, room=2) as bench:
        pins = [bench.registry.pin("answers", tenant="halden")]
        place(tmp_path, fill=2)
        await bench.registry.load("answers", tenant="halden")
        pins.append(bench.registry.pin("answers", tenant="halden"))
        place(tmp_path, fill=3)
        error = await refused(lambda: bench.registry.load("answers", tenant="halden"), Overloaded)
        assert error.reason == "TOO_MANY_ADAPTERS"
        assert bench.registry.find("answers", tenant="halden") == pins[1].adapter
        pins[0].release()
        await bench.registry.load("answers", tenant="halden")
        assert pins[1].adapter.key in await bench.settled()
        assert len(bench.memory.held) == 2


async def test_where_waiting_does_not_help_no_delay_is_named(tmp_path: Path) -> None:
    place(tmp_path)
    async with opened(tmp_path, room=1) as bench:
        place(tmp_path, name="other")
        await refused(lambda: bench.registry.load("other", tenant="halden"), TooLarge)
        place(tmp_path, fill=9)  # in place of one that nobody holds there is always room
        await bench.registry.load("answers", tenant="halden")
        assert len(await bench.settled()) == 1


@pytest.mark.parametrize("fault", [ValueError("not finite"), OSError("gone")])
async def test_weights_that_cannot_be_loaded_leave_everything_as_it_was(tmp_path: Path, fault: Exception) -> None:
    place(tmp_path, fill=1)
    async with opened(tmp_path) as bench:
        old = bench.registry.find("answers", tenant="halden")
        place(tmp_path, fill=2)
        bench.memory.fail = fault
        error = await refused(lambda: bench.registry.load("answers", tenant="halden"), FailedPrecondition)
        assert error.reason == "ADAPTER_REFUSED"
        assert bench.registry.find("answers", tenant="halden") == old
        assert await bench.settled() == [old.key]
        place(tmp_path, data=b"\x00")
        await refused(lambda: bench.registry.load("answers", tenant="halden"), FailedPrecondition)
        assert bench.metric("adapter_loads_total", outcome="refused") == 2


async def test_at_the_start_what_cannot_be_loaded_is_left_out(tmp_path: Path) -> None:
    place(tmp_path, name="a")
    place(tmp_path, name="b", data=b"\x00")
    place(tmp_path, name="c", base_sha256="00" * 32)
    async with opened(tmp_path) as bench:
        assert [shown.adapter.name for shown in bench.registry.visible("halden")] == ["a"]
        assert bench.metric("adapters_refused_total") == 2


async def test_more_versions_than_there_may_be_stop_the_start(tmp_path: Path) -> None:
    for name in "abc":
        place(tmp_path, name=name)
    with pytest.raises(ConfigError, match="GENERATOR_MAX_ADAPTERS=2"):
        async with opened(tmp_path, room=2):
            pass


async def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        async with opened(tmp_path / "nothing"):
            pass


async def test_a_load_goes_on_when_its_caller_leaves_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    gate = threading.Semaphore(1)
    place(tmp_path, fill=1)
    async with opened(tmp_path, gate=gate) as bench:
        old = bench.registry.find("answers", tenant="halden")
        bench.memory.entered.clear()
        place(tmp_path, fill=2)
        leaving = asyncio.create_task(bench.registry.load("answers", tenant="halden"))
        await asyncio.to_thread(bench.memory.entered.wait, 30)
        place(tmp_path, name="other")
        second = asyncio.create_task(bench.registry.load("other", tenant="halden"))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert bench.registry.find("answers", tenant="halden") == old
        gate.release(2)
        await second
        assert bench.registry.find("answers", tenant="halden") != old
        assert len(bench.registry) == 2


async def test_calls_are_served_while_a_load_is_in_progress(tmp_path: Path) -> None:
    gate = threading.Semaphore(1)
    place(tmp_path, fill=1)
    async with opened(tmp_path, gate=gate) as bench:
        bench.memory.entered.clear()
        place(tmp_path, fill=2)
        loading = asyncio.create_task(bench.registry.load("answers", tenant="halden"))
        await asyncio.to_thread(bench.memory.entered.wait, 30)
        pin = bench.registry.pin("answers", tenant="halden")
        gate.release()
        assert (await loading).before == pin.adapter
        assert pin.adapter.key in await bench.settled()
        pin.release()
        assert pin.adapter.key not in await bench.settled()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["pin", "release", "unload"]), st.integers(0, 9)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_what_is_pinned_is_in_memory_and_what_nobody_holds_is_not(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(tmp_path_factory.mktemp("adapters"), operations))


async def _play(folder: Path, operations: list[tuple[str, int]]) -> None:
    pins: list[Pin] = []
    async with opened(folder, room=3) as bench:
        registry = bench.registry
        for kind, number in operations:
            try:
                if kind == "load":
                    place(folder, fill=number)
                    await registry.load("answers", tenant="halden")
                elif kind == "pin":
                    pins.append(registry.pin("answers", tenant="halden"))
                elif kind == "unload":
                    registry.unload("answers", tenant="halden")
                elif pins:
                    pins.pop(number % len(pins)).release()
            except (NotFound, Overloaded, TooLarge):
                pass
            wanted = {pin.adapter.key for pin in pins} | {shown.adapter.key for shown in registry.visible("halden")}
            assert set(await bench.settled()) == wanted
            assert len(wanted) <= 4
        for pin in pins:
            pin.release()
        assert set(await bench.settled()) == {shown.adapter.key for shown in registry.visible("halden")}
