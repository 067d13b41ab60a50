"""A run that was killed goes on from its last checkpoint and ends with the same bytes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training_runs import method, run, write_inputs
from training.methods import Journal, MethodError, Outcome, read_run
from training.methods.checkpoints import Checkpoints
from training.methods.watch import Standing

ROOT = Path(__file__).parents[3]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def killed_at(step: int, inputs: Path, out: Path, name: str) -> None:
    """Trains in a process of its own that stands still after the step, and kills it there."""
    words = [sys.executable, "-m", "tests.fakes.training_runs", str(inputs), str(out), name, str(step)]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                if int(line) == step:
                    break
            else:
                pytest.fail(process.stderr.read())
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def same(one: Outcome, other: Outcome) -> None:
    assert one.sha256 == other.sha256
    keys = (
        "stopped",
        "steps",
        "kept_step",
        "tokens",
        "loss",
        "validation_loss",
        "validation_exact",
        "validation_loss_before",
    )
    assert [one.run.result[key] for key in keys] == [other.run.result[key] for key in keys]
    assert Journal.read(one.run.journal) == Journal.read(other.run.journal)


@pytest.mark.parametrize("name", ["lora", "prefix", "full"])
def test_a_killed_run_ends_as_the_uninterrupted_one_does(inputs: Path, name: str) -> None:
    killed_at(8, inputs, inputs / "run", name)
    # Checkpoints of the steps 3 (every third), 4 (best so far, if so), 6 and maybe 8: what was after the last is lost.
    last = Checkpoints(inputs / "run/checkpoints").steps()[-1]
    assert last in (6, 8)
    chosen = method(name, checkpoint_steps=3)
    resumed = run(inputs, inputs / "run", chosen, resume=True)
    assert resumed.resumed_from == last
    assert [row["from_step"] for row in resumed.run.record["resumed"]] == [last]
    same(resumed, run(inputs, inputs / "whole", chosen))


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(inputs: Path) -> None:
    killed_at(1, inputs, inputs / "run", "lora")
    chosen = method(checkpoint_steps=3)
    with pytest.raises(MethodError, match="resume it"):
        run(inputs, inputs / "run", chosen)
    resumed = run(inputs, inputs / "run", chosen, resume=True)
    assert resumed.resumed_from is None
    same(resumed, run(inputs, inputs / "whole", chosen))


class Interrupted(Exception):
    pass


@contextmanager
def falls_after(step: int) -> Iterator[dict[str, Any]]:
    """Gives wishes for a run that ends by an exception after the step."""

    def on_progress(progress: Any) -> None:
        if progress.step == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        yield {"on_progress": on_progress}


def test_a_run_can_fall_more_than_once(inputs: Path) -> None:
    chosen = method(checkpoint_steps=2)
    for number, step in enumerate((3, 7, 12)):
        with falls_after(step) as wishes:
            run(inputs, inputs / "run", chosen, resume=number > 0, **wishes)
    same(run(inputs, inputs / "run", chosen, resume=True), run(inputs, inputs / "whole", chosen))


def test_a_run_that_fell_after_its_last_step_only_writes_what_came_out(inputs: Path, monkeypatch: Any) -> None:
    def fall(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("training.methods.models.export", fall)
        with pytest.raises(Interrupted):
            run(inputs, inputs / "run", method())
    resumed = run(inputs, inputs / "run", method(), resume=True)
    assert resumed.resumed_from == 12
    same(resumed, run(inputs, inputs / "whole", method()))


def test_a_resumed_run_must_be_the_one_that_was_started(inputs: Path) -> None:
    with falls_after(5) as wishes:
        run(inputs, inputs / "run", method(), **wishes)
    with pytest.raises(MethodError, match=r"method: rank was 4, is 8"):
        run(inputs, inputs / "run", method(rank=8), resume=True)
    with pytest.raises(MethodError, match=r"threads: was 1, is 2"):
        run(inputs, inputs / "run", method(), resume=True, threads=2)
    (inputs / "other").mkdir()
    write_inputs(inputs / "other", num_train=13)
    with pytest.raises(MethodError, match=r"dataset: .*sha256"):
        run(inputs / "other", inputs / "run", method(), resume=True, base=inputs / "base")
    assert read_run(inputs / "run").record["status"] == "running"


def test_a_checkpoint_that_cannot_be_read_is_named(inputs: Path) -> None:
    with falls_after(5) as wishes:
        run(inputs, inputs / "run", method(), **wishes)
    (place,) = (inputs / "run/checkpoints").glob("step-*")
    for name in ("trained.safetensors", "standing.json"):
        (place / name).write_bytes(b"\x00" * 20)
        with pytest.raises(MethodError, match=rf"{place.name} cannot be read .* remove it"):
            run(inputs, inputs / "run", method(), resume=True)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)

    def fill(folder: Path) -> None:
        (folder / "weights").write_text("w")

    def fall(folder: Path) -> None:
        fill(folder)
        raise Interrupted

    kept.write(3, fill)
    with pytest.raises(Interrupted):
        kept.write(6, fall)
    assert kept.steps() == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    (tmp_path / ".writing-left-by-a-kill").mkdir()
    kept.sweep()
    for step in (6, 9, 12):
        kept.write(step, fill)
    kept.prune({6})
    assert kept.steps() == [6, 12]
    kept.clear()
    assert not tmp_path.exists()


def test_the_journal_forgets_what_came_after_the_checkpoint_and_what_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    journal = Journal(path, last_step=1)
    journal.add(2, {"loss": 1.5})
    journal.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_standing_comes_back_as_it_was(tmp_path: Path) -> None:
    standing = Standing(elapsed_s=1.5, tokens=7, loss=0.1 + 0.2, best_loss=1 / 3, best_step=4, num_worse=1)
    standing.write(tmp_path / "standing.json")
    assert Standing.read(tmp_path / "standing.json") == standing
