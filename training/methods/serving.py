"""Loads what a run made, to measure it as it will be served: from the files it wrote, not from memory."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from training.methods import models
from training.methods.plan import MethodError
from training.methods.record import Run


@dataclass(frozen=True)
class Trained:
    """Is a finished run in memory; call `model.generate` and the like, with `base()` around it for the base model."""

    model: Any
    tokenizer: Any
    run: Run

    def base(self) -> AbstractContextManager[Any]:
        """Takes the adapter out of effect; of no use for a full fine-tune, whose base is another model."""
        if isinstance(self.model, PeftModel):
            off: AbstractContextManager[Any] = self.model.disable_adapter()
            return off
        return nullcontext()


def load_trained(run: Run, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Trained:
    """Returns the model of a finished run; raises MethodError for one without a result or with another base model."""
    if not run.finished:
        raise MethodError(f"the run in {run.folder} has not finished; resume it")
    models.check_device(device)
    with models.quietly():
        if run.method.name == "full":
            model = models.load_model(run.weights, dtype, device)
            return Trained(model.eval(), models.load_tokenizer(run.weights), run)
        base = models.check_base(run.base)
        if models.base_sha256(base) != run.record["base"]["sha256"]:
            raise MethodError(f"the base model in {base} is not the one that the run was trained on")
        model = PeftModel.from_pretrained(models.load_model(base, dtype, device), run.weights)
        return Trained(model.eval(), models.load_tokenizer(base), run)
