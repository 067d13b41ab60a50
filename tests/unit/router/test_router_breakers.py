"""What opens a breaker, what closes it, and what it does not count."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import pytest
from prometheus_client import CollectorRegistry

from services.router.backend import BREAKER_OPEN, Breaker
from services.router.metrics import RouterMetrics
from tandem import errors

DOWN = errors.Unavailable("connection refused")
FAILURES = (DOWN, errors.Internal("UNKNOWN: x"), errors.DeadlineExceeded("late"))
REFUSALS = (
    errors.Overloaded("full", retry_after_s=1.0),
    errors.TooLarge("x"),
    errors.InvalidInput("x"),
    errors.NotFound("x"),
    errors.PermissionDenied("x"),
    errors.FailedPrecondition("x"),
    errors.Unimplemented("x"),
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """Is a breaker of three failures and ten seconds, and the calls of a test through it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.registry = CollectorRegistry()
        self.breaker = Breaker(
            "embedder", max_failures=3, open_s=10.0, metrics=RouterMetrics(self.registry), clock=clock
        )
        self.reached = 0

    def call(self, error: Exception | None = None, *, timeout_s: float = 5.0) -> None:
        with self.breaker.calling(timeout_s):
            self.reached += 1
            if error is not None:
                raise error

    def fail(self, *failures: errors.TandemError, timeout_s: float = 5.0) -> None:
        for error in failures:
            with pytest.raises(type(error)):
                self.call(error, timeout_s=timeout_s)

    async def stream(self, *pieces: str, error: Exception | None = None) -> AsyncGenerator[str, None]:
        with self.breaker.calling(5.0) as answering:
            for piece in pieces:
                answering()
                yield piece
            if error is not None:
                raise error

    @property
    def level(self) -> float | None:
        return self.registry.get_sample_value("tandem_router_breaker_state", {"component": "embedder"})


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    clock = Clock()
    monkeypatch.setattr("circuitbreaker.monotonic", clock)
    return Peer(clock)


def refusal(peer: Peer) -> errors.Unavailable:
    with pytest.raises(errors.Unavailable) as caught:
        peer.call()
    assert caught.value.reason == BREAKER_OPEN
    return caught.value


def test_failures_in_a_row_open_it_and_then_nothing_is_sent(peer: Peer):
    peer.fail(*FAILURES)
    assert (peer.breaker.state, peer.level, peer.reached) == ("open", 2, 3)
    peer.clock.now += 4.0
    error = refusal(peer)
    assert error.metadata == {"component": "embedder"}
    assert error.retry_after_s == 6.0
    assert peer.reached == 3


def test_a_success_between_them_begins_the_count_anew(peer: Peer):
    peer.fail(DOWN, DOWN)
    peer.call()
    peer.fail(DOWN, DOWN)
    assert peer.breaker.state == "closed"
    peer.fail(DOWN)
    assert peer.breaker.state == "open"


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_peer_that_refuses_lives(peer: Peer, error: errors.TandemError):
    peer.fail(*[error] * 9)
    peer.fail(DOWN, DOWN, error, DOWN, DOWN)
    assert peer.breaker.state == "closed"


@pytest.mark.parametrize("error", [errors.Cancelled("x"), asyncio.CancelledError()], ids=["status", "task"])
def test_a_cancelled_call_counts_as_nothing(peer: Peer, error: BaseException):
    peer.fail(DOWN, DOWN)
    with pytest.raises(type(error)), peer.breaker.calling(5.0):
        raise error
    assert peer.breaker.state == "closed"
    peer.fail(DOWN)
    assert peer.breaker.state == "open"


def test_a_cancellation_at_the_end_of_its_time_is_a_deadline(peer: Peer):
    for _ in range(3):
        with suppress(asyncio.CancelledError), peer.breaker.calling(2.0):
            peer.clock.now += 1.9
            raise asyncio.CancelledError
    assert peer.breaker.state == "open"


def test_a_deadline_too_near_says_nothing_of_the_peer(peer: Peer):
    peer.fail(*[errors.DeadlineExceeded("late")] * 9, timeout_s=0.2)
    assert peer.breaker.state == "closed"


def test_after_its_time_one_call_tries_and_its_success_closes_it(peer: Peer):
    peer.fail(*FAILURES)
    peer.clock.now += 10.0
    assert peer.level == 1
    with peer.breaker.calling(5.0):
        assert refusal(peer).retry_after_s == 1.0
    assert (peer.breaker.state, peer.level) == ("closed", 0)
    peer.call()


def test_a_trial_that_fails_opens_it_again_for_the_whole_time(peer: Peer):
    peer.fail(*FAILURES)
    peer.clock.now += 10.0
    peer.fail(DOWN)
    assert refusal(peer).retry_after_s == 10.0


def test_a_trial_whose_caller_leaves_lets_the_next_call_try(peer: Peer):
    peer.fail(*FAILURES)
    peer.clock.now += 10.0
    with pytest.raises(asyncio.CancelledError):
        with peer.breaker.calling(5.0):
            raise asyncio.CancelledError
    assert peer.breaker.state == "half_open"
    peer.call()
    assert peer.breaker.state == "closed"


def test_a_trial_that_is_refused_closes_it(peer: Peer):
    peer.fail(*FAILURES)
    peer.clock.now += 10.0
    peer.fail(errors.Overloaded("full", retry_after_s=1.0))
    assert peer.breaker.state == "closed"


@pytest.mark.parametrize("error", [DOWN, None], ids=["failure", "success"])
def test_results_of_calls_that_began_before_it_opened_do_not_count(peer: Peer, error: errors.TandemError | None):
    with suppress(errors.Unavailable), peer.breaker.calling(60.0):
        peer.fail(*FAILURES)
        peer.clock.now += 6.0
        if error is not None:
            raise error
    assert peer.breaker.state == "open"
    peer.clock.now += 4.0
    assert peer.breaker.state == "half_open"


async def test_a_stream_that_breaks_off_counts_and_one_that_is_left_does_not(peer: Peer):
    for _ in range(2):
        with pytest.raises(errors.Unavailable):
            assert [piece async for piece in peer.stream("a", error=DOWN)] == ["a"]
    async with aclosing(peer.stream("a", "b")) as left:
        assert await anext(left) == "a"
    assert peer.breaker.state == "closed"
    with pytest.raises(errors.Unavailable):
        assert [piece async for piece in peer.stream(error=DOWN)] == []
    assert peer.breaker.state == "open"


async def test_a_stream_on_trial_closes_it_when_it_begins_to_answer(peer: Peer):
    peer.fail(*FAILURES)
    peer.clock.now += 10.0
    async with aclosing(peer.stream("a", "b")) as trial:
        assert await anext(trial) == "a"
        assert peer.breaker.state == "closed"
        peer.call()


async def test_a_long_text_that_meets_its_deadline_is_no_failure(peer: Peer):
    for _ in range(9):
        with pytest.raises(errors.DeadlineExceeded):
            assert [piece async for piece in peer.stream("a", error=errors.DeadlineExceeded("late"))] == ["a"]
    assert peer.breaker.state == "closed"


def test_each_change_is_logged_once(peer: Peer, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "services.router.backend.breakers")
    peer.fail(*FAILURES)
    refusal(peer)
    peer.clock.now += 10.0
    peer.call()
    peer.call()
    told = [(record.component, record.state) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [("embedder", "open"), ("embedder", "half_open"), ("embedder", "closed")]
