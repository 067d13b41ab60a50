"""A gate before the steps of a served model: a test says how many are taken, and when."""

import asyncio
import threading

import pytest

from services.generator.backend.runner import PagedRunner
from services.generator.domain import Step, StepResult


class Gate:
    """Lets a model take as many steps as it was allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_begun = 0
        self.num_steps = 0
        self._permits = threading.Semaphore(0)
        self._closed = False
        run = PagedRunner.run

        def held(runner: PagedRunner, step: Step) -> StepResult:
            if self._closed:
                self.num_begun += 1
                if not self._permits.acquire(timeout=60):
                    raise TimeoutError("nobody let the step through")
                self.num_steps += 1
            return run(runner, step)

        monkeypatch.setattr(PagedRunner, "run", held)

    def close(self) -> None:
        """Holds every step from now on."""
        self._closed = True

    def allow(self, num_steps: int) -> None:
        """Lets so many held or coming steps go."""
        self._permits.release(num_steps)

    async def holds(self, number: int) -> None:
        """Waits until the step of this number, counted from 1, is held."""
        for _ in range(6_000):
            if self.num_begun >= number:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError(f"step {number} never began")
