"""Runs the scheduler's steps in one worker thread, and serves callers from the event loop.

All state lives on the event loop. Between two steps there is only what
decides the next one; callers are answered while the model computes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import Tracer

from services.generator.domain import (
    Event,
    Feature,
    Finished,
    GenerateInput,
    Limits,
    ModelInfo,
    NotFinite,
    NotLoaded,
    Pin,
    Runner,
    Score,
    ScoreInput,
    Started,
    Step,
    StepResult,
    Tokenizer,
    Usage,
)
from services.generator.engine.blocks import BlockPool
from services.generator.engine.bookkeeping import Bookkeeping
from services.generator.engine.door import Door
from services.generator.engine.flight import Flight
from services.generator.engine.intake import Intake
from services.generator.engine.pace import Pace
from services.generator.engine.pins import PinnedCall, PinnedEvents
from services.generator.engine.scheduler import Scheduler
from services.generator.engine.sequence import Sequence
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Cancelled, FailedPrecondition, Internal, TandemError, Unavailable

log = logging.getLogger(__name__)


class Engine:
    """Generates and scores on a runner: the Backend port.

    on_failure is called once if the loop ends by a bug; the engine then
    refuses every call with Unavailable.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits,
        metrics: GeneratorMetrics,
        tracer: Tracer,
        features: frozenset[Feature] = frozenset(Feature),
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.features = features
        self._runner = runner
        self._tracer = tracer
        self._on_failure = on_failure
        self._scheduler = Scheduler(
            limits=limits,
            pool=BlockPool(
                runner.num_blocks, runner.block_size, sharing=limits.prefix_sharing and runner.shares_blocks
            ),
            pace=Pace(
                max_tokens=limits.max_prefill_tokens,
                min_tokens=runner.block_size,
                max_stretch=limits.max_step_stretch,
            ),
        )
        door = Door(max_waiting=limits.max_waiting, max_running=limits.max_running)
        self._books = Bookkeeping(scheduler=self._scheduler, door=door, metrics=metrics)
        self._intake = Intake(
            tokenizer=tokenizer, model=model, features=features, scheduler=self._scheduler, tracer=tracer
        )
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator-model")
        self._future: asyncio.Future[tuple[StepResult, float]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Starts the loop."""
        self._task = asyncio.create_task(self._run(), name="generator-engine")

    async def stop(self) -> None:
        """Ends the loop after the step in progress; what is left fails with Unavailable."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        await asyncio.to_thread(self._thread.shutdown)

    def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        """Yields Started, a Delta for each token, and Finished; closing the iterator frees the slot within one step.

        Raises what Backend.generate names; takes over the pins.
        """
        return PinnedEvents(self._generate(request), request.pins)

    def score(self, request: ScoreInput) -> Coroutine[Any, Any, tuple[list[Score], Usage]]:
        """Returns the score of each item, in order, and what all cost; raises as generate does."""
        pins = () if request.pin is None else (request.pin,)
        return PinnedCall(self._score(request, pins), pins)

    async def _score(self, request: ScoreInput, pins: tuple[Pin, ...]) -> tuple[list[Score], Usage]:
        with self._arrival(request, pins):
            reply = await self._intake.scoring(request)
            self._check_serving()
        for sequence in reply.sequences:
            self._books.add(sequence, reply)
        self._wake.set()
        with self._tracer.start_as_current_span("generator.score") as span:
            span.set_attribute("gen_ai.request.model", self.model.name)
            span.set_attribute("gen_ai.usage.input_tokens", reply.usage().input_tokens)
            try:
                await reply.complete
            finally:
                for sequence in reply.sequences:
                    self._cancel(sequence)
        return reply.scores(), reply.usage()

    async def _generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        with self._arrival(request, request.pins):
            sequence, reply = await self._intake.generation(request)
            self._check_serving()
        self._books.add(sequence, reply)
        self._wake.set()
        span = self._tracer.start_span("generator.sequence")
        input_tokens = sum(stream.num_prompt for stream in sequence.streams)
        span.set_attribute("gen_ai.request.model", self.model.name)
        span.set_attribute("gen_ai.usage.input_tokens", input_tokens)
        try:
            yield Started(reply.lineages[0], input_tokens)
            while True:
                event = await reply.events.get()
                if isinstance(event, TandemError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            span.set_attribute("gen_ai.usage.output_tokens", reply.num_tokens)
            span.end()
            self._cancel(sequence)

    @contextmanager
    def _arrival(self, request: GenerateInput | ScoreInput, pins: Collection[Pin]) -> Iterator[None]:
        """Holds a call's place at the door until its sequences are made; a call that fails before loses its pins."""
        try:
            self._check_serving()
            self._intake.check(request)
            self._books.enter(request.tenant)
            try:
                yield
            except BaseException:
                self._books.turn_away(request.tenant)
                raise
        except BaseException:
            for pin in pins:
                pin.release()
            raise

    def _check_serving(self) -> None:
        if self._task is None or self._stopping or self._task.done():
            raise Unavailable("the generator is not running")

    def _cancel(self, sequence: Sequence) -> None:
        if not sequence.done:
            self._scheduler.cancel(sequence, Cancelled("the caller left"), now=time.monotonic())
            self._wake.set()

    async def _run(self) -> None:
        error: TandemError = Unavailable("the generator is stopping")
        try:
            await self._serve()
        except Exception:
            log.exception("the engine failed")
            error = Internal("the engine failed")
            self._stopping = True
            if self._on_failure is not None:
                self._on_failure()
        finally:
            self._stopping = True
            if self._future is not None:
                await asyncio.wait({self._future})
            self._books.abandon(error)

    async def _serve(self) -> None:
        """Computes steps while there is something to compute, and sleeps while there is not."""
        measured: tuple[Flight, float] | None = None
        while not self._stopping:
            self._wake.clear()
            now = time.monotonic()
            self._scheduler.expire(now)
            step = self._scheduler.plan(now)
            flight, news = self._scheduler.flight, self._scheduler.collect()
            if step is None or flight is None:
                if self._scheduler.num_running or self._scheduler.num_waiting:
                    raise RuntimeError("sequences wait, yet there is nothing to compute")
                self._books.deliver(news, measured)
                measured = None
                await self._forget(news.released)
                await self._wake.wait()
                continue
            self._future = asyncio.get_running_loop().run_in_executor(self._thread, self._compute, step, news.released)
            self._books.deliver(news, measured)
            measured = await self._land(self._future, flight)
        await self._wind_down(measured)

    async def _land(
        self, future: asyncio.Future[tuple[StepResult, float]], flight: Flight
    ) -> tuple[Flight, float] | None:
        """Waits for the step in progress and hands its result to the scheduler; None if it failed."""
        failure = await self._landed(future)
        now = time.monotonic()
        if failure is not None:
            log.error("a step of the model failed", exc_info=failure, extra={"works": len(flight.works)})
            culprits, error = _blame(failure)
            self._scheduler.fail(now=now, culprits=culprits, error=error)
            return None
        result, seconds = future.result()
        self._scheduler.apply(result, now=now, seconds=seconds)
        return flight, seconds

    async def _landed(self, future: asyncio.Future[tuple[StepResult, float]]) -> BaseException | None:
        """Waits for the step in progress, and meanwhile answers those whose deadline passes."""
        while not future.done():
            deadline = self._scheduler.next_deadline
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait({future}, timeout=timeout)
            if not future.done():
                self._books.late(self._scheduler.expire(time.monotonic()))
        return future.exception()

    async def _wind_down(self, measured: tuple[Flight, float] | None) -> None:
        """Ends everyone between two steps."""
        now = time.monotonic()
        for sequence in self._scheduler.everyone():
            self._scheduler.cancel(sequence, Unavailable("the generator is stopping"), now=now)
        news = self._scheduler.collect()
        self._books.deliver(news, measured)
        await self._forget(news.released)

    async def _forget(self, streams: list[int]) -> None:
        if streams:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._release, streams)

    def _compute(self, step: Step, released: list[int]) -> tuple[StepResult, float]:
        if released:
            self._release(released)
        begun = time.perf_counter()
        result = self._runner.run(step)
        seconds = time.perf_counter() - begun
        _check_result(step, result)
        return result, seconds

    def _release(self, streams: list[int]) -> None:
        try:
            self._runner.release(streams)
        except Exception:
            # What it keeps for streams that are gone harms no other one.
            log.exception("the model did not forget streams that have ended", extra={"streams": len(streams)})


def _blame(failure: BaseException) -> tuple[tuple[int, ...], TandemError]:
    """Returns the works that made a step fail, none where that is not known, and what their callers are told."""
    if isinstance(failure, NotFinite):
        error = FailedPrecondition("the weights give no finite numbers for this prompt", reason="NOT_FINITE")
        return failure.works, error
    if isinstance(failure, NotLoaded):
        return failure.works, Unavailable("the adapter's weights are not in memory", reason="ADAPTER_NOT_LOADED")
    return (), Internal("the model failed")


def _check_result(step: Step, result: StepResult) -> None:
    """Raises RuntimeError for a result that lacks what the step asked for."""
    if any(draw.sequence not in result.choices for draw in step.draws):
        raise RuntimeError("the runner drew no token for a sequence")
    for index, work in enumerate(step.works):
        if work.targets and len(result.scores.get(index, ())) != len(work.targets):
            raise RuntimeError("the runner did not score all targets")
