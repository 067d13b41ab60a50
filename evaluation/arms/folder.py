"""Reads a folder to measure arms on.

    questions.jsonl     the questions, see evaluation.answers.questions
    documents.jsonl     {"document_id", "title", "text"} a line; optional, or
    documents/          files as `tandem ingest` takes them; neither: the services hold them already
    train.jsonl         what the adapter learnt: `question` and whatever else; optional
    calibration.jsonl   questions for `tandem calibrate`; optional

No question may stand in two of the three files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.answers.questions import Question, lines, read
from tandem.cli.documents import find
from tandem.client import Upload
from tandem.errors import InvalidInput

OTHERS = ("train.jsonl", "calibration.jsonl")
_MAX_TITLE = 512


@dataclass(frozen=True)
class Folder:
    """Is a folder that was read; documents stay on disk."""

    path: Path
    questions: tuple[Question, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def has_documents(self) -> bool:
        """Tells whether the folder brings documents."""
        return (self.path / "documents.jsonl").is_file() or (self.path / "documents").is_dir()

    def uploads(self) -> Iterator[Upload]:
        """Yields the documents; raises InvalidInput with file and line for what cannot be used."""
        path = self.path / "documents.jsonl"
        if not path.is_file():
            yield from find(self.path / "documents", groups=())
            return
        for line, row in lines(path):
            name, title, text = row.get("document_id"), row.get("title") or "", row.get("text")
            if not (
                isinstance(name, str) and name and isinstance(title, str) and isinstance(text, str) and text.strip()
            ):
                raise InvalidInput(f"{path}, line {line}: document_id and text are strings that are not empty")
            yield Upload(
                document_id=name,
                source="-",
                media_type="text/plain",
                data=text.encode(),
                title=" ".join(title.split())[:_MAX_TITLE],
            )


def read_folder(path: Path) -> Folder:
    """Reads a folder; raises InvalidInput for what cannot be used, and where splits overlap."""
    if not (path / "questions.jsonl").is_file():
        raise InvalidInput(f"{path} has no questions.jsonl; `tandem evaluate arms --help` says what a folder holds")
    questions = read(path / "questions.jsonl")
    asked = {" ".join(one.question.lower().split()) for one in questions if not one.history}
    for name in OTHERS:
        other = path / name
        if not other.is_file():
            continue
        for line, row in lines(other):
            text = row.get("question")
            if isinstance(text, str) and not row.get("history") and " ".join(text.lower().split()) in asked:
                raise InvalidInput(
                    f"{other}, line {line}: that question is asked in questions.jsonl as well; split first"
                )
    return Folder(path, questions)
