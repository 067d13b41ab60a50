"""The committed stubs are those of the contracts, and what would break a client is seen."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the parts that the generator reads."""
    for folder in ("proto", "tandem/v1"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "proto/generate.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return plant


def test_the_committed_stubs_are_fresh() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (replace("proto/tandem/v1/common.proto", "int32 start = 1;", "int64 start = 1;"), "changed type"),
        (replace("proto/tandem/v1/common.proto", "string stage = 1;", "string Stage = 1;"), "lower_snake_case"),
        (replace("proto/tandem/v1/common.proto", "  // stage names the work,", "  // "), "stubs are stale"),
        (replace("tandem/v1/common_pb2.py", "DESCRIPTOR", "DESCRIPTOR "), "stubs are stale"),
    ],
    ids=["breaking", "lint", "comment", "edited stub"],
)
def test_a_planted_fault_is_found(copy: Path, plant: Callable[[Path], None], words: str) -> None:
    plant(copy)
    done = check(copy)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr


def test_a_stub_too_many_is_found(copy: Path) -> None:
    (copy / "tandem/v1/old_pb2.py").write_text("")
    done = check(copy)
    assert done.returncode == 1
    assert "old_pb2.py" in done.stderr
