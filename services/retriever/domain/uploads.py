"""Documents on their way in, what becomes of them, and the port by which they enter."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.retriever.domain.documents import Header
from tandem.errors import TandemError
from tandem.security import Principal


class State(Enum):
    """Is the fate of a document."""

    INDEXED = "indexed"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"


class Origin(Enum):
    """Is how a document came; all but a stream's work in the background, in less room."""

    STREAM = "stream"
    JOB = "job"
    FOLDER = "folder"
    FEED = "feed"


@dataclass(frozen=True)
class Upload:
    """Is a document that has arrived; fault says why it cannot be taken, if it cannot.

    appeared is when the whole of it was there to be taken, in seconds since 1970.
    """

    document_id: str
    header: Header
    data: bytes
    fault: TandemError | None = None
    appeared: float | None = None


@dataclass(frozen=True)
class Result:
    """Is what became of one document."""

    document_id: str
    state: State
    content_sha256: str
    num_chunks: int = 0
    error: TandemError | None = None


@dataclass
class Timings:
    """Sums the seconds that a stream's documents spent in each stage, waiting for its turn included."""

    parse: float = 0.0
    embed: float = 0.0
    write: float = 0.0


class Intake(Protocol):
    """Takes documents in."""

    def run(
        self,
        principal: Principal,
        uploads: AsyncIterator[Upload],
        timings: Timings,
        *,
        origin: Origin = Origin.STREAM,
    ) -> AsyncGenerator[Result, None]:
        """Yields the results in the order of arrival, each when its document is visible to searches.

        Raises Overloaded when too many streams run, Unavailable when a part is down.
        """
        ...
