"""The registry follows the folder and the keys: faults are tried again, what is gone or distrusted leaves."""

import logging
import shutil
from pathlib import Path

import pytest

from services.generator.registry import KeyFiles, VersionState
from tandem.adapters import WEIGHTS, Keyring, Signer, Trust
from tandem.errors import FailedPrecondition, NotFound
from tests.fakes.adapter_versions import CIPHER, SIGNER, TRUST
from tests.fakes.generator_adapters import place
from tests.fakes.generator_registry import opened, refused

ANN = Signer.generate()
BOTH = TRUST.with_signer(ANN, owner="Ann")


class Files(KeyFiles):
    """Are keys in files, with the number of times that they were read for a check."""

    def __init__(self, folder: Path, trust: Trust) -> None:
        self.path, self.num_reads = folder / "trust.json", 0
        super().__init__(trust=[self.path])
        trust.write(self.path)

    def __call__(self) -> tuple[Trust, Keyring]:
        self.num_reads += 1
        return super().__call__()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "adapters"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("tenant", ["halden", "_shared"])
async def test_a_version_whose_files_come_after_its_alias_serves_once_they_are_there(root: Path, tenant: str) -> None:
    version = place(root, tenant=tenant)
    (version / WEIGHTS).rename(root / "later")
    async with opened(root) as bench:
        await bench.registry.refresh()
        await refused(lambda: bench.got(tenant="halden"), NotFound)
        (root / "later").rename(version / WEIGHTS)
        for _ in range(2):
            await bench.registry.refresh()
        assert bench.got(tenant="halden") == version.name


async def test_a_candidate_that_was_left_out_serves_once_it_is_mended(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(root) as bench:
        old, new = bench.versions(1, 2)
        weights = root / "halden" / "answers" / "versions" / new / WEIGHTS
        weights.rename(root / "later")
        bench.alias(old, new, 1.0)
        with caplog.at_level(logging.INFO):
            for _ in range(8):
                await bench.registry.refresh()
            assert bench.got() == old
            assert len([record for record in caplog.records if "version refused" in record.message]) == 1
            (root / "later").rename(weights)
            for _ in range(8):
                await bench.registry.refresh()
        assert bench.got() == new
        assert len([record for record in caplog.records if record.message == "adapter serves"]) == 2


async def test_a_fault_that_lasts_is_looked_at_less_and_less_often(tmp_path: Path, root: Path) -> None:
    keys = Files(tmp_path, TRUST)
    place(root, signer=ANN)
    async with opened(root, trusted=keys) as bench:
        for _ in range(64):
            await bench.registry.refresh()
        assert 5 <= keys.num_reads <= 16
        assert bench.metric("adapters_refused_total") == 1
        BOTH.write(keys.path)
        await bench.registry.refresh()  # another trust is looked into at once
        assert len(bench.got()) == 16


async def test_a_trust_file_that_is_half_written_settles_nothing(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Files(tmp_path, TRUST)
    serving = place(root).name
    async with opened(root, trusted=keys) as bench:
        keys.path.write_text("{")
        (newer,) = bench.versions(2)
        bench.alias(newer)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await bench.registry.refresh()
        assert bench.got() == serving
        assert len([record for record in caplog.records if "keys of adapters cannot be read" in record.message]) == 1
        row = bench.shown().versions[-1]
        assert row.refusal.startswith("KEY_UNKNOWN: ")
        assert str(tmp_path) not in row.refusal
        TRUST.write(keys.path)
        await bench.registry.refresh()
        assert bench.got() == newer


@pytest.mark.parametrize("tenant", ["halden", "_shared"])
async def test_what_two_looks_have_not_found_leaves_and_running_sequences_end_on_it(root: Path, tenant: str) -> None:
    place(root, tenant=tenant)
    async with opened(root) as bench:
        pin = bench.registry.pin("answers", tenant="halden")
        shutil.rmtree(root / tenant)
        await bench.registry.refresh()
        assert bench.got(tenant="halden") == pin.adapter.version
        await bench.registry.refresh()
        await refused(lambda: bench.got(tenant="halden"), NotFound)
        assert await bench.settled() == [pin.adapter.key]
        pin.release()
        assert await bench.settled() == []


async def test_what_is_back_at_the_next_look_stays(root: Path) -> None:
    aliases = place(root).parents[1] / "aliases.json"
    async with opened(root) as bench:
        for _ in range(3):
            aliases.rename(root / "away")
            await bench.registry.refresh()
            (root / "away").rename(aliases)
            await bench.registry.refresh()
        assert len(bench.got()) == 16


async def test_what_a_distrusted_key_has_signed_leaves_and_comes_back_with_the_trust(
    tmp_path: Path, root: Path
) -> None:
    keys = Files(tmp_path, BOTH)
    place(root, name="theirs", signer=ANN)
    place(root, name="ours")
    async with opened(root, trusted=keys) as bench:
        pin = bench.registry.pin("theirs", tenant="halden")
        TRUST.write(keys.path)
        await bench.registry.refresh()
        await refused(lambda: bench.got("theirs"), NotFound)
        assert len(bench.got("ours")) == 16
        assert pin.adapter.key in await bench.settled()
        pin.release()
        assert len(await bench.settled()) == 1
        BOTH.with_signer(ANN, owner="Ann", tenants=("brightwater",)).write(keys.path)
        await bench.registry.refresh()
        await refused(lambda: bench.got("theirs"), NotFound)
        BOTH.write(keys.path)
        await bench.registry.refresh()
        assert bench.got("theirs") == pin.adapter.version


async def test_a_distrusted_candidate_or_other_version_leaves_alone(tmp_path: Path, root: Path) -> None:
    keys = Files(tmp_path, BOTH)
    async with opened(root, trusted=keys) as bench:
        old, ours = bench.versions(1, 2)
        theirs, other = (place(root, fill=fill, stable=False, signer=ANN).name for fill in (3, 4))
        bench.alias(old, theirs, 1.0)
        for version in (other, ours):
            await bench.registry.load(f"answers@{version}", tenant="halden")
        assert bench.got() == theirs
        TRUST.write(keys.path)
        await bench.registry.refresh()
        assert bench.got() == old
        assert bench.got(f"answers@{ours}") == ours
        for name in ("answers@candidate", f"answers@{theirs}", f"answers@{other}"):
            await refused(lambda name=name: bench.got(name), NotFound)
        rows = {row.version: row for row in bench.shown().versions}
        assert (rows[theirs].state, rows[theirs].refusal[:11]) == (VersionState.STORED, "KEY_UNKNOWN")
        assert len(await bench.settled()) == 2


@pytest.mark.parametrize("share", [0.0, 0.25])
async def test_a_trial_can_be_ended_whoever_is_distrusted(tmp_path: Path, root: Path, share: float) -> None:
    keys = Files(tmp_path, BOTH)
    async with opened(root, trusted=keys) as bench:
        old, new = (place(root, fill=fill, stable=False, signer=ANN).name for fill in (1, 2))
        bench.alias(old, new, 0.5)
        await bench.registry.load("answers", tenant="halden")
        Trust.of(SIGNER).write(keys.path)
        made = await bench.registry.set_canary("answers", share, tenant="halden")
        assert (bench.on_disk().canary_share, made.shown.canary_share) == (share, share)
        bench.lot = 0.3
        assert bench.got() == old
        error = await refused(lambda: bench.registry.set_canary("answers", 0.9, tenant="halden"), FailedPrecondition)
        assert (error.reason, error.metadata["refusal"]) == ("ADAPTER_REFUSED", "KEY_UNKNOWN")


async def test_what_is_in_memory_under_the_same_manifest_is_not_read_again(root: Path) -> None:
    async with opened(root) as bench:
        old = place(root, fill=1, stable=False, cipher=CIPHER)
        new = place(root, fill=2, stable=False, cipher=CIPHER)
        bench.alias(old.name, new.name, 0.5)
        await bench.registry.load("answers", tenant="halden")
        for folder in (old, new):
            (folder / WEIGHTS).unlink()
        made = await bench.registry.promote("answers", tenant="halden")
        assert (made.adapter.version, made.previous) == (new.name, old.name)
        bench.registry.unload("answers", tenant="halden")
        await bench.settled()
        error = await refused(lambda: bench.registry.load("answers", tenant="halden"), FailedPrecondition)
        assert error.metadata["refusal"] == "TRUNCATED"
