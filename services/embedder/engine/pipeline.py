"""Takes inputs of many calls, runs them in shared batches on one model, and hands each call its results."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar, cast

from opentelemetry.trace import Tracer

from services.embedder.domain import Computed, Limits, Model, ModelInfo, Timings, TokenizedText
from services.embedder.engine.admission import Admission
from services.embedder.engine.batching import BatchQueue, Entry
from services.embedder.engine.items import Call, Item, are_short, demand, fail, refuse_long, without_repeats
from services.embedder.engine.pace import Pace
from services.embedder.engine.workers import Workers
from services.embedder.metrics import EmbedderMetrics
from tandem.errors import ConfigError, Internal, Overloaded, Unavailable

log = logging.getLogger(__name__)

Input = TypeVar("Input", str, tuple[str, str])
R = TypeVar("R")


class Pipeline(Generic[Input, R]):
    """Computes with one model. Used from one event loop; ``start`` before the first call, ``stop`` after the last."""

    def __init__(
        self,
        load: Callable[[], Model[Input, R]],
        *,
        workers: Workers,
        limits: Limits,
        metrics: EmbedderMetrics,
        tracer: Tracer,
    ) -> None:
        self._load: Callable[[], Model[Input, R]] = load
        self._workers = workers
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._model: Model[Input, R] | None = None
        self._queue: BatchQueue[Item[R]] = BatchQueue(
            max_tokens=limits.max_batch_tokens, max_texts=limits.max_batch_texts
        )
        self._admission = Admission(max_tokens=limits.max_queue_tokens)
        self._arrival = asyncio.Event()
        self._runners: list[asyncio.Task[None]] = []
        self._alone: set[asyncio.Task[Any]] = set()
        """Calls that run the batch of their one text themselves."""
        self._pace = Pace(workers=limits.workers)

    @property
    def num_waiting(self) -> int:
        """Tokenised inputs that wait for a batch."""
        return len(self._queue)

    @property
    def held_tokens(self) -> int:
        """Tokens admitted and not yet in a batch."""
        return self._admission.held

    @property
    def info(self) -> ModelInfo:
        """Describes the model; raises Unavailable before it is loaded and after the pipeline has stopped."""
        return self._ready().info

    async def start(self) -> None:
        """Loads the model and runs it once on its longest input. Raises ConfigError when it cannot be served."""
        model = await self._workers.compute(self._load)
        if model.info.max_tokens > self._limits.max_batch_tokens:
            raise ConfigError(
                f"max_batch_tokens is {self._limits.max_batch_tokens}, but one text of {model.info.name} may have "
                f"{model.info.max_tokens} tokens"
            )
        warm_up = await self._workers.tokenize(model.warm_up)
        started = time.perf_counter()
        await self._workers.compute(lambda: model.run(warm_up))
        self._pace.remember(sum(len(tokens.ids) for tokens in warm_up), time.perf_counter() - started)
        self._model = model
        self._runners = [
            asyncio.create_task(self._run(model), name=f"embedder-batches-{number}")
            for number in range(self._limits.workers)
        ]
        about = {"precision": model.info.precision, "backend": model.info.backend}
        log.info("model ready", extra={"model": model.info.name, "sha256": model.info.sha256, **about})

    async def stop(self) -> None:
        """Refuses everything that has no result yet. Safe to call more than once."""
        self._model = None
        for task in (*self._runners, *self._alone):
            task.cancel()
        if self._runners:
            await asyncio.wait(self._runners)
        while entries := self._queue.take():
            fail(entries, lambda: Unavailable("the embedder is stopping"))

    async def compute(self, inputs: Sequence[Input], *, whole: Sequence[str] = ()) -> list[Computed[R]]:
        """Returns the results of ``inputs`` in their order.

        ``whole`` names the field of each input, and that none may be cut. Raises InvalidInput where one would have to
        be, Overloaded when the queue is full, Unavailable while there is no model, Internal when the model fails.
        """
        model, arrived = self._ready(), time.perf_counter()
        wanted = demand(model.info, inputs)
        if excess := self._admission.excess(wanted):
            raise Overloaded("the embedder's queue is full", retry_after_s=self._pace.seconds_for(excess))
        self._admission.take(wanted)
        with self._in_queue(Call(held=wanted)) as call:
            tokenized = await self._tokenize(model, inputs)
            if whole:
                refuse_long(tokenized, whole, model.info)
            alone = len(inputs) == 1 and not self._queue and not self._workers.slot.locked()
            waiting = self._enqueue(call, tokenized, demanded=wanted, arrived=arrived)
            if alone:  # sooner without a runner: each change of tasks is a turn of the loop
                await self._run_alone(model)
            else:
                self._arrival.set()
            computed = [await item.result for item in waiting]
        self._trace(computed)
        return computed

    async def stream(self, inputs: AsyncIterator[Input]) -> AsyncGenerator[Computed[R], None]:
        """Yields the result of each input in the order of arrival, cutting inputs that are too long.

        Reads ahead by at most ``max_stream_texts`` and only while the queue has room, so a slow model or a slow reader
        slows ``inputs`` down. A failure of ``inputs`` is raised after the results before it. Close the generator when
        leaving it early.
        """
        model = self._ready()
        results: asyncio.Queue[asyncio.Future[Computed[R]] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(self._limits.max_stream_texts)
        with self._in_queue(Call()) as call:

            async def read() -> None:
                try:
                    async for each in inputs:
                        await slots.acquire()
                        results.put_nowait(await self._enqueue_one(model, call, each))
                finally:
                    results.put_nowait(None)

            reader = asyncio.create_task(read(), name="embedder-stream")
            try:
                while (result := await results.get()) is not None:
                    yield await result
                    slots.release()
                await reader
            finally:
                reader.cancel()
                await asyncio.wait([reader])
                if not reader.cancelled():
                    reader.exception()  # seen: either raised above, or overtaken by the failure that ends the stream

    def _ready(self) -> Model[Input, R]:
        if self._model is None:
            raise Unavailable("the embedding model is not loaded", retry_after_s=1.0)
        return self._model

    @contextmanager
    def _in_queue(self, call: Call) -> Iterator[Call]:
        """Takes what is left of the call out of the queue at the end, however it ends."""
        try:
            yield call
        finally:
            self._queue.discard(call)
            self._admission.release(call.held)
            call.held = 0

    async def _enqueue_one(self, model: Model[Input, R], call: Call, one: Input) -> asyncio.Future[Computed[R]]:
        arrived, wanted = time.perf_counter(), demand(model.info, [one])
        await self._admission.wait(wanted)
        call.held += wanted
        tokenized = await self._tokenize(model, [one])
        (item,) = self._enqueue(call, tokenized, demanded=wanted, arrived=arrived)
        self._arrival.set()
        return item.result

    async def _tokenize(self, model: Model[Input, R], inputs: Sequence[Input]) -> list[TokenizedText]:
        if are_short(inputs):
            return model.tokenize(inputs)
        return await self._workers.tokenize(lambda: model.tokenize(inputs))

    def _enqueue(
        self, call: Call, tokenized: Sequence[TokenizedText], *, demanded: int, arrived: float
    ) -> list[Item[R]]:
        self._ready()  # the engine may have stopped during tokenisation
        correction = sum(len(tokens.ids) for tokens in tokenized) - demanded
        call.held += correction
        self._admission.take(correction)
        now = time.perf_counter()
        waiting: list[Item[R]] = [Item(call, tokens, now - arrived, now) for tokens in tokenized]
        self._queue.push(call, [(len(item.tokens.ids), item) for item in waiting])
        return waiting

    async def _run(self, model: Model[Input, R]) -> None:
        """Runs batches until cancelled; one of the owners of all model work."""
        while True:
            await self._arrival.wait()
            if not await self._run_next(model):
                self._arrival.clear()

    async def _run_alone(self, model: Model[Input, R]) -> None:
        """Runs what the calling task has put into the empty queue; stopping ends the wait, not the task."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._alone.add(task)
        try:
            await self._run_next(model)
        except asyncio.CancelledError:
            if self._model is not None or task.uncancel():
                raise
        finally:
            self._alone.discard(task)

    async def _run_next(self, model: Model[Input, R]) -> bool:
        """Runs one batch of what waits; tells whether there was any."""
        async with self._workers.slot:  # a batch is put together when it can run, not before
            entries = self._queue.take()
            for entry in entries:
                entry.payload.call.held -= entry.num_tokens
            self._admission.release(sum(entry.num_tokens for entry in entries))
            if entries:
                await self._attempt(model, entries)
        return bool(entries)

    async def _attempt(self, model: Model[Input, R], entries: Sequence[Entry[Item[R]]]) -> None:
        try:
            await self._infer(model, entries)
        except asyncio.CancelledError:
            fail(entries, lambda: Unavailable("the embedder is stopping"))
            raise
        except Exception:  # a task root: whatever the model throws ends these calls, not the service
            log.exception("inference failed", extra={"num_texts": len(entries)})
            self._metrics.failed_batches.inc()
            fail(entries, lambda: Internal("the embedding model failed"))

    async def _infer(self, model: Model[Input, R], entries: Sequence[Entry[Item[R]]]) -> None:
        batch, places = without_repeats([entry.payload.tokens for entry in entries])
        started = time.perf_counter()
        outputs = await self._workers.compute(lambda: model.run(batch))
        seconds = time.perf_counter() - started
        self._pace.remember(sum(entry.num_tokens for entry in entries), seconds)
        # Counted in the loop's next turn, when the replies are on their way.
        record = partial(self._record, entries, batch, pads=model.info.pads, started=started, seconds=seconds)
        asyncio.get_running_loop().call_soon(record)
        for entry, place in zip(entries, places, strict=True):
            item = entry.payload
            timings = Timings(tokenize=item.tokenize_seconds, queue=started - item.enqueued, infer=seconds)
            if not item.result.done():
                item.result.set_result(Computed(outputs[place], entry.num_tokens, item.tokens.truncated, timings))

    def _record(
        self,
        entries: Sequence[Entry[Item[R]]],
        batch: Sequence[TokenizedText],
        *,
        pads: bool,
        started: float,
        seconds: float,
    ) -> None:
        num_tokens, lengths = sum(entry.num_tokens for entry in entries), [len(tokens.ids) for tokens in batch]
        computed = max(lengths) * len(lengths) if pads else sum(lengths)
        for entry in entries:
            item = entry.payload
            self._metrics.queue_seconds.observe(item.tokenize_seconds + started - item.enqueued)
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_texts.observe(len(entries))
        self._metrics.batch_tokens.observe(computed)
        self._metrics.texts.inc(len(entries))
        self._metrics.tokens.inc(num_tokens)
        self._metrics.padding_tokens.inc(computed - sum(lengths))
        self._metrics.truncated_texts.inc(sum(entry.payload.tokens.truncated for entry in entries))

    def _trace(self, computed: Sequence[Computed[R]]) -> None:
        """Writes the spans of the slowest input, which ended just now."""
        slowest = max((each.timings for each in computed), key=lambda timings: timings.total)
        end = time.time_ns()
        middle = end - round(slowest.infer * 1e9)
        start = middle - round(slowest.queue * 1e9)
        arrival = start - round(slowest.tokenize * 1e9)
        tokenize = self._tracer.start_span(
            "embedder.tokenize", start_time=arrival, attributes={"num_texts": len(computed)}
        )
        if not tokenize.is_recording():
            return
        tokenize.end(start)
        self._tracer.start_span("embedder.queue", start_time=start).end(middle)
        self._tracer.start_span("embedder.infer", start_time=middle).end(end)
