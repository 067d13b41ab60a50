"""Holds what the recipes make examples from, whatever file it came from."""

import hashlib
from dataclasses import dataclass


class RecipeInvalid(ValueError):
    """Says why a recipe cannot work with these rows, and what to bring instead."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Is a question with the answers that count as right."""

    id: str
    """Unique among the questions."""
    group: str
    """What is asked about: a fact, a thread, a document."""
    question: str
    answers: tuple[str, ...]
    """The first of them is the one to learn; none where nothing answers the question."""
    documents: tuple[str, ...] = ()
    """Ids of the documents in which an answer may stand; none: any."""
    origin: str = ""
    """File and line that it came from, for the report."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Is a text in the style to learn, with what it was written from."""

    id: str
    group: str
    prompt: str
    text: str
    kind: str = "text"
    """What sort of text: "letter", "summary"."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Is a text with its class."""

    id: str
    group: str
    text: str
    label: str
    origin: str = ""
    """File and line that it came from, for the report."""


@dataclass(frozen=True)
class Document:
    """Is a source that passages are cut from."""

    document_id: str
    text: str
    title: str = ""


def drawn(seed: int, *names: str) -> float:
    """Returns a number from 0 to below 1 that depends on the seed and the names alone.

    So a choice stays as it is when other rows come or go.
    """
    digest = hashlib.sha256("\x1f".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
