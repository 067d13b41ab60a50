"""Splits: nothing of a group on both sides, no near copy across, the same for the same seed, stable when rows come."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import DataRejected, Options, Prepared, prepare
from training.data.near_duplicates import similarity
from training.data.rows import Style
from training.data.splitting import Unit, deal, keep_in_training

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def spelled(number: int) -> str:
    return " ".join(NUMBERS[int(digit)] for digit in str(number))


def row(number: int, group: str = "", **more: Any) -> dict[str, Any]:
    return {"prompt": f"{spelled(number * 7919)} {spelled(number)}", "text": f"t{number}", "group": group} | more


def run(folder: Path, rows: Sequence[Mapping[str, Any]], *, seed: int = 0, **options: Any) -> Prepared:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare([path], kind="style", seed=seed, options=Options(**options))


def where(prepared: Prepared) -> dict[str, str]:
    return {row.asked(): name for name, rows in prepared.splits.items() for row in rows}


def units(groups: int, split: str = "") -> list[Unit]:
    rows = [Style(id=str(n), group=str(n), prompt="p", text="t", split=split) for n in range(groups)]
    return [Unit((row.group,), (row,)) for row in rows]


shares = st.sampled_from([0, 0.05, 0.1, 0.3, 0.45])


@given(count=st.integers(3, 200), seed=st.integers(), validation=shares, test=shares)
def test_every_unit_is_dealt_once_and_no_wanted_split_is_empty(
    count: int, seed: int, validation: float, test: float
) -> None:
    dealt, _ = deal(units(count), seed=seed, validation_share=validation, test_share=test)
    assert sorted(dealt) == sorted(str(n) for n in range(count))
    wanted = {"train": 1, "validation": validation, "test": test}
    assert set(dealt.values()) == {name for name, share in wanted.items() if share}


@given(count=st.integers(30, 120), more=st.integers(1, 60), seed=st.integers(0, 99))
def test_more_units_move_no_other(count: int, more: int, seed: int) -> None:
    few, filled = deal(units(count), seed=seed, validation_share=0.3, test_share=0.3)
    many, _ = deal(units(count + more), seed=seed, validation_share=0.3, test_share=0.3)
    assert filled or few == {name: many[name] for name in few}


def test_shares_are_met_and_seeds_differ() -> None:
    one, _ = deal(units(5000), seed=1, validation_share=0.1, test_share=0.2)
    other, _ = deal(units(5000), seed=2, validation_share=0.1, test_share=0.2)
    counts = [list(one.values()).count(name) for name in ("train", "validation", "test")]
    assert [round(count / 500) for count in counts] == [7, 1, 2]
    assert one != other


def test_too_few_units_are_refused_with_advice() -> None:
    with pytest.raises(DataRejected, match="2 separate groups cannot fill train, validation, test: give more groups"):
        deal(units(2), seed=0, validation_share=0.1, test_share=0.1)


def test_a_split_that_is_given_gets_no_others() -> None:
    given_units = [*units(50)[10:], *units(10, "test")]
    dealt, _ = deal(given_units, seed=0, validation_share=0.2, test_share=0.2)
    assert {name for name, split in dealt.items() if split == "test"} == {str(n) for n in range(10)}
    assert set(dealt.values()) == {"train", "validation", "test"}


def test_rows_given_to_train_may_fill_a_split_that_was_not_given() -> None:
    dealt, _ = deal([*units(50, "train")[10:], *units(10, "test")], seed=0, validation_share=0.2, test_share=0.2)
    assert set(dealt.values()) == {"train", "validation", "test"}


@given(
    groups=st.lists(st.integers(0, 9), min_size=30, max_size=60).filter(lambda groups: len(set(groups)) > 3),
    seed=st.integers(0, 9),
)
def test_a_group_lies_in_one_split(tmp_path_factory: pytest.TempPathFactory, groups: list[int], seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [row(number, f"g{group}") for number, group in enumerate(groups)]
    prepared = run(folder, rows, seed=seed, near_duplicates="report")
    sets = [{row.group for row in prepared.splits[name]} for name in ("train", "validation", "test")]
    assert all(sets)
    assert sum(map(len, sets)) == len(set(groups))
    assert where(prepared) == where(run(folder, rows, seed=seed, near_duplicates="report"))


copies = st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=20, max_size=40)


@given(numbers=copies, seed=st.integers(0, 9))
def test_no_near_duplicate_lies_in_another_split(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, bool]], seed: int
) -> None:
    rows = [
        row(number, text=f"text {place}") | ({"prompt": row(number)["prompt"] + "!"} if loud else {})
        for place, (number, loud) in enumerate(numbers)
    ]
    try:
        prepared = run(tmp_path_factory.mktemp("any"), rows, seed=seed)
    except DataRejected as error:
        assert "separate groups cannot fill" in str(error)  # noqa: PT017
        return
    train, *held_out = (prepared.splits[name] for name in ("train", "validation", "test"))
    for one in train:
        for other in (row for rows in held_out for row in rows):
            assert similarity(one.asked(), other.asked()) < 0.8


def test_near_duplicates_join_groups_or_are_refused_or_reported(tmp_path: Path) -> None:
    rows = [row(n, f"g{n}") for n in range(60)]
    first = where(run(tmp_path, rows))
    other = next(n for n in range(60) if first[rows[n]["prompt"]] != first[rows[0]["prompt"]])
    rows.append(row(0, f"g{other}", prompt=rows[0]["prompt"] + " !", text="another"))
    joined = run(tmp_path, rows)
    places = where(joined)
    assert len({places[rows[n]["prompt"]] for n in (0, other, 60)}) == 1
    (finding,) = [found for found in joined.report.findings if found.code == "NEAR_DUPLICATES"]
    assert finding.text.startswith("2 groups nearly repeat another")
    with pytest.raises(DataRejected, match=r"x\.jsonl, line 1: NEAR_DUPLICATES: 2 rows"):
        run(tmp_path, rows, near_duplicates="refuse")
    reported = run(tmp_path, rows, near_duplicates="report")
    assert ("x.jsonl:1", "x.jsonl:61") in [found.places for found in reported.report.findings]


def test_near_duplicates_are_named_where_they_leave_too_few_groups(tmp_path: Path) -> None:
    rows = [row(0, f"g{n}", prompt="The same long question about the same thing" + "!" * n) for n in range(9)]
    with pytest.raises(DataRejected, match=r"1 separate groups cannot fill .*; 8 others nearly repeat one of them"):
        run(tmp_path, rows)


def test_a_share_that_is_missed_by_far_is_told(tmp_path: Path) -> None:
    rows = [row(n, "large" if n < 80 else f"g{n}") for n in range(100)]
    seed = next(seed for seed in range(99) if where(run(tmp_path, rows, seed=seed))[rows[0]["prompt"]] == "test")
    told = [found.text for found in run(tmp_path, rows, seed=seed).report.findings]
    assert any(text.startswith("The test split holds 8") and "10% were asked for" in text for text in told)
    even = run(tmp_path, [row(n) for n in range(300)], test_share=0.3, validation_share=0.3)
    assert not [found for found in even.report.findings if "asked for" in found.text]
    half = run(tmp_path, [row(n, split="test" if n % 4 else "") for n in range(400)], validation_share=0.3)
    assert not [found for found in half.report.findings if "asked for" in found.text]


def test_training_rows_that_repeat_a_reserved_one_are_left_out(tmp_path: Path) -> None:
    rows = [row(n) for n in range(40)]
    rows += [row(57, split="test"), row(0, split="test", prompt=rows[0]["prompt"] + "!", text="another")]
    prepared = run(tmp_path, rows)
    assert {row.origin for row in prepared.splits["test"]} == {"x.jsonl:41", "x.jsonl:42"}
    assert "x.jsonl:1" not in {row.origin for row in prepared.splits["train"]}
    assert prepared.report.rows_kept == 41
    (finding,) = [found for found in prepared.report.findings if found.code == "NEAR_DUPLICATES"]
    assert finding.places == ("x.jsonl:1",)


def test_a_group_given_to_two_splits_is_refused(tmp_path: Path) -> None:
    rows = [row(n, f"g{n}") for n in range(20)] + [row(20, "g1", split="test")]
    with pytest.raises(DataRejected, match=r"x\.jsonl, line 2: split: the rows of this group are given to several"):
        run(tmp_path, rows)


def test_within_groups_everything_held_out_was_told_in_training(tmp_path: Path) -> None:
    rows = [row(n, f"g{n % 12}") for n in range(60)]
    prepared = run(tmp_path, rows, split="within_group", test_share=0.4, validation_share=0.4)
    groups = {name: {row.group for row in found} for name, found in prepared.splits.items()}
    assert len(groups["train"]) == 12
    assert groups["test"]
    assert groups["validation"]


def test_within_groups_needs_groups(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="no row is left for validation, test: splitting within groups takes"):
        run(tmp_path, [row(n) for n in range(20)], split="within_group")


def test_a_joined_unit_goes_to_train_as_a_whole() -> None:
    rows = [Style(id=str(n), group="g" if n < 2 else "h", prompt="p", text="t") for n in range(3)]
    together = [Unit(("0", "2"), (rows[0], rows[2])), Unit(("1",), (rows[1],))]
    mended = keep_in_training(together, {"0": "test", "1": "test", "2": "test"}, seed=0)
    assert mended["0"] == mended["2"] == "train"


def test_few_held_out_groups_are_told(tmp_path: Path) -> None:
    prepared = run(tmp_path, [row(n, f"g{n % 4}") for n in range(40)])
    texts = [found.text for found in prepared.report.findings]
    assert any("holds only 1 groups" in text for text in texts)
    assert prepared.report.splits["test"].groups == 1


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0)])
def test_shares_leave_something_to_train_on(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="together below 1"):
        Options(validation_share=shares[0], test_share=shares[1])
    with pytest.raises(ValueError, match="near_duplicate_similarity"):
        Options(near_duplicate_similarity=0.1)
