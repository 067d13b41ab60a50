"""Models that are kept between starts: found again, made anew when they are broken, never half written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.embedder.backend.kept import kept


class Maker:
    """Makes texts and counts how often."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.made = 0

    def get(self, *made_from: str) -> str:
        return kept(self.home, made_from, make=self._make, write=self._write, read=self._read)

    def _make(self) -> str:
        self.made += 1
        return f"model {self.made}"

    def _write(self, model: str, folder: Path) -> None:
        (folder / "model.bin").write_text(model)

    def _read(self, folder: Path) -> str:
        return (folder / "model.bin").read_text()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "not" / "there")


def test_is_made_once_for_each_set_of_inputs(maker: Maker) -> None:
    assert [maker.get("a", "b"), maker.get("a", "b"), maker.get("ab"), maker.get("a", "b")] == [
        "model 1",
        "model 1",
        "model 2",
        "model 1",
    ]
    assert len(list(maker.home.iterdir())) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.bin").write_text("model 7"),
        lambda folder: (folder / "model.bin").write_text(""),
        lambda folder: (folder / "model.bin").unlink(),
        lambda folder: (folder / "sha256.json").unlink(),
        lambda folder: (folder / "sha256.json").write_text("{"),
    ],
)
def test_what_is_broken_is_made_anew(
    maker: Maker, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    maker.get("a")
    (folder,) = maker.home.iterdir()
    spoil(folder)
    assert [maker.get("a"), maker.get("a")] == ["model 2", "model 2"]
    assert "is broken" in caplog.text
    assert list(maker.home.iterdir()) == [folder]


def test_a_model_that_cannot_be_read_is_made_anew(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.get("a")

    def fail(folder: Path) -> str:
        raise RuntimeError("no model")

    monkeypatch.setattr(maker, "_read", fail)
    assert maker.get("a") == "model 2"


def test_where_nothing_can_be_written_the_log_says_so(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    maker.home.parent.write_text("a file where the folder should be")
    assert maker.get("a") == "model 1"
    assert "is not kept" in caplog.text


def test_a_failed_write_leaves_nothing(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: str, folder: Path) -> None:
        (folder / "model.bin").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(maker, "_write", fail)
    assert maker.get("a") == "model 1"
    assert list(maker.home.iterdir()) == []


def test_another_process_may_be_faster(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = Maker(maker.home)

    def overtaken() -> str:
        other.get("a")
        return "mine"

    monkeypatch.setattr(maker, "_make", overtaken)
    assert maker.get("a") == "mine"
    assert not caplog.records
    (folder,) = maker.home.iterdir()
    assert (folder / "model.bin").read_text() == "model 1"
    assert set(json.loads((folder / "sha256.json").read_text())) == {"model.bin"}
