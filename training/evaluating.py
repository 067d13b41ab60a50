"""Evaluates a run folder: opens its models one after the other and keeps what the gate found."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from training.examples import Dataset, read_dataset
from training.gate import Evaluation, EvaluationInvalid, GateSettings, evaluate, write_evaluation
from training.gate.answering import ModelAnswerer
from training.methods import MethodError, Run, load_trained, models
from training.registering import Incumbent


def evaluate_run(
    run: Run,
    *,
    dataset: Path,
    base: Path | None = None,
    incumbent: Incumbent | None = None,
    waived: bool = False,
    settings: GateSettings | None = None,
    device: str = "cpu",
    threads: int | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Evaluation, Dataset]:
    """Returns the evaluation, which then lies in the run's folder, and the dataset.

    `waived` notes that an incumbent was left out on request. Raises MethodError for a run without a result and
    EvaluationInvalid where dataset or incumbent do not go with it.
    """
    if not run.finished:
        raise MethodError(f"the run in {run.folder} has not finished; resume it: tandem train run ... --resume")
    data = read_dataset(dataset)
    if data.sha256 != run.record["dataset"]["sha256"]:
        raise EvaluationInvalid(f"{dataset} is not the dataset that {run.folder} was trained on")
    if base is not None:
        run = replace(run, record={**run.record, "base": {**run.record["base"], "path": str(base.resolve())}})
    folder, sha256 = models.check_base(run.base), run.record["base"]["sha256"]
    if models.base_sha256(folder) != sha256:
        raise EvaluationInvalid(f"the base model in {folder} is not the one that {run.folder} was trained on")
    if incumbent is not None and run.result["weights_sha256"].startswith(incumbent.version):
        raise EvaluationInvalid(f"the weights of {run.folder} are in use already, as version {incumbent.version}")
    if incumbent is not None and incumbent.base_sha256 != sha256:
        raise EvaluationInvalid(
            f"the version in use, {incumbent.version}, sits on another base model; "
            "compare with the base model alone: --no-incumbent"
        )

    def candidate() -> ModelAnswerer:
        trained = load_trained(run, device=device)
        return ModelAnswerer(trained.model, trained.tokenizer)

    def used() -> ModelAnswerer:
        if incumbent is None:
            raise EvaluationInvalid("no adapter is in use")
        return ModelAnswerer.of_adapter(folder, incumbent.config, incumbent.weights, device=device)

    with _settled(threads):
        found = evaluate(
            data,
            base=lambda: ModelAnswerer.of_folder(folder, device=device),
            candidate=candidate,
            incumbent=used if incumbent is not None else None,
            settings=settings,
            about={
                "weights_sha256": run.result["weights_sha256"],
                "base_sha256": sha256,
                "dataset_sha256": data.sha256,
                "incumbent": incumbent.version if incumbent is not None else None,
                "incumbent_waived": waived,
                "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
                "device": device,
                "threads": torch.get_num_threads(),
            },
            on_progress=on_progress,
        )
    write_evaluation(run.folder, found)
    return found, data


@contextlib.contextmanager
def _settled(threads: int | None) -> Iterator[None]:
    """Sets the threads and quiets transformers' own bars and warnings for the time being."""
    before, level = torch.get_num_threads(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    torch.set_num_threads(threads or before)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
