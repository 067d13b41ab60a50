"""Holds what a model learns from and is measured on: examples in three splits, as one folder with hashes.

    dataset.json        recipe, seed, config, hashes of the inputs, counts, hashes of every other file
    train.jsonl         one example a line; validation.jsonl and test.jsonl alike
    NAME                attachments: whatever the recipe keeps beside them, such as the report on the data

The folder holds no time and no path, so the same inputs, recipe and seed give the same bytes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.prompts import PROMPTS_VERSION, Message

SCHEMA = 1
SPLITS = ("train", "validation", "test")
MANIFEST = "dataset.json"
_ROLES = frozenset(("system", "user", "assistant"))
_ROW = frozenset(("id", "group", "kind", "messages", "answer", "golds"))


class DatasetInvalid(ValueError):
    """Says that a dataset folder cannot be written or read, and what to do about it."""


@dataclass(frozen=True)
class Example:
    """Is one chat prompt with the answer to learn and the answers that count as right."""

    id: str
    """Unique in the dataset."""
    group: str
    """What the example belongs to: a document, a site, a thread, a fact. Intervals are drawn over groups."""
    messages: tuple[Message, ...]
    """The prompt; the last turn is the user's."""
    answer: str
    """What the model is to learn to say."""
    golds: tuple[str, ...]
    """Answers that count as right; the label of a classification, the reference text of a style example."""
    kind: str
    """What it is an example of, for scores by kind: "answerable", "unanswerable", "letter" and the like."""

    def row(self) -> dict[str, Any]:
        """Returns the example as it stands in a file."""
        return {
            "id": self.id,
            "group": self.group,
            "kind": self.kind,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "answer": self.answer,
            "golds": list(self.golds),
        }

    @classmethod
    def from_row(cls, row: Any) -> "Example":
        """Returns the example of a file's row; raises DatasetInvalid where a field is missing or of another type."""
        if not isinstance(row, dict) or set(row) != _ROW:
            raise DatasetInvalid(f"an example has exactly the fields {', '.join(sorted(_ROW))}")
        texts = [row[name] for name in ("id", "group", "kind", "answer")]
        if not all(isinstance(text, str) for text in texts) or not _is_texts(row["golds"]):
            raise DatasetInvalid("id, group, kind and answer are strings, golds is a list of strings")
        messages = row["messages"]
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and set(m) == {"role", "content"} and _is_texts(list(m.values())) for m in messages
        ):
            raise DatasetInvalid("messages is a list of objects with role and content, both strings")
        turns = tuple(Message(m["role"], m["content"]) for m in messages)
        example = cls(row["id"], row["group"], turns, row["answer"], tuple(row["golds"]), row["kind"])
        example.check()
        return example

    def check(self) -> None:
        """Raises DatasetInvalid where the example cannot be learnt from."""
        if not self.id or not self.group or not self.kind:
            raise DatasetInvalid("an example needs an id, a group and a kind")
        if any(message.role not in _ROLES for message in self.messages):
            raise DatasetInvalid(f"example {self.id}: the role of a message is one of {', '.join(sorted(_ROLES))}")
        if not self.messages or self.messages[-1].role != "user":
            raise DatasetInvalid(f"example {self.id}: the last message is the user's")
        if not self.answer.strip() or not self.golds:
            raise DatasetInvalid(f"example {self.id}: an answer and at least one gold answer are needed")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Is a dataset folder in memory."""

    folder: Path
    recipe: str
    seed: int
    config: dict[str, Any]
    """The recipe's settings."""
    inputs: dict[str, str]
    """SHA-256 of each file that the rows came from, by its name."""
    files: dict[str, str]
    """SHA-256 of each file of the folder, dataset.json excepted."""
    sha256: str
    """SHA-256 of dataset.json, which names all other hashes: the dataset in 64 characters."""
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    prompts_version: int = field(default=PROMPTS_VERSION)

    def split(self, name: str) -> tuple[Example, ...]:
        """Returns the examples of "train", "validation" or "test"."""
        splits = dict(zip(SPLITS, (self.train, self.validation, self.test), strict=True))
        if name not in splits:
            raise DatasetInvalid(f"{name} is no split; there are {', '.join(SPLITS)}")
        return splits[name]

    @property
    def counts(self) -> dict[str, int]:
        """Returns the number of examples by split."""
        return {name: len(self.split(name)) for name in SPLITS}

    def attachment(self, name: str) -> bytes:
        """Returns a file that lies beside the splits; raises DatasetInvalid where it is missing or was changed."""
        if name not in self.files:
            raise DatasetInvalid(f"{self.folder} has no {name}; it has {', '.join(sorted(self.files))}")
        return _verified(self.folder / name, self.files[name])


def write_dataset(
    folder: Path,
    splits: Mapping[str, Sequence[Example]],
    *,
    recipe: str,
    seed: int,
    inputs: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    replace: bool = False,
) -> Dataset:
    """Writes a dataset folder in one step and returns it as read back; a crash leaves no half of it.

    An existing folder is refused, unless `replace` is given and it is a dataset folder itself.
    """
    _check_splits(splits)
    files = {f"{name}.jsonl": _lines(splits.get(name, ())) for name in SPLITS}
    for name, content in (attachments or {}).items():
        if name in files or name == MANIFEST or name != Path(name).name or name.startswith("."):
            raise DatasetInvalid(f"{name} is no name for an attachment")
        files[name] = content
    manifest = {
        "schema": SCHEMA,
        "recipe": recipe,
        "seed": seed,
        "prompts_version": PROMPTS_VERSION,
        "config": dict(config or {}),
        "inputs": dict(inputs),
        "counts": {name: len(splits.get(name, ())) for name in SPLITS},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[MANIFEST] = (json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
    _write_folder(folder, files, replace=replace)
    return read_dataset(folder)


def read_dataset(folder: Path) -> Dataset:
    """Reads a dataset folder; raises DatasetInvalid where a file is missing, malformed or was changed since."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError:
        raise DatasetInvalid(f"{folder} is no dataset folder; `tandem train prepare` makes one") from None
    manifest = _manifest(folder, content)
    splits = {name: _read_split(folder / f"{name}.jsonl", manifest["files"]) for name in SPLITS}
    _check_splits(splits)
    if (counts := {name: len(rows) for name, rows in splits.items()}) != manifest["counts"]:
        raise DatasetInvalid(f"{folder} holds {counts}, {MANIFEST} says {manifest['counts']}")
    return Dataset(
        folder=folder,
        recipe=manifest["recipe"],
        seed=manifest["seed"],
        config=manifest["config"],
        inputs=manifest["inputs"],
        files=manifest["files"],
        sha256=hashlib.sha256(content).hexdigest(),
        prompts_version=manifest["prompts_version"],
        **splits,
    )


def _manifest(folder: Path, content: bytes) -> dict[str, Any]:
    types = {"schema": int, "recipe": str, "seed": int, "prompts_version": int}
    types |= {"config": dict, "inputs": dict, "counts": dict, "files": dict}
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise DatasetInvalid(f"{folder / MANIFEST} is not valid JSON; prepare the dataset again") from None
    if not isinstance(manifest, dict) or set(manifest) != set(types):
        raise DatasetInvalid(f"{folder / MANIFEST} has other fields than {', '.join(types)}; prepare it again")
    if manifest["schema"] != SCHEMA:
        raise DatasetInvalid(f"{folder} was written by another version (schema {manifest['schema']}); prepare it again")
    for name, kind in types.items():
        if not isinstance(manifest[name], kind):
            raise DatasetInvalid(f"{folder / MANIFEST}: {name} is of the wrong type; prepare the dataset again")
    return manifest


def _check_splits(splits: Mapping[str, Sequence[Example]]) -> None:
    if unknown := set(splits) - set(SPLITS):
        raise DatasetInvalid(f"{', '.join(sorted(unknown))}: no such split; there are {', '.join(SPLITS)}")
    if not splits.get("train"):
        raise DatasetInvalid("there is no example to train on")
    seen: set[str] = set()
    for example in (example for rows in splits.values() for example in rows):
        example.check()
        if example.id in seen:
            raise DatasetInvalid(f"two examples have the id {example.id}")
        seen.add(example.id)


def _lines(examples: Sequence[Example]) -> bytes:
    try:
        return "".join(json.dumps(example.row(), ensure_ascii=False) + "\n" for example in examples).encode()
    except UnicodeEncodeError:
        raise DatasetInvalid("an example holds half of a surrogate pair, which is no text") from None


def _read_split(path: Path, files: Mapping[str, str]) -> tuple[Example, ...]:
    if path.name not in files:
        raise DatasetInvalid(f"{path.parent / MANIFEST} does not name {path.name}; prepare the dataset again")
    examples: list[Example] = []
    for number, line in enumerate(_verified(path, files[path.name]).splitlines(), 1):
        try:
            examples.append(Example.from_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise DatasetInvalid(f"{path}, line {number}: {error}") from None
    return tuple(examples)


def _verified(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetInvalid(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DatasetInvalid(f"{path} was changed since the dataset was prepared; prepare it again")
    return content


def check_place(folder: Path, *, replace: bool) -> bool:
    """Tells whether something lies at the folder's place that is to be replaced.

    Raises DatasetInvalid where it must not be: unless `replace` is given and it is a dataset and nothing else.
    """
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not replace:
        raise DatasetInvalid(f"{folder} exists already; name another one, or replace it")
    if occupied and not _is_dataset(folder):
        raise DatasetInvalid(f"{folder} exists already; it is not a dataset, or holds more than one, and is left alone")
    return occupied


def _is_dataset(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return {path.name for path in folder.iterdir()} <= {MANIFEST, *manifest["files"]} and "recipe" in manifest
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def _write_folder(folder: Path, files: Mapping[str, bytes], *, replace: bool) -> None:
    check_place(folder, replace=replace)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        for name, content in files.items():
            with (new / name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        try:
            if check_place(folder, replace=replace):
                folder.rename(old)
            new.rename(folder)
        except BaseException:  # Ctrl-C as well: what was there comes back.
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    finally:
        if folder.exists() or not old.exists():
            shutil.rmtree(scratch, ignore_errors=True)
