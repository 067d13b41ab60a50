"""Widens passages by the chunks before and after them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.retriever.domain import DocumentKey, Near, Passage
from services.retriever.engine.fusion import Candidate


@dataclass(frozen=True)
class Range:
    """Is a run of chunks of one version around the passage that was found; ordinals and characters."""

    key: DocumentKey
    found: int  # index of the best candidate in it
    first: int
    last: int
    start: int
    end: int

    def meets(self, other: "Range") -> bool:
        """Tells whether no chunk lies between the two."""
        return self.key == other.key and self.first <= other.last + 1 and other.first <= self.last + 1

    def joined(self, other: "Range") -> "Range":
        """Returns both as one, in the name of the better."""
        return replace(
            self,
            found=min(self.found, other.found),
            first=min(self.first, other.first),
            last=max(self.last, other.last),
            start=min(self.start, other.start),
            end=max(self.end, other.end),
        )


def ranges(candidates: Sequence[Candidate], near: Mapping[str, Sequence[Near]]) -> list[Range]:
    """Returns the ranges that candidates become, those that meet joined, ordered by the best of each."""
    result: list[Range] = []
    for index, candidate in enumerate(candidates):
        new = _around(index, candidate, near.get(candidate.hit.row_id, ()))
        for other in [known for known in result if known.meets(new)]:
            result.remove(other)
            new = other.joined(new)
        result.append(new)
    return sorted(result, key=lambda item: item.found)


def widened(passages: Sequence[Passage], wider: Sequence[Range], texts: Sequence[str | None]) -> list[Passage]:
    """Returns the passage found in each range with the range's text; as it was where the text is gone."""
    result = []
    for item, text in zip(wider, texts, strict=True):
        passage = passages[item.found]
        span = (item.start, item.end)
        if text is not None and span != (passage.chunk.start, passage.chunk.end):
            passage = replace(passage, text=text, span=span)
        result.append(passage)
    return result


def _around(index: int, candidate: Candidate, near: Sequence[Near]) -> Range:
    """Returns the unbroken run of chunks that holds the candidate; a row may just have been removed."""
    hit = candidate.hit
    by_ordinal = {place.ordinal: place for place in near}
    by_ordinal[hit.ordinal] = Near(hit.ordinal, hit.chunk.start, hit.chunk.end)
    first = last = hit.ordinal
    while first - 1 in by_ordinal:
        first -= 1
    while last + 1 in by_ordinal:
        last += 1
    return Range(
        key=hit.key,
        found=index,
        first=first,
        last=last,
        start=by_ordinal[first].start,
        end=by_ordinal[last].end,
    )
