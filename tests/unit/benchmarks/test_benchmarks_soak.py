"""What the soak takes for an orderly end of a call, and what for a fault."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.soak_calls import Calls, Ended
from tandem.errors import DeadlineExceeded, Internal, InvalidInput, NotFound, Overloaded, Unavailable
from tandem.v1 import generator_service_pb2 as pb

STARTED = pb.StreamGenerateResponse(started=pb.GenerationStarted(input_tokens=3))
DELTA = pb.StreamGenerateResponse(delta=pb.GenerationDelta(text="a"))
FINISHED = pb.StreamGenerateResponse(finished=pb.GenerationFinished(finish_reason=pb.FINISH_REASON_STOP))
FINISHED.finished.usage.output_tokens = 1


class Scripted:
    """Answers a stream with the given events, then with an error if there is one."""

    def __init__(self, *events: pb.StreamGenerateResponse, error: Exception | None = None) -> None:
        self._events, self._error = events, error

    async def stream(self, request: pb.GenerateRequest, *, timeout: float) -> AsyncIterator[Any]:
        for event in self._events:
            yield event
        if self._error is not None:
            raise self._error


class Draws(random.Random):
    """Draws at random, but always or never below a tenth: so likely is a caller in a hurry."""

    def __init__(self, *, hurried: bool) -> None:
        super().__init__(1)
        self._hurried = hurried

    def random(self) -> float:
        return super().random() * 0.1 if self._hurried else 0.1 + 0.9 * super().random()


async def ended(client: Scripted, *, hurried: bool = False) -> Ended:
    calls = Calls("some text of documents " * 50, Draws(hurried=hurried), ["a"])
    drawn = (calls.draw() for _ in range(100))
    call = next(call for kind, call, _ in drawn if kind == "stream")
    return await call(client)  # type: ignore[arg-type]


async def test_a_stream_ends_with_one_finished() -> None:
    assert await ended(Scripted(STARTED, DELTA, DELTA, FINISHED)) == Ended("stop")


@pytest.mark.parametrize(
    "events",
    [
        (STARTED, DELTA),
        (DELTA, FINISHED),
        (STARTED, FINISHED, FINISHED),
        (STARTED, FINISHED, DELTA),
        (STARTED, STARTED, FINISHED),
        (),
    ],
)
async def test_any_other_order_is_a_fault(events: tuple[pb.StreamGenerateResponse, ...]) -> None:
    assert (await ended(Scripted(*events))).fault


async def test_only_a_caller_in_a_hurry_may_miss_its_deadline() -> None:
    late = Scripted(STARTED, error=DeadlineExceeded("late"))
    assert not (await ended(late, hurried=True)).fault
    assert (await ended(late, hurried=False)).fault


@pytest.mark.parametrize("error", [NotFound("none"), Overloaded("full", retry_after_s=9)])
async def test_a_status_that_the_load_calls_for_is_none(error: Exception) -> None:
    outcome = await ended(Scripted(STARTED, error=error))
    assert not outcome.fault
    assert outcome.wait_s <= 3


@pytest.mark.parametrize("error", [Internal("bug"), Unavailable("gone"), InvalidInput("what?")])
async def test_any_other_status_is_a_fault(error: Exception) -> None:
    assert (await ended(Scripted(error=error))).fault


def test_every_kind_of_call_is_drawn() -> None:
    calls = Calls("some text of documents " * 50, random.Random(1), ["a"])
    assert {calls.draw()[0] for _ in range(500)} == {"stream", "generate", "blend", "score", "sample", "too long"}
