"""Does one process's work on a run: from its last checkpoint, if there is one, to the files that come out."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.examples import Dataset
from training.methods import models
from training.methods.batches import Encoded, by_length, encode_all, evenly, schedule, shared_prefix
from training.methods.checkpoints import Checkpoints
from training.methods.energy import Energy, Meter
from training.methods.plan import MethodError
from training.methods.provenance import code_version, now, versions
from training.methods.record import Run, file_sha256, write_run
from training.methods.tracked import finish, tracker_of
from training.methods.trainer import STANDING, TandemTrainer, arguments
from training.methods.watch import Journal, Progress, Standing, Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Is a finished run."""

    run: Run
    resumed_from: int | None
    """The step that it went on from, where it was cut off before."""

    @property
    def weights(self) -> Path:
        """Returns the folder of what came out: an adapter in PEFT layout, or a base model folder."""
        return self.run.weights

    @property
    def sha256(self) -> str:
        """Returns the SHA-256 of the weights' file."""
        return str(self.run.result["weights_sha256"])


class Work:
    """Is one process's work on a run."""

    def __init__(self, run: Run, dataset: Dataset, *, device: str, tracking: str | None, experiment: str) -> None:
        self.run, self.method, self.device = run, run.method, device
        self.tokenizer = models.load_tokenizer(run.base)
        limit = self._max_tokens()
        self.train = encode_all(self.tokenizer, dataset.train, max_tokens=limit)
        held = evenly(dataset.validation, self.method.max_validation)
        self.validation = encode_all(self.tokenizer, held, max_tokens=limit)
        self.steps = schedule(self.train, self.method)
        self.checkpoints = Checkpoints(run.folder / "checkpoints")
        self.checkpoints.sweep()
        found = self.checkpoints.steps()
        self.start = found[-1] if found else None
        self.standing = Standing()
        if self.start is not None:
            self.standing = _standing(self.checkpoints.at(self.start))
        if self.start is not None:
            resumed = {"at": now(), "from_step": self.start, "code_version": code_version(), "versions": versions()}
            run.record.setdefault("resumed", []).append(resumed)
        until = self.start if self.start is not None else -1
        self.tracker = tracker_of(run, tracking, experiment=experiment, until=until)

    def do(self, on_progress: Callable[[Progress], None]) -> Outcome:
        """Trains to the end, exports, and writes what came out into run.json."""
        status, meter = "FAILED", Meter()
        journal = Journal(self.run.journal, last_step=self.start if self.start is not None else -1)
        try:
            meter.start()
            trainer, watch = self._trainer(journal, meter, on_progress)
            if watch.standing.stopped is None:
                self._learn(trainer, watch)
            self._choose(trainer, watch)
            weights = self._export(trainer)
            self._conclude(watch, meter.stop(), weights)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except torch.OutOfMemoryError:
            raise MethodError(
                f"the {self.device} has too little memory for batches of {self.method.max_batch_tokens} tokens; "
                "train into another folder with a lower max_batch_tokens"
            ) from None
        finally:
            meter.stop()
            journal.close()
            finish(self.run, self.tracker, status)
        self.checkpoints.clear()
        return Outcome(self.run, self.start)

    def _max_tokens(self) -> int:
        config = models.load_config(self.run.base)
        context = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
        context -= self.method.virtual_tokens if self.method.name == "prefix" else 0
        return min(context, self.method.max_tokens or context)

    def _trainer(
        self, journal: Journal, meter: Meter, on_progress: Callable[[Progress], None]
    ) -> tuple[TandemTrainer, Watch]:
        model = models.prepare(self.run.base, self.method, self.device)
        if self.method.name == "prefix" and self.start is None:
            models.first_prefix(model, self.train)
        watch = Watch(
            self.method,
            tokens=_num_tokens(self.train, self.steps),
            standing=self.standing,
            journal=journal,
            listener=self.tracker,
            on_progress=on_progress,
            energy=lambda: meter.read().kwh,
            validation_tokens=sum(_num_tokens(self.validation, by_length(self.validation, self.method))),
        )
        self.run.record["num_weights"] = models.num_trained(model)
        args = arguments(self.method, folder=self.checkpoints.folder, num_steps=len(self.steps), device=self.device)
        trainer = TandemTrainer(
            model,
            self.method,
            args=args,
            train=self.train,
            steps=self.steps,
            validation=self.validation,
            watch=watch,
            checkpoints=self.checkpoints,
        )
        return trainer, watch

    def _learn(self, trainer: TandemTrainer, watch: Watch) -> None:
        if self.start is None:
            if self.validation:
                watch.first(*trainer.validate())
            trainer.train()
        else:
            log.info("resuming", extra={"step": self.start, "num_steps": len(self.steps)})
            trainer.train(resume_from_checkpoint=str(self.checkpoints.at(self.start)))

    def _choose(self, trainer: TandemTrainer, watch: Watch) -> None:
        """Puts the weights in place that the run ends with."""
        best = watch.standing.best_step
        step = best if self.method.keep == "best" and best is not None else self.checkpoints.steps()[-1]
        trainer.restore(self.checkpoints.at(step))
        self.run.record["kept_step"] = step

    def _export(self, trainer: TandemTrainer) -> Path:
        place = self.run.weights
        scratch = place.with_name(f".{place.name}.partial")
        for stale in (scratch, place):
            shutil.rmtree(stale, ignore_errors=True)
        weights = models.export(trainer.model, self.tokenizer, scratch, base=self.run.base, method=self.method)
        scratch.rename(place)
        return place / weights.name

    def _conclude(self, watch: Watch, energy: Energy, weights: Path) -> None:
        standing, record, folder = watch.standing, self.run.record, self.run.folder
        steps = self.checkpoints.steps()[-1]
        kept = record.pop("kept_step")
        best = kept == standing.best_step
        record["result"] = {
            "stopped": standing.stopped,
            "steps": steps,
            "num_steps": len(self.steps),
            "kept_step": kept,
            "epochs": round(self.method.epochs * steps / len(self.steps), 3),
            "tokens": standing.tokens,
            "loss": standing.loss,
            "validation_loss_before": standing.first_validation_loss,
            "validation_loss": standing.best_loss if best else standing.validation_loss,
            "validation_exact": standing.best_exact if best else standing.validation_exact,
            "num_weights": record.pop("num_weights"),
            "minutes": round(standing.elapsed_s / 60, 2),
            "energy": {"kwh": standing.energy_kwh, "source": energy.source},
            "weights_sha256": file_sha256(weights),
            "files": {
                str(path.relative_to(folder)): file_sha256(path)
                for path in sorted(weights.parent.iterdir())
                if path.is_file()
            },
        }
        record["status"] = "finished"
        write_run(self.run)


def _num_tokens(examples: list[Encoded], batches: list[list[int]]) -> list[int]:
    """Returns the tokens of each batch that are computed, padding not counted."""
    shared = shared_prefix(examples) if examples else 0
    return [sum(examples[index].num_tokens for index in batch) - shared * (len(batch) - 1) for batch in batches]


def _standing(checkpoint: Path) -> Standing:
    try:
        return Standing.read(checkpoint / STANDING)
    except (OSError, ValueError, TypeError) as error:
        raise MethodError(f"the checkpoint {checkpoint} cannot be read ({error}); remove it and resume") from None
