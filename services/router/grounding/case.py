"""An answer beside its passages, taken apart: what is said, and the parts that may say it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from services.router.domain import Passage
from services.router.grounding.lexical import ranked, tied
from services.router.grounding.text import Sentence, claims, content_of, terms_of
from services.router.grounding.windows import Window, windows_of

MAX_SENTENCES = 32
"""Most sentences of an answer; what follows belongs to the last."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Is an answer's sentences (claims) and the windows of its passages; either may be none."""

    question: str
    answer: str
    passages: Sequence[Passage]
    claims: Sequence[Sentence]
    windows: Sequence[Window]

    @cached_property
    def asked(self) -> frozenset[str]:
        """Are the content words of the question."""
        return content_of(terms_of(self.question))

    @cached_property
    def nearest(self) -> Sequence[Sequence[tuple[float, int]]]:
        """Are (coverage, place) of all windows for each claim, best first; empty rows where there is no window."""
        return [ranked(claim, self.windows) for claim in self.claims]

    @cached_property
    def tied(self) -> Sequence[int | None]:
        """Is the place of the window that says each claim, None where none does."""
        return [tied(claim, self.windows, self.asked) for claim in self.claims]

    def text(self, claim: Sentence) -> str:
        """Returns a claim as it was written."""
        return self.answer[claim.start : claim.end]

    def shortlist(self, most: int) -> list[int]:
        """Returns the places of at most so many windows: the best of each claim in turn, then the second best, ..."""
        turns = (row[rank][1] for rank in range(len(self.windows)) for row in self.nearest)
        return sorted(list(dict.fromkeys(turns))[: max(1, most)])


def case_of(question: str, answer: str, passages: Sequence[Passage]) -> Case:
    """Takes an answer and its passages apart."""
    return Case(
        question=question,
        answer=answer,
        passages=passages,
        claims=_bounded(claims(answer)),
        windows=windows_of(passages),
    )


def _bounded(said: list[Sentence]) -> list[Sentence]:
    if len(said) <= MAX_SENTENCES:
        return said
    rest = said[MAX_SENTENCES - 1 :]
    last = replace(
        rest[0],
        end=rest[-1].end,
        terms=tuple(term for one in rest for term in one.terms),
        content=frozenset().union(*(one.content for one in rest)),
        units={figure: units for one in rest for figure, units in one.units.items()},
        negated=any(one.negated for one in rest),
    )
    return [*said[: MAX_SENTENCES - 1], last]
