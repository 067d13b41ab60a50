"""The stages of one answer: timed, traced, and bounded by their share of the deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry.trace import Tracer

from services.router.domain import StageTiming
from services.router.engine.budget import Budget
from services.router.engine.faults import translate
from tandem.errors import TandemError


class Stages:
    """Keeps the time of each stage; those that run at the same time overlap."""

    def __init__(self, budget: Budget, tracer: Tracer) -> None:
        self.budget = budget
        self._tracer = tracer
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def note(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time; stages keep the order in which they began."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def before(self, stage: str, seconds: float) -> None:
        """Adds a stage that ended just before the first one here began; the total has it too."""
        self.note(stage, seconds)
        self._start -= seconds

    def timings(self) -> tuple[StageTiming, ...]:
        """Returns the stages so far, "total" last."""
        total = StageTiming("total", time.perf_counter() - self._start)
        return (*(StageTiming(stage, seconds) for stage, seconds in self._seconds.items()), total)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Times a block as a stage."""
        self.note(stage, 0.0)
        start = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"router.{stage}", record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            finally:
                self.note(stage, time.perf_counter() - start)

    @asynccontextmanager
    async def part(self, component: str, stage: str, *, share: float) -> AsyncIterator[float]:
        """Times a stage that asks a part, bounds it by its share, and turns the part's failures into PartDown."""
        limit_s = self.budget.share(share)
        with self.timed(stage):
            try:
                async with asyncio.timeout(limit_s):
                    yield limit_s
            except (TandemError, TimeoutError) as error:
                raise translate(error, component=component, limit_s=limit_s, budget=self.budget) from error
