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
