"""Deals units of rows out to the splits by a hash of seed and name, so that adding rows moves no other."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from training.data.reading import DataRejected, Problem
from training.data.report import Finding
from training.data.rows import Row
from training.examples import SPLITS

_STRICTNESS = {"": 0, "train": 0, "validation": 1, "test": 2}


def held_out(row: Row) -> str:
    """Returns the split that a row's file reserved it for; "" where it may be trained on."""
    return row.split if _STRICTNESS[row.split] else ""


def strictest(rows: Sequence[Row]) -> str:
    """Returns the most strictly held out of the splits that the rows are reserved for; "" where none is."""
    return max((held_out(row) for row in rows), key=lambda split: _STRICTNESS[split])


@dataclass(frozen=True)
class Unit:
    """Is a set of rows that go to one split together."""

    names: tuple[str, ...]
    """The groups in it (or the row's id); more than one where near-duplicates were joined."""
    rows: tuple[Row, ...]

    @property
    def split(self) -> str:
        """Returns the split that the rows are reserved for, or ""."""
        return strictest(self.rows)

    def place(self, seed: int) -> float:
        """Returns where the unit lies on the scale from 0 to 1; of joined names one is drawn that speaks for all."""
        speaker = min(self.names, key=lambda name: _digest("speaker", seed, name))
        return int.from_bytes(_digest("split", seed, speaker)[:8], "big") / 2**64


def _digest(purpose: str, seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{purpose}\0{seed}\0{name}".encode()).digest()


def deal(
    units: Sequence[Unit], *, seed: int, validation_share: float, test_share: float
) -> tuple[dict[str, str], bool]:
    """Returns the split of each row id, and whether the hash left a split empty that was then filled.

    Reserved units keep their split, and that split gets no others. A wanted split that the hash leaves empty gets the
    unit that lies nearest; raises DataRejected where there are not enough units.
    """
    reserved = {unit.split for unit in units}
    num_test_wanted = bool(test_share) and "test" not in reserved
    num_validation_wanted = bool(validation_share) and "validation" not in reserved
    free = sorted((unit for unit in units if not unit.split), key=lambda unit: (unit.place(seed), unit.names))
    if len(free) < 1 + num_test_wanted + num_validation_wanted:
        wanted = ["train"] + ["validation"] * num_validation_wanted + ["test"] * num_test_wanted
        reason = f"{len(free)} separate groups cannot fill {', '.join(wanted)}: give more groups or set a share to 0"
        if joined := sum(len(unit.names) - 1 for unit in free):
            reason += f"; {joined:,} others nearly repeat one of them, and near-duplicates go to one split"
        raise DataRejected([Problem("data", 0, reason)])
    test_end = test_share * num_test_wanted
    validation_end = test_end + validation_share * num_validation_wanted
    places = [unit.place(seed) for unit in free]
    hashed = (sum(p < test_end for p in places), sum(p < validation_end for p in places))
    num_held_out = min(max(hashed[1], num_test_wanted + num_validation_wanted), len(free) - 1)
    num_test = min(max(hashed[0], int(num_test_wanted)), num_held_out - num_validation_wanted)
    names = ["test"] * num_test + ["validation"] * (num_held_out - num_test)
    names += ["train"] * (len(free) - len(names))
    dealt = {row.id: name for unit, name in zip(free, names, strict=True) for row in unit.rows}
    dealt |= {row.id: unit.split for unit in units if unit.split for row in unit.rows}
    return dealt, (num_test, num_held_out) != hashed


def keep_in_training(
    units: Sequence[Unit], dealt: Mapping[str, str], *, seed: int, name: Callable[[Row], str] = lambda row: row.group
) -> dict[str, str]:
    """Returns the splits with at least one row of each group in train: what nobody was told, nobody can be asked.

    Of a group without, the unit goes whose place is nearest to train; reserved units stay where they are. `name` says
    what of a row is to be kept, where it is not its group.
    """
    groups: dict[str, dict[int, Unit]] = defaultdict(dict)
    for number, unit in enumerate(units):
        for row in unit.rows:
            groups[name(row)][number] = unit
    mended = dict(dealt)
    for members in groups.values():
        free = [unit for unit in members.values() if not unit.split]
        if free and not any(mended[row.id] == "train" for unit in free for row in unit.rows):
            nearest = max(free, key=lambda unit: (unit.place(seed), unit.names))
            mended |= {row.id: "train" for row in nearest.rows}
    return mended


def missed_shares(rows: Sequence[Row], dealt: Mapping[str, str], shares: Mapping[str, float]) -> list[Finding]:
    """Returns a finding for each split that holds less than half or more than twice of the rows that it was to hold.

    Shares are of the rows that no split is reserved for; a reserved split is as large as the files say.
    """
    found = []
    free = [row for row in rows if not held_out(row)]
    reserved = {held_out(row) for row in rows}
    for name, share in shares.items():
        held = sum(dealt[row.id] == name for row in free) / max(1, len(free))
        if share and name not in reserved and not share / 2 <= held <= share * 2:
            text = f"The {name} split holds {held:.0%} of the rows, where {share:.0%} were asked for: "
            text += "groups go to one split as a whole, and so do near-duplicates."
            found.append(Finding("SPLITS", text))
    return found


def counts_by_split(rows: Sequence[Row], dealt: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Returns the number of rows and of groups by split."""
    found: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        found[dealt[row.id]].append(row)
    return {name: (len(some), len({row.group for row in some})) for name, some in found.items()}
