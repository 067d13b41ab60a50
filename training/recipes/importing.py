"""Turns checked rows of users' files into what the recipes take; names what a recipe cannot use."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from training.data import rows as data
from training.recipes.asked import Asked, Document, Labelled, RecipeInvalid, Written

KINDS = {
    "closed-book": ("question_answer", "instruction"),
    "raft": ("question_answer",),
    "style": ("style", "instruction"),
    "classification": ("classification",),
}
"""The kinds of rows that each recipe takes, the usual one first."""


def asked(rows: Iterable[data.Row]) -> Iterator[Asked]:
    """Yields the questions, each given paraphrase as a question of its own."""
    for row in rows:
        if isinstance(row, data.QuestionAnswer):
            documents = (document_id(row),) if row.context else (row.document_id,) if row.document_id else ()
            for number, text in enumerate((row.question, *row.paraphrases)):
                name = f"{row.id}~p{number}" if number else row.id
                group = row.group or row.id
                yield Asked(
                    id=name,
                    group=group,
                    question=text,
                    answers=row.answers,
                    documents=documents,
                    origin=row.origin,
                )
        elif isinstance(row, data.Instruction):
            group = row.group or row.id
            yield Asked(id=row.id, group=group, question=row.asked(), answers=(row.output,), origin=row.origin)
        else:
            raise RecipeInvalid(f"{row.origin or row.id}: a row of the kind {row.kind} asks no question")


def contexts(rows: Iterable[data.Row]) -> list[Document]:
    """Returns the passages that came with the questions, each once, as documents to read from."""
    found: dict[str, Document] = {}
    for row in rows:
        if isinstance(row, data.QuestionAnswer) and row.context:
            found.setdefault(document_id(row), Document(document_id(row), row.context, row.title))
    return list(found.values())


def document_id(row: data.QuestionAnswer) -> str:
    """Returns the id of the passage that came with a question; several may be of one document."""
    digest = hashlib.sha256(row.context.encode()).hexdigest()[:12]
    return f"{row.document_id}#{digest}" if row.document_id else digest


def documents(rows: Iterable[data.Row]) -> list[Document]:
    """Returns raw documents."""
    return [Document(row.document_id, row.text, row.title) for row in rows if isinstance(row, data.Document)]


def written(rows: Iterable[data.Row]) -> Iterator[Written]:
    """Yields texts with what they were written from."""
    for row in rows:
        kind = row.category or "text"
        if isinstance(row, data.Style):
            yield Written(id=row.id, group=row.group or row.id, prompt=row.prompt, text=row.text, kind=kind)
        elif isinstance(row, data.Instruction):
            yield Written(id=row.id, group=row.group or row.id, prompt=row.asked(), text=row.output, kind=kind)
        else:
            raise RecipeInvalid(f"{row.origin or row.id}: a row of the kind {row.kind} is no text in a style")


def labelled(rows: Sequence[data.Row]) -> Iterator[Labelled]:
    """Yields texts with their labels."""
    for row in rows:
        if not isinstance(row, data.Labelled):
            raise RecipeInvalid(f"{row.origin or row.id}: a row of the kind {row.kind} has no label")
        yield Labelled(id=row.id, group=row.group or row.id, text=row.text, label=row.label, origin=row.origin)
