"""What a live source shows at one moment."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.retriever.domain.uploads import Origin, Upload

MARK = "live_source"
"""The attribute by which a document names the source that it came from."""
_MAX_ID = 128


class SourceFault(Exception):
    """Says why a source cannot be looked at; the message tells the operator what to do."""


@dataclass(frozen=True)
class Item:
    """Is one document that a source shows.

    The stamp changes when the content may have changed; changed is when it did, in seconds since 1970, as far as the
    source tells. load returns the document, or None where it is just being changed or is gone.
    """

    document_id: str
    stamp: object
    changed: float
    load: Callable[[], Awaitable[Upload | None]]


@dataclass(frozen=True)
class Look:
    """Is all that a source shows; faults say what of it could not be read, and keep documents from being deleted."""

    items: Sequence[Item]
    faults: Sequence[str] = ()


class Source(Protocol):
    """Shows documents."""

    @property
    def origin(self) -> Origin:
        """How its documents come."""
        ...

    async def look(self) -> Look | None:
        """Returns what there is, None where nothing has changed since it was accepted; raises SourceFault."""
        ...

    def accept(self) -> None:
        """Says that all of the last look has been dealt with."""
        ...

    async def close(self) -> None:
        """Lets go of files and connections."""
        ...


def document_id(source: str, identity: str) -> str:
    """Returns a well-formed id for what a source calls so, the same one each time and another for anything else."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", identity.lower()).strip("-._")
    if slug == identity and len(source) + 1 + len(slug) <= _MAX_ID:
        return f"{source}.{slug}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{source}.{slug[: _MAX_ID - len(source) - 2 - len(digest)]}-{digest}"
