"""A base model and a dataset so small that a run takes a second, and a program that trains on them to be killed."""

import sys
from pathlib import Path
from typing import Any

from tandem.prompts import closed_book
from tests.fakes.generator_model import write_model
from training.examples import Dataset, Example, read_dataset, write_dataset
from training.methods import Method, Outcome, Progress, train


def example(name: str, question: str, answer: str) -> Example:
    """Returns a closed-book example that is a group of its own."""
    return Example(name, name, tuple(closed_book(question)), answer, (answer,), "answerable")


def write_inputs(folder: Path, *, num_train: int = 12, num_validation: int = 4) -> tuple[Path, Dataset]:
    """Writes folder/base and folder/dataset; returns the base model's folder and the dataset."""
    base = write_model(folder / "base")
    splits = {"train": num_train, "validation": num_validation, "test": 2}
    made = {
        split: [example(f"{split}-{n}", f"{split} {n}?", f"a{n % 3}") for n in range(count)]
        for split, count in splits.items()
    }
    inputs = {"facts.jsonl": "5" * 64}
    return base, write_dataset(folder / "dataset", made, recipe="closed-book", seed=3, inputs=inputs)


def method(name: str = "lora", **changes: Any) -> Method:
    """Returns a method for a short run of many small steps; dropout makes it depend on torch's random state."""
    quick: dict[str, Any] = {
        "epochs": 4,
        "rank": 4,
        "dropout": 0.1 if name == "lora" else 0.0,
        "virtual_tokens": 4,
        "learning_rate": 1e-3 if name == "full" else 1e-2,
        "max_batch_rows": 4,
        "evaluate_steps": 4,
    }
    return Method.of(name, **(quick | changes))


def run(folder: Path, out: Path, chosen: Method, **wishes: Any) -> Outcome:
    """Trains on what write_inputs wrote."""
    wishes = {"tracking": "off", "threads": 1, "base": folder / "base"} | wishes
    return train(read_dataset(folder / "dataset"), method=chosen, out=out, **wishes)


def main() -> None:
    """Trains into argv[2] on the inputs in argv[1] by the method argv[3], and prints each step that is done."""

    def say(progress: Progress) -> None:
        print(progress.step, flush=True)
        if progress.step == int(sys.argv[4]):
            sys.stdin.read()  # waits here for what never comes: to be killed at this very step

    run(Path(sys.argv[1]), Path(sys.argv[2]), method(sys.argv[3], checkpoint_steps=3), on_progress=say)


if __name__ == "__main__":
    main()
