"""Ingestions in the background."""

from dataclasses import dataclass, replace
from enum import Enum

from services.retriever.domain.uploads import State
from tandem.security import Principal


class JobState(Enum):
    """Is where a job stands."""

    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Job:
    """Is a job as it stands; the principal is who created it, and whose rights its documents have."""

    job_id: str
    principal: Principal
    num_documents: int
    create_time: int
    state: JobState = JobState.RUNNING
    num_indexed: int = 0
    num_unchanged: int = 0
    num_rejected: int = 0
    end_time: int | None = None

    @property
    def num_results(self) -> int:
        """How many documents have a result; they are the first ones, for results keep the order of arrival."""
        return self.num_indexed + self.num_unchanged + self.num_rejected

    def counting(self, state: State) -> "Job":
        """Returns the job with one more result."""
        name = f"num_{state.value}"
        return replace(self, **{name: getattr(self, name) + 1})
