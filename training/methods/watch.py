"""Watches over a run: when to measure, to save and to stop; what the user hears; what the journal keeps."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from training.methods.plan import Method, MethodError


@dataclass(frozen=True)
class Progress:
    """Tells where a run stands."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    """Moving mean over about 20 steps; NaN before the first."""
    validation_loss: float | None
    """The latest; None without a validation split."""
    validation_exact: float | None
    """The latest share of different validation answers that the model would give word for word."""
    best_step: int | None
    tokens_per_second: float
    elapsed_s: float
    """Over all processes that worked on the run."""
    remaining_s: float | None
    """None before there is anything to go by."""


@dataclass
class Standing:
    """Is what a run must remember to go on after a kill as if nothing had happened; lies in each checkpoint."""

    elapsed_s: float = 0.0
    tokens: int = 0
    loss: float | None = None
    first_validation_loss: float | None = None
    validation_s: float = 0.0
    """What one measurement of the validation split takes."""
    validation_loss: float | None = None
    validation_exact: float | None = None
    best_loss: float | None = None
    best_exact: float | None = None
    lowest_loss: float | None = None
    best_step: int | None = None
    num_evaluations: int = 0
    num_worse: int = 0
    energy_kwh: float = 0.0
    stopped: str | None = None
    """None while it runs; then "finished", "early" or "time"."""

    @classmethod
    def read(cls, path: Path) -> "Standing":
        """Returns the standing of a checkpoint."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Writes the standing into a checkpoint."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


class Journal:
    """Keeps metrics.jsonl: one object with its step on each line, in order."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        rows = [line for line in self.read(path) if line["step"] <= last_step] if path.exists() else []
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(path)
        self._stream = path.open("a", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Returns the rows of a journal; a last line that a kill cut off is left out."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Appends the metrics of a step."""
        self._stream.write(json.dumps({"step": step, **metrics}) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Brings what was written to the disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class Listener(Protocol):
    """Hears a run's metrics: the tracking store."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step; never raises because a server is away."""


@dataclass
class Clock:
    """Counts the seconds of a run over all its processes."""

    before_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Returns the seconds so far."""
        return self.before_s + time.monotonic() - self.started


def num_evaluations(training_tokens: int, validation_tokens: int) -> int:
    """Returns how often to measure the validation split: ten times, or less often where that would cost a fifth.

    A token without a backward pass costs a third of one with it.
    """
    if not validation_tokens:
        return 0
    return max(2, min(10, int(0.2 * training_tokens / (validation_tokens / 3))))


def num_evaluations_in(minutes: float, validation_s: float) -> int:
    """Returns the same for a run that is limited in time: what was measured before counts, and the last is certain."""
    return max(1, min(10, int(0.2 * 60 * minutes / max(validation_s, 1e-3))))


class Watch(TrainerCallback):  # type: ignore[misc]
    """Decides after each step what happens next. Nothing it decides depends on the clock, but for limits in minutes."""

    def __init__(
        self,
        method: Method,
        *,
        tokens: list[int],
        standing: Standing,
        journal: Journal,
        listener: Listener,
        on_progress: Callable[[Progress], None],
        energy: Callable[[], float],
        validation_tokens: int,
    ) -> None:
        self.standing = standing
        self._method = method
        self._tokens = tokens
        self._num_steps = len(tokens)
        self._journal = journal
        self._listener = listener
        self._on_progress = on_progress
        self._energy, self._energy_before = energy, standing.energy_kwh
        self._num_evaluations = num_evaluations(sum(tokens), validation_tokens)
        self._clock = Clock(before_s=standing.elapsed_s)
        self._session_tokens = 0
        self._saved = time.monotonic()

    @property
    def _evaluations(self) -> int:
        if not self._method.minutes or not self.standing.validation_s:
            return self._num_evaluations
        return min(self._num_evaluations, num_evaluations_in(self._method.minutes, self.standing.validation_s))

    def share(self, step: int) -> float:
        """Returns how far a run is through the budget that is used up further, from 0 to 1."""
        limit = 60 * self._method.minutes
        return max(step / self._num_steps, self._clock.seconds() / limit if limit else 0.0)

    def rate(self, step: int) -> float:
        """Returns the share of the highest learning rate for the step to come: a warm-up, then a cosine."""
        floor = self._method.final_learning_rate_share
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share(step))))
        warmup = max(1, min(self._method.warmup_steps, self._num_steps // 5))
        return min(1.0, (step + 1) / warmup) * cosine

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Takes the loss of a step; raises MethodError where it is not a number."""
        state.log_history.clear()
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise MethodError(
                f"the loss is not a number after step {state.global_step}; start again with a lower learning rate "
                f"than {self._method.rate:g}"
            )
        before = self.standing.loss
        self.standing.loss = loss if before is None else 0.95 * before + 0.05 * loss
        self._tell(state.global_step, {"loss": loss, "learning_rate": logs["learning_rate"]})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Says what follows the step: its log always; a measurement, a checkpoint or the end where they are due."""
        step = state.global_step
        self.standing.tokens += self._tokens[step - 1]
        self._session_tokens += self._tokens[step - 1]
        if step >= self._num_steps:
            self.standing.stopped = "finished"
        elif self.share(step) >= 1:
            self.standing.stopped = "time"
        over = self.standing.stopped is not None
        control.should_log = True
        control.should_training_stop = over
        control.should_evaluate = self._evaluations > 0 and (over or self._weighable(step))
        control.should_save = over or self._due(step)
        self._on_progress(self.progress(step))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Weighs a measurement of the validation split: the best is saved, too many that better nothing end the run.

        The best says most answers word for word, and of those that say as many the one with the lowest loss: the loss
        alone rises while a model that grows sure of itself still learns.
        """
        loss, exact, standing = metrics["eval_loss"], metrics["eval_exact"], self.standing
        standing.validation_loss, standing.validation_exact = loss, exact
        standing.num_evaluations += 1
        best = standing.best_loss is None or (exact, -loss) > (standing.best_exact or 0.0, -standing.best_loss)
        if best:
            standing.best_loss, standing.best_exact, standing.best_step = loss, exact, state.global_step
            control.should_save = True
        lowest = standing.lowest_loss is None or loss < standing.lowest_loss
        if lowest:
            standing.lowest_loss = loss
        # The share moves in steps of one answer: one that was lucky early must not end a run that still learns.
        standing.num_worse = 0 if best or lowest else standing.num_worse + 1
        if self._method.patience and standing.num_worse >= self._method.patience and standing.stopped is None:
            standing.stopped = "early"
            control.should_training_stop = control.should_save = True
        self._tell(state.global_step, {"validation_loss": loss, "validation_exact": exact})
        self._on_progress(self.progress(state.global_step))

    def first(self, loss: float, exact: float) -> None:
        """Takes the measurement before the first step; raises MethodError where it is not a number."""
        if not math.isfinite(loss):
            raise MethodError("the loss is not a number before the first step: the base model's weights are damaged")
        self.standing.first_validation_loss = self.standing.validation_loss = loss
        self.standing.validation_exact = exact
        self.standing.validation_s = self._clock.seconds()
        self._tell(0, {"validation_loss": loss, "validation_exact": exact})
        self._on_progress(self.progress(0))

    def saving(self) -> Standing:
        """Returns the standing as a checkpoint takes it; the journal reaches the disk before it."""
        self._journal.sync()
        self._saved = time.monotonic()
        self.standing.elapsed_s = self._clock.seconds()
        self.standing.energy_kwh = self._energy_before + self._energy()
        return self.standing

    def progress(self, step: int) -> Progress:
        """Returns where the run stands."""
        elapsed, share = self._clock.seconds(), min(1.0, self.share(step))
        session = max(elapsed - self._clock.before_s, 1e-9)
        epochs = self._method.epochs
        return Progress(
            step=step,
            num_steps=self._num_steps,
            epoch=epochs * step / self._num_steps,
            loss=math.nan if self.standing.loss is None else self.standing.loss,
            validation_loss=self.standing.validation_loss,
            validation_exact=self.standing.validation_exact,
            best_step=self.standing.best_step,
            tokens_per_second=self._session_tokens / session,
            elapsed_s=elapsed,
            remaining_s=elapsed * (1 - share) / share if share else None,
        )

    def _weighable(self, step: int) -> bool:
        if self._method.evaluate_steps:
            return step % self._method.evaluate_steps == 0
        return math.floor(self.share(step) * self._evaluations) > self.standing.num_evaluations

    def _due(self, step: int) -> bool:
        steps, minutes = self._method.checkpoint_steps, self._method.checkpoint_minutes
        late = minutes > 0 and time.monotonic() - self._saved >= 60 * minutes
        return late or bool(steps and step % steps == 0)

    def _tell(self, step: int, metrics: dict[str, float]) -> None:
        self._journal.add(step, metrics)
        self._listener.metrics(step, metrics)
