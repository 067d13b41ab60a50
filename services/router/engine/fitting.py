"""How many passages a prompt holds."""

from collections.abc import Sequence
from dataclasses import replace

from services.router.domain import Passage, Span
from services.router.engine.faults import is_too_long, prompt_refused
from tandem.errors import InvalidInput

_LEAST_PASSAGE = 400
"""Characters under which a single passage is not cut any further to fit the model's context."""


def fit(passages: Sequence[Passage], max_characters: int) -> tuple[Passage, ...]:
    """Returns the first passages that fit together; the first one is cut rather than left out."""
    kept: list[Passage] = []
    for passage in passages:
        max_characters -= len(passage.text)
        if max_characters < 0 and kept:
            break
        kept.append(_cut(passage, len(passage.text) + min(0, max_characters)))
    return tuple(kept)


def fewer(passages: tuple[Passage, ...], error: InvalidInput) -> tuple[Passage, ...]:
    """Returns less to read after a prompt was refused as too long; raises what the refusal means when nothing helps."""
    if is_too_long(error) and len(passages) > 1:
        return passages[: len(passages) // 2]
    if is_too_long(error) and len(passages[0].text) > _LEAST_PASSAGE:
        return (_cut(passages[0], len(passages[0].text) // 2),)
    raise prompt_refused(error) from error


def _cut(passage: Passage, length: int) -> Passage:
    if length >= len(passage.text):
        return passage
    span = passage.span
    exact = span.end - span.start == len(passage.text)
    return replace(passage, text=passage.text[:length], span=Span(span.start, span.start + length) if exact else span)
