"""When a run is measured, saved and ended, and which of its weights it ends with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fakes.training_runs import method
from training.methods.watch import Standing, Watch


class Unwritten:
    """Stands for a journal that nobody reads."""

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""


class Silent:
    """Hears metrics and keeps none."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Does nothing."""


def watching(standing: Standing) -> Watch:
    journal: Any = Unwritten()
    return Watch(
        method(patience=2, evaluate_steps=1),
        tokens=[1] * 100,
        standing=standing,
        journal=journal,
        listener=Silent(),
        on_progress=lambda progress: None,
        energy=lambda: 0.0,
        validation_tokens=10,
    )


def weigh(folder: Path, measured: list[tuple[float, float]], *, restart: bool = False) -> tuple[Standing, list[bool]]:
    """Weighs (exact, loss) one after the other until the run ends; with restart, each in a process of its own."""
    standing, saved = Standing(), []
    watch = watching(standing)
    for step, (exact, loss) in enumerate(measured, 1):
        if restart:
            standing.write(folder / "standing.json")
            standing = Standing.read(folder / "standing.json")
            watch = watching(standing)
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        state = SimpleNamespace(global_step=step)
        watch.on_evaluate(None, state, control, {"eval_loss": loss, "eval_exact": exact})
        saved.append(control.should_save)
        if control.should_training_stop:
            break
    return standing, saved


def test_more_right_answers_count_above_a_lower_loss(tmp_path: Path) -> None:
    standing, saved = weigh(tmp_path, [(0.1, 0.4), (0.4, 0.5), (0.6, 0.45), (0.6, 0.44), (0.5, 0.2)])
    assert (standing.best_step, standing.best_exact, standing.best_loss) == (4, 0.6, 0.44)
    assert saved == [True, True, True, True, False]


def test_a_lucky_answer_does_not_end_a_run_whose_loss_falls(tmp_path: Path) -> None:
    standing, _ = weigh(tmp_path, [(0.25, 1.0), (0.0, 0.8), (0.0, 0.6), (0.0, 0.5), (0.5, 0.6)])
    assert (standing.best_step, standing.stopped) == (5, None)


def test_a_run_that_betters_nothing_is_ended_also_over_restarts(tmp_path: Path) -> None:
    measured = [(0.5, 1.0), (0.5, 1.1), (0.6, 1.2), (0.4, 1.1), (0.6, 1.3), (0.9, 0.1)]
    for restart in (False, True):
        standing, saved = weigh(tmp_path, measured, restart=restart)
        assert (standing.stopped, standing.best_step, len(saved)) == ("early", 3, 5)


def test_without_a_right_answer_the_loss_decides(tmp_path: Path) -> None:
    standing, _ = weigh(tmp_path, [(0.0, 1.0), (0.0, 0.7), (0.0, 0.8)])
    assert (standing.best_step, standing.best_loss) == (2, 0.7)
