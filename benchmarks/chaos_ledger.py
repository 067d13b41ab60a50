"""What readers may see of documents that change while everything may die: the rules by which chaos is judged."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

ABSENT = 0
"""Stands for "no such document" among the versions, which count from 1."""
_SIGNED = re.compile(r"(paper\d+) version (\d+) part (\d+) of (\d+)\.")
_WORDS = (
    "ledger", "harbour", "claim", "policy", "storm", "notice", "premium", "engine", "survey", "river", "bridge",
    "vessel", "report", "branch", "office", "winter", "letter", "damage", "repair", "valley",
)  # fmt: skip
_PART_CHARACTERS = 520  # two parts do not fit into one chunk


class Piece(NamedTuple):
    """Is what a passage says of itself."""

    document_id: str
    version: int
    part: int
    num_parts: int


def written(document_id: str, version: int) -> str:
    """Returns the text of a version: one to four parts, each of which says whose it is; the same for the same two."""
    source = Random(f"{document_id}/{version}")  # noqa: S311
    parts = source.randint(1, 4)
    told = []
    for part in range(1, parts + 1):
        text = f"{document_id} version {version} part {part} of {parts}."
        while len(text) < _PART_CHARACTERS:
            text += f" {source.choice(_WORDS)}"
        told.append(text)
    return "\n\n".join(told)


def read(text: str) -> Piece | None:
    """Returns what a passage says of itself; None where it is not one whole part."""
    found = _SIGNED.findall(text)
    if len(found) != 1 or not text.startswith(found[0][0]):
        return None
    document_id, version, part, of = found[0]
    return Piece(document_id, int(version), int(part), int(of))


@dataclass(frozen=True)
class Mark:
    """Is a moment: what readers could see then."""

    may: dict[str, frozenset[int]]
    place: int


@dataclass
class Ledger:
    """Knows which versions of each document a reader may see.

    That is one, but for documents with a change that was begun and not acknowledged: there it is any of several.
    """

    names: Sequence[str]
    _may: dict[str, frozenset[int]] = field(init=False)
    _begun: list[tuple[str, int]] = field(default_factory=list)
    _next: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._may = {name: frozenset({ABSENT}) for name in self.names}

    def new_version(self, name: str) -> int:
        """Returns a version that the document never had."""
        self._next[name] += 1
        return self._next[name]

    def begin(self, name: str, version: int) -> None:
        """Notes a change that is on its way."""
        self._may[name] |= {version}
        self._begun.append((name, version))

    def acknowledge(self, name: str, version: int) -> None:
        """Notes that the change is made: from now on nothing else may be seen."""
        self._may[name] = frozenset({version})

    def may(self, name: str) -> frozenset[int]:
        """Returns what may be seen of a document now."""
        return self._may[name]

    def mark(self) -> Mark:
        """Returns this moment."""
        return Mark(dict(self._may), len(self._begun))

    def since(self, mark: Mark) -> dict[str, frozenset[int]]:
        """Returns what may be seen by one who began to look at the mark and ends now."""
        seen = dict(mark.may)
        for name, version in self._begun[mark.place :]:
            seen[name] |= {version}
        return seen


def faults_of_search(passages: Iterable[tuple[str, int, str]], may: dict[str, frozenset[int]]) -> list[str]:
    """Returns what is wrong with the (document_id, start, text) of one search, given what could be seen meanwhile."""
    faults, places, versions = [], set(), dict[str, int]()
    for document_id, start, text in passages:
        piece = read(text)
        if piece is None or piece.document_id != document_id:
            faults.append(f"a passage of {document_id} holds what is no part of it")
            continue
        if (document_id, start) in places:
            faults.append(f"{document_id} has the same chunk twice in one search")
        places.add((document_id, start))
        if versions.setdefault(document_id, piece.version) != piece.version:
            faults.append(f"{document_id} shows two versions in one search")
        if piece.version not in may.get(document_id, frozenset()):
            faults.append(f"{document_id} shows version {piece.version}, {_told(may.get(document_id, frozenset()))}")
    return faults


def faults_of_document(
    name: str, text: str | None, num_chunks: int, found: Sequence[tuple[str, int, str]], may: frozenset[int]
) -> tuple[int, list[str]]:
    """Returns the version that a document is in and what is wrong with it.

    `text` is None where the document is not there; `found` is what a search for its name returned of it.
    """
    if text is None:
        faults = [] if ABSENT in may else [f"{name} is lost, {_told(may)}"]
        if found:
            faults.append(f"{name} is not there, and a search finds {len(found)} chunks of it")
        return ABSENT, faults
    piece = read(text.split("\n\n")[0])
    version = piece.version if piece else -1
    faults = [] if version in may else [f"{name} is there in version {version}, {_told(may)}"]
    if version < 1 or text != written(name, version):
        faults.append(f"{name} has a text that was never written")
        return version, faults
    pieces = [read(said) for _, _, said in found]
    parts = sorted(piece.part for piece in pieces if piece and piece.version == version)
    wanted = list(range(1, len(text.split("\n\n")) + 1))
    if parts != wanted or len(found) != num_chunks:
        faults.append(f"{name} has the parts {wanted} in {num_chunks} chunks, and a search finds {parts}")
    return version, faults


def _told(may: frozenset[int]) -> str:
    names = ", ".join("none" if version == ABSENT else f"version {version}" for version in sorted(may))
    return f"but only this may be seen: {names}"
