"""What the models are told: one place for serving and training, so that an adapter meets the words it learned.

A change here makes every trained adapter worse until it is trained again; PROMPTS_VERSION goes into training records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PROMPTS_VERSION = 1
ABSTENTION = "The passages do not answer this."
_CLOSED_BOOK = "Answer the question about the company's terms and procedures. Answer briefly."
_READING = (
    "Answer the question from the passages alone. Answer briefly, in their words. "
    f'If they do not hold the answer, say "{ABSTENTION}"'
)


_WRITING = "Write the {kind} that the brief asks for, in the house style. Say nothing that the brief does not say."
_CLASSIFYING = "Name the class of the text. Answer with the name alone."
_MAX_LISTED = 30


@dataclass(frozen=True)
class Message:
    """Is one turn of a chat prompt; role is "system", "user" or "assistant"."""

    role: str
    content: str


def passage(title: str, text: str) -> str:
    """Returns a passage as a prompt shows it: a chunk alone often does not name what it is about."""
    return f"{title}\n{text}"


def closed_book(question: str) -> list[Message]:
    """Returns the prompt by which an adapter answers from its weights."""
    return [Message("system", _CLOSED_BOOK), Message("user", question)]


def reading(question: str, passages: Sequence[str]) -> list[Message]:
    """Returns the prompt by which a question is answered from passages, the best passage first."""
    listed = "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, 1))
    return [Message("system", _READING), Message("user", f"{listed}\n\nQuestion: {question}")]


def writing(brief: str, kind: str = "text") -> list[Message]:
    """Returns the prompt by which a text is written in the house style; kind says what sort: "letter", "summary"."""
    return [Message("system", _WRITING.format(kind=kind)), Message("user", brief)]


def classifying(text: str, labels: Sequence[str]) -> list[Message]:
    """Returns the prompt by which a text is classified; a long list of labels is learnt, not shown."""
    listed = f" The classes: {', '.join(labels)}." if len(labels) <= _MAX_LISTED else ""
    return [Message("system", _CLASSIFYING + listed), Message("user", text)]
