"""Leaves out passages whose text has been seen: the same notice in two folders answers once."""

from collections.abc import Iterable

from services.retriever.engine.fusion import Candidate


def without_duplicates(candidates: Iterable[Candidate], *, most: int) -> list[Candidate]:
    """Returns the first candidate of each text, so many at most; case and white space make no difference."""
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(" ".join(candidate.hit.text.casefold().split()), candidate)
        if len(seen) >= most:
            break
    return list(seen.values())
