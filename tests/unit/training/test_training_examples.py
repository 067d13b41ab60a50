"""A dataset folder: whole or absent, the same bytes for the same content, and any change is noticed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.prompts import Message
from training.examples import Dataset, DatasetInvalid, Example, read_dataset, write_dataset


def example(name: str, **changes: Any) -> Example:
    fields = {
        "id": name,
        "group": "g",
        "messages": (Message("system", "Answer."), Message("user", f"What is {name}?")),
        "answer": "42",
        "golds": ("42", "forty-two"),
        "kind": "answerable",
    }
    return Example(**(fields | changes))


def write(folder: Path, **options: Any) -> Dataset:
    splits = {"train": [example("a"), example("b")], "validation": [example("c")], "test": [example("d")]}
    arguments = {"recipe": "closed-book", "seed": 3, "inputs": {"faq.csv": "0" * 64}} | options
    return write_dataset(folder, arguments.pop("splits", splits), **arguments)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = write(tmp_path / "data", config={"share": 0.2}, attachments={"report.json": b"{}"})
    found = read_dataset(tmp_path / "data")
    assert found == written
    assert found.counts == {"train": 2, "validation": 1, "test": 1}
    assert found.split("test") == (example("d"),)
    assert (found.recipe, found.seed, found.config) == ("closed-book", 3, {"share": 0.2})
    assert found.attachment("report.json") == b"{}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_same_content_gives_the_same_hash(tmp_path: Path) -> None:
    assert write(tmp_path / "one").sha256 == write(tmp_path / "two").sha256
    assert write(tmp_path / "three", seed=4).sha256 != write(tmp_path / "one", replace=True).sha256


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(content=texts, answer=texts, golds=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, content: str, answer: str, golds: list[str]
) -> None:
    one = example("a", messages=(Message("user", content),), answer=answer, golds=tuple(golds))
    folder = tmp_path_factory.mktemp("any") / "data"
    assert write(folder, splits={"train": [one]}).train == (one,)


@pytest.mark.parametrize("name", ["train.jsonl", "report.txt"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, attachments={"report.txt": b"fine"})
    with (tmp_path / name).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(DatasetInvalid, match=f"{name} was changed"):
        read_dataset(tmp_path).attachment(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "another version"),
        ({"counts": {"train": 9}}, "says"),
        ({"files": []}, "wrong type"),
        ({"files": {}}, "does not name"),
        ({"more": 1}, "other fields"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetInvalid, match=reason):
        read_dataset(tmp_path)


def test_a_folder_without_a_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="tandem train prepare"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetInvalid, match="not valid JSON"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        example("a", messages=()),
        example("a", messages=(Message("assistant", "x"),)),
        example("a", messages=(Message("robot", "x"), Message("user", "x"))),
        example("a", answer=" "),
        example("a", golds=()),
        example("a", group=""),
        example("b"),
        example("a", answer="half \ud800 pair"),
    ],
)
def test_what_cannot_be_learnt_is_not_written(tmp_path: Path, bad: Example) -> None:
    with pytest.raises(DatasetInvalid):
        write(tmp_path / "data", splits={"train": [example("b")], "test": [bad]})
    assert not list(tmp_path.iterdir())


def test_splits_have_their_names_and_train_is_not_empty(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="dev: no such split"):
        write(tmp_path / "data", splits={"train": [example("a")], "dev": []})
    with pytest.raises(DatasetInvalid, match="no example to train on"):
        write(tmp_path / "data", splits={"test": [example("a")]})
    with pytest.raises(DatasetInvalid, match="is no name for an attachment"):
        write(tmp_path / "data", attachments={"../out": b""})


def test_only_a_dataset_is_replaced_and_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder)
    with pytest.raises(DatasetInvalid, match="exists already"):
        write(folder)
    assert write(folder, seed=9, replace=True).seed == 9
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetInvalid, match="not a dataset"):
        write(tmp_path / "photos", replace=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "photos"]


def test_a_failed_replacement_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    old = write(folder)
    rename = Path.rename

    def fail_for_new(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="disk full"):
        write(folder, seed=9, replace=True)
    assert read_dataset(folder) == old


@pytest.mark.parametrize("stopped", ["data", "new"])
def test_a_stop_between_the_renames_leaves_the_old_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    folder = tmp_path / "data"
    old = write(folder)
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        moved = rename(path, target) if path.name != "new" else path
        if (path.name == stopped and target.parent != tmp_path) or path.name == stopped == "new":
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        write(folder, seed=9, replace=True)
    assert read_dataset(folder) == old
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_old_dataset_is_never_deleted_before_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    write(folder)
    rename = Path.rename

    def fail_after_the_first(path: Path, target: Path) -> Path:
        if path.name != "data":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        write(folder, seed=9, replace=True)
    (kept,) = tmp_path.glob(".data.*/old")
    assert read_dataset(kept).seed == 3


@pytest.mark.parametrize("manifest", ["{}", "[]", "{", '{"files": {"train.jsonl": ""}, "recipe": "raft"}'])
def test_a_folder_with_more_than_a_dataset_is_left_alone(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "dataset.json").write_text(manifest)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetInvalid, match="not a dataset"):
        write(tmp_path, replace=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("change", [{"golds": "42"}, {"id": 1}, {"messages": [{"role": "user"}]}, {"extra": 1}])
def test_a_bad_row_is_named_by_line(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DatasetInvalid):
        Example.from_row(example("a").row() | change)
