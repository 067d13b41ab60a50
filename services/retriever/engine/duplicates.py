"""Leaves out passages whose text has been seen: the same notice in two folders answers once."""

from collections.abc import Iterable

from services.retriever.engine.fusion import Candidate


def without_duplicates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns the first candidate of each text; case and white space make no difference."""
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(" ".join(candidate.hit.text.casefold().split()), candidate)
    return list(seen.values())
