"""The registry: which version a call gets, and how promoting, rolling back and a canary change that."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.registry import VersionState, aliasing
from tandem.adapters import Aliases
from tandem.errors import (
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    PermissionDenied,
    TandemError,
    TooLarge,
)
from tests.fakes.generator_adapters import place
from tests.fakes.generator_registry import Bench, opened, refused

A, B, C = "a" * 16, "b" * 16, "c" * 16


async def test_each_way_of_naming_gets_its_version(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        old, new, other = bench.versions(1, 2, 3)
        bench.alias(old, new, 0.25)
        await bench.registry.load("answers", tenant="halden")
        for lot, wanted in ((0.0, new), (0.2499, new), (0.25, old), (0.999, old)):
            bench.lot = lot
            assert bench.got() == wanted
            assert (bench.got("answers@stable"), bench.got("answers@candidate")) == (old, new)
            assert (bench.got(f"answers@{old}"), bench.got(f"answers@{new}")) == (old, new)
        await refused(lambda: bench.got(f"answers@{other}"), NotFound)
        ways = {way: bench.metric("adapter_calls_total", version=way) for way in ("stable", "candidate", "version")}
        assert ways == {"stable": 2 + 4, "candidate": 2 + 4, "version": 8}


@pytest.mark.parametrize("name", ["answers@", "@stable", "answers@Stable", "answers@abc", "answers@@", f"answers@{A}x"])
async def test_what_names_no_version_is_not_found(tmp_path: Path, name: str) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        await refused(lambda: bench.got(name), NotFound)
        await refused(lambda: bench.registry.load(name, tenant="halden"), NotFound)


async def test_a_share_of_nothing_and_of_everything(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        old, new = bench.versions(1, 2)
        bench.alias(old, new)
        await bench.registry.load("answers", tenant="halden")
        for share, wanted in ((0.0, old), (1.0, new)):
            await bench.registry.set_canary("answers", share, tenant="halden")
            for lot in (0.0, 0.5, 0.999999):
                bench.lot = lot
                assert bench.got() == wanted


async def test_a_tenants_own_adapter_hides_all_of_a_shared_one(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    shared = place(tmp_path, tenant="_shared", fill=2).name
    async with opened(tmp_path) as bench:
        assert bench.got(f"answers@{shared}", tenant="other") == shared
        await refused(lambda: bench.got(f"answers@{shared}"), NotFound)


async def test_promoting_makes_the_candidate_stable_here_and_in_the_folder(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        old, new = bench.versions(1, 2)
        bench.alias(old, new, 0.5)
        await bench.registry.load("answers", tenant="halden")
        running = bench.registry.pin("answers@stable", tenant="halden")
        made = await bench.registry.promote("answers", tenant="halden")
        assert (made.adapter.version, made.previous) == (new, old)
        assert bench.on_disk() == Aliases(stable=new, history=(old,))
        assert bench.got() == new
        await refused(lambda: bench.got("answers@candidate"), NotFound)
        assert running.adapter.key in await bench.settled()
        states = {version.version: version.state for version in bench.shown().versions}
        assert states == {new: VersionState.LOADED, old: VersionState.RETIRED}
        running.release()
        assert await bench.settled() == [made.adapter.key]
        assert bench.metric("adapter_changes_total", kind="promoted") == 1


async def test_rolling_back_returns_to_what_was_stable_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        first, second, third = bench.versions(1, 2, 3)
        bench.alias(second, third, 0.5, first)
        made = await bench.registry.roll_back("answers", tenant="halden")
        assert (made.adapter.version, made.previous) == (first, "")
        assert bench.on_disk() == Aliases(stable=first, candidate=third, canary_share=0.5)
        error = await refused(lambda: bench.registry.roll_back("answers", tenant="halden"), FailedPrecondition)
        assert error.reason == "NO_EARLIER_VERSION"
        assert bench.got("answers@stable") == first


async def test_any_version_may_be_promoted_or_become_the_candidate(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        first, second, third = bench.versions(1, 2, 3)
        bench.alias(first)
        await bench.registry.promote("answers", tenant="halden", version=third)
        shown = (await bench.registry.set_canary("answers", 0.1, tenant="halden", version=second)).shown
        told = (shown.adapter.version, shown.candidate, shown.canary_share, shown.previous)
        assert told == (third, second, 0.1, first)
        assert bench.on_disk() == Aliases(stable=third, candidate=second, canary_share=0.1, history=(first,))
        assert [(version.version, version.aliases) for version in shown.versions] == [
            (third, ("stable",)),
            (second, ("candidate",)),
            (first, ()),
        ]


async def test_a_version_named_by_its_hash_is_loaded_beside_the_aliases_and_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        first, second = bench.versions(1, 2)
        bench.alias(first)
        await bench.registry.load(f"answers@{second}", tenant="halden")
        assert (bench.got(), bench.got(f"answers@{second}")) == (first, second)
        await bench.registry.load("answers", tenant="halden")
        assert bench.got(f"answers@{second}") == second
        error = await refused(lambda: bench.registry.unload(f"answers@{first}", tenant="halden"), FailedPrecondition)
        assert error.reason == "ADAPTER_IN_USE"
        bench.registry.unload(f"answers@{second}", tenant="halden")
        await refused(lambda: bench.got(f"answers@{second}"), NotFound)
        await refused(lambda: bench.registry.unload(f"answers@{second}", tenant="halden"), NotFound)
        assert len(await bench.settled()) == 1
        assert bench.shown().versions[1].state is VersionState.STORED


async def test_a_version_that_was_rejected_is_never_loaded(tmp_path: Path) -> None:
    place(tmp_path, fill=1)
    bad = place(tmp_path, fill=2, rejected=True).name
    async with opened(tmp_path) as bench:
        registry = bench.registry
        for call in (
            lambda: registry.load(f"answers@{bad}", tenant="halden"),
            lambda: registry.promote("answers", tenant="halden", version=bad),
            lambda: registry.set_canary("answers", 1, tenant="halden", version=bad),
        ):
            assert "rejected" in (await refused(call, NotFound)).message
        bench.alias(bad)
        await refused(lambda: registry.load("answers", tenant="halden"), FailedPrecondition)


Call = Callable[[Bench], Awaitable[Any]]
CHANGES: dict[str, Call] = {
    "promote": lambda bench: bench.registry.promote("answers", tenant="halden"),
    "canary": lambda bench: bench.registry.set_canary("answers", 0.5, tenant="halden"),
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_candidate_that_fails_a_check_changes_nothing(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path) as bench:
        old, bad = bench.versions(1, 2)
        bench.alias(old, bad, 0.25)
        before = bench.on_disk()
        manifest = tmp_path / "halden" / "answers" / "versions" / bad / "manifest.json"
        manifest.write_bytes(manifest.read_bytes().replace(b"closed-book", b"closed-bock"))
        await bench.registry.load("answers", tenant="halden")
        bench.lot = 0.0
        assert bench.got() == old
        assert bench.shown().versions[1].refusal.startswith("SIGNATURE_INVALID: ")
        error = await refused(lambda: CHANGES[kind](bench), FailedPrecondition)
        assert (error.reason, error.metadata["refusal"]) == ("ADAPTER_REFUSED", "SIGNATURE_INVALID")
        assert bench.on_disk() == before
        assert (bench.got(), len(await bench.settled())) == (old, 1)


@pytest.mark.parametrize("kind", CHANGES)
async def test_without_a_candidate_there_is_nothing_to_change(tmp_path: Path, kind: str) -> None:
    place(tmp_path)
    async with opened(tmp_path) as bench:
        assert (await refused(lambda: CHANGES[kind](bench), FailedPrecondition)).reason == "NO_CANDIDATE"


async def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        old, new = bench.versions(1, 2)
        bench.alias(old, new)
        await bench.registry.load("answers", tenant="halden")
        (tmp_path / "halden" / "answers" / ".aliases.lock").mkdir()  # nor may root write to it
        error = await refused(lambda: CHANGES["promote"](bench), FailedPrecondition)
        assert error.reason == "ADAPTER_FOLDER_READ_ONLY"
        assert (bench.got("answers@stable"), bench.got("answers@candidate")) == (old, new)


async def test_somebody_elses_change_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    gate = threading.Semaphore(0)
    async with opened(tmp_path, gate=gate) as bench:
        old, new, other = bench.versions(1, 2, 3)
        bench.alias(old, new)
        bench.memory.entered.clear()
        promoting = asyncio.create_task(bench.registry.promote("answers", tenant="halden"))
        await asyncio.to_thread(bench.memory.entered.wait, 30)
        bench.alias(old, other)
        gate.release()
        with pytest.raises(FailedPrecondition) as caught:
            await promoting
        assert caught.value.reason == "ADAPTER_CHANGED"
        assert bench.on_disk() == Aliases(stable=old, candidate=other)
        assert await bench.settled() == []


async def test_other_tenants_and_the_shared_adapters_are_not_changed(tmp_path: Path) -> None:
    place(tmp_path, tenant="_shared", name="style")
    place(tmp_path)
    async with opened(tmp_path) as bench:
        registry = bench.registry
        for tenant, kind in (("brightwater", NotFound), ("_shared", PermissionDenied)):
            await refused(lambda tenant=tenant: registry.promote("answers", tenant=tenant), kind)
            await refused(lambda tenant=tenant: registry.roll_back("answers", tenant=tenant), kind)
            await refused(lambda tenant=tenant: registry.set_canary("answers", 0, tenant=tenant), kind)
        await refused(lambda: registry.promote("style", tenant="halden"), NotFound)
        for fault in (
            lambda: registry.promote("answers@stable", tenant="halden"),
            lambda: registry.promote("answers", tenant="halden", version="latest"),
            lambda: registry.load("answers@stable", tenant="halden"),
        ):
            await refused(fault, InvalidInput)


async def test_the_old_and_the_new_versions_need_room_together(tmp_path: Path) -> None:
    async with opened(tmp_path, room=2) as bench:
        first, second, third = bench.versions(1, 2, 3)
        bench.alias(first, second)
        await bench.registry.load("answers", tenant="halden")
        await refused(lambda: bench.registry.load(f"answers@{third}", tenant="halden"), TooLarge)
        pin = bench.registry.pin("answers", tenant="halden")
        await bench.registry.promote("answers", tenant="halden")
        change = bench.registry.set_canary
        await refused(lambda: change("answers", 0.5, tenant="halden", version=third), Overloaded)
        assert bench.on_disk().candidate is None
        pin.release()
        await change("answers", 0.5, tenant="halden", version=third)
        assert len(await bench.settled()) == 2


def test_the_rules_of_the_aliases() -> None:
    start = Aliases(stable=A, candidate=B, canary_share=0.5)
    assert aliasing.promote(start) == Aliases(stable=B, history=(A,))
    assert aliasing.promote(start, C) == Aliases(stable=C, candidate=B, canary_share=0.5, history=(A,))
    assert aliasing.promote(start, A) == start
    assert aliasing.promote(Aliases(stable=A, candidate=A), "") == Aliases(stable=A)
    assert aliasing.roll_back(Aliases(stable=B, candidate=A, canary_share=1, history=(A,))) == Aliases(stable=A)
    with pytest.raises(FailedPrecondition):
        aliasing.canary(start, 0.5, A)
    long = Aliases(stable=A, history=(B,) * 32)
    assert len(aliasing.promote(long, C).history) == 32


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["promote", "roll_back", "canary", "load", "unload", "refresh", "pin", "release", "alias"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_calls_get_what_the_folder_says_and_nothing_is_left_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(tmp_path_factory.mktemp("aliases"), steps))


async def _play(folder: Path, steps: list[tuple[str, int]]) -> None:
    pins = []
    async with opened(folder, room=6) as bench:
        versions = bench.versions(0, 1, 2, 3)
        bench.alias(versions[0])
        registry = bench.registry
        for kind, number in steps:
            version = versions[number]
            try:
                match kind:
                    case "promote":
                        await registry.promote("answers", tenant="halden", version=version if number else "")
                    case "roll_back":
                        await registry.roll_back("answers", tenant="halden")
                    case "canary":
                        await registry.set_canary("answers", number / 3, tenant="halden", version=version)
                    case "load":
                        await registry.load(f"answers@{version}" if number else "answers", tenant="halden")
                    case "unload":
                        registry.unload(f"answers@{version}" if number else "answers", tenant="halden")
                    case "alias":
                        bench.alias(version, versions[(number + 1) % 4], 0.5)
                    case "refresh":
                        await registry.refresh()
                    case "pin":
                        pins.append(registry.pin("answers", tenant="halden", lot=number / 4))
                    case _ if pins:
                        pins.pop(number % len(pins)).release()
            except TandemError:
                continue
            if kind in ("promote", "roll_back", "canary", "load"):
                assert bench.got("answers@stable") == bench.on_disk().stable
        wanted = {pin.adapter.key for pin in pins}
        for shown in registry.visible("halden"):
            loaded = [row.version for row in shown.versions if row.state is VersionState.LOADED]
            wanted |= {registry.find(f"answers@{version}", tenant="halden").key for version in loaded}
        assert set(await bench.settled()) == wanted
        for pin in pins:
            pin.release()
        if len(registry):
            registry.unload("answers", tenant="halden")
        assert await bench.settled() == []
