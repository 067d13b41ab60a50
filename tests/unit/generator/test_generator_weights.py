"""Finding the base model, and converting it once."""

import threading
import time
from pathlib import Path

import pytest

from services.generator.backend import weights
from tandem.errors import ConfigError


class Conversion:
    """Stands in for the slow conversion; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self._failures = failures

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.calls += 1
        time.sleep(0.01)
        if self.calls <= self._failures:
            raise OSError("the disk is full")
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "weights.sha256").write_text("ab" * 32 + "\n")


def use(monkeypatch: pytest.MonkeyPatch, conversion: Conversion) -> Conversion:
    monkeypatch.setattr(weights, "_convert", conversion)
    monkeypatch.setattr(weights, "_bundled_gguf", lambda: Path("model.gguf"))
    return conversion


def test_processes_that_need_it_at_once_convert_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = use(monkeypatch, Conversion())
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(weights.model_folder(weights.BUNDLED, cache=tmp_path)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversion.calls == 1
    assert set(found) == {tmp_path / "models" / weights.BUNDLED}
    assert weights.weights_sha256(found[0]) == "ab" * 32


def test_a_failed_conversion_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = use(monkeypatch, Conversion(failures=1))
    with pytest.raises(OSError, match="full"):
        weights.model_folder(weights.BUNDLED, cache=tmp_path)
    weights.model_folder(weights.BUNDLED, cache=tmp_path)
    assert conversion.calls == 2


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "no config.json"),
        (["config.json"], "no .*safetensors"),
        (["config.json", "pytorch_model.bin"], "no .*safe"),
    ],
)
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, files: list[str], reason: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=reason):
        weights.model_folder(str(tmp_path), cache=tmp_path)


def test_the_hash_covers_all_weight_files_in_order(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    assert weights.weights_sha256(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
