"""Fits transformers' Trainer to this house: batches by tokens, the loss on answers alone, checkpoints that are whole.

To the Trainer a run is one epoch of a list of batches that was decided
beforehand; it then skips exactly the steps that a checkpoint has behind it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from training.methods.batches import Encoded, by_length, shared_prefix
from training.methods.checkpoints import Checkpoints
from training.methods.loss import held_out, share_exact, summed_loss
from training.methods.models import computing
from training.methods.plan import Method, MethodError
from training.methods.watch import Standing, Watch

TRAINED = "trained.safetensors"
STANDING = "standing.json"


def arguments(method: Method, *, folder: Path, num_steps: int, device: str) -> Any:
    """Returns the Trainer's arguments; when to log, measure, save and stop is left to the Watch."""
    made = TrainingArguments(
        output_dir=str(folder),
        use_cpu=device == "cpu",
        max_steps=num_steps,
        learning_rate=method.rate,
        weight_decay=method.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.99,
        optim="adamw_torch",
        max_grad_norm=method.clip_norm,
        seed=method.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # the first alone: the Trainer would split batches that were cut for one
    return made


class TandemTrainer(Trainer):  # type: ignore[misc]
    """Trains what the method trains; the model's other weights stay as they are."""

    def __init__(
        self,
        model: Any,
        method: Method,
        *,
        args: Any,
        train: Sequence[Encoded],
        steps: Sequence[Sequence[int]],
        validation: Sequence[Encoded],
        watch: Watch,
        checkpoints: Checkpoints,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=list(train), callbacks=[watch])
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self._method = method
        self._steps = [list(step) for step in steps]
        self._prefix = shared_prefix(train)
        self._validation = list(validation)
        self._watch = watch
        self._checkpoints = checkpoints
        self._scratch: Path | None = None

    def get_train_dataloader(self) -> Any:
        """Returns the run's batches in their order."""
        return DataLoader(self.train_dataset, batch_sampler=self._steps, collate_fn=_rows)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Returns the Watch's learning rate as a scheduler."""
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._watch.rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the mean over the batch's answer tokens."""
        with computing(self.model, self._method):
            loss, count = summed_loss(self.model, inputs["rows"], self._prefix)
        return loss / count

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Measures the validation split, and lets the Watch weigh it."""
        loss, exact = self.validate()
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_exact": exact}
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validate(self) -> tuple[float, float]:
        """Returns the validation split's mean loss over answer tokens, and its share of answers said word for word."""
        prefix = shared_prefix(self._validation)
        total, count = 0.0, 0
        rows, exact = list[Encoded](), list[bool]()
        self.model.eval()
        with computing(self.model, self._method):
            for batch in by_length(self._validation, self._method):
                some = [self._validation[index] for index in batch]
                loss, tokens, right = held_out(self.model, some, prefix)
                total, count = total + loss, count + tokens
                rows, exact = rows + some, exact + right
        self.model.train()
        return total / count, share_exact(rows, exact)

    def floating_point_ops(self, inputs: Any) -> int:
        """Returns 0: nobody reads the estimate."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the trained weights alone, in full precision."""
        weights = {name: w.detach().cpu().contiguous() for name, w in _trained(self.model).items()}
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, str(folder / TRAINED))

    def restore(self, checkpoint: Path) -> None:
        """Puts a checkpoint's weights in place; raises MethodError where it does not fit."""
        try:
            weights = load_file(str(checkpoint / TRAINED))
        except (OSError, SafetensorError) as error:
            raise MethodError(f"the checkpoint {checkpoint} cannot be read ({error}); remove it and resume") from None
        trained = _trained(self.model)
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in trained.items()}:
            raise MethodError(f"the checkpoint {checkpoint} is of another model or method")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(weights[name])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.restore(Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._scratch or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        def fill(scratch: Path) -> None:
            self._scratch = scratch
            try:
                super(TandemTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._scratch = None
            written = scratch / f"checkpoint-{self.state.global_step}"
            for path in written.iterdir():
                path.rename(scratch / path.name)
            written.rmdir()
            standing.write(scratch / STANDING)

        standing: Standing = self._watch.saving()
        self._checkpoints.write(self.state.global_step, fill)
        self._checkpoints.prune({standing.best_step} if standing.best_step is not None else set())


def _rows(rows: list[Encoded]) -> dict[str, list[Encoded]]:
    return {"rows": rows}


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
