"""Decodes many sequences together, token by token, and hands each caller its own stream.

All state lives on the event loop; the model runs in one worker thread. In
each round sequences whose caller has left make room, waiting ones are read
in, and every running one gets its next token.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from opentelemetry.trace import Tracer

from services.generator.domain import (
    Choice,
    Event,
    Finished,
    GenerateInput,
    Limits,
    Lineage,
    ModelInfo,
    Runner,
    Started,
    Tokenizer,
)
from services.generator.engine.sequence import Sequence
from services.generator.metrics import GeneratorMetrics
from tandem.errors import DeadlineExceeded, Internal, InvalidInput, Overloaded, TandemError, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")


class Engine:
    """Schedules sequences on a runner."""

    def __init__(
        self,
        *,
        runner: Runner,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits,
        metrics: GeneratorMetrics,
        tracer: Tracer,
    ) -> None:
        self.model = model
        self._runner = runner
        self._tokenizer = tokenizer
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._ids = itertools.count()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator-model")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._seconds_per_sequence = 1.0

    async def start(self) -> None:
        """Starts the loop."""
        self._task = asyncio.create_task(self._run(), name="generator-engine")

    async def stop(self) -> None:
        """Ends the loop after the round in progress; sequences that are left fail with Unavailable."""
        if self._task is not None:
            self._stopping = True
            self._wake.set()
            await asyncio.wait({self._task})
            self._task = None
        await asyncio.to_thread(self._thread.shutdown)

    async def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        """Yields Started, a Delta for each token, and Finished; closing the iterator frees the slot within one step.

        Raises InvalidInput for a prompt beyond the context, Overloaded when
        the queue is full, DeadlineExceeded when the deadline passes first.
        """
        self._check_door()
        with self._tracer.start_as_current_span("generator.tokenize"):
            prompt = await asyncio.to_thread(self._tokenizer.encode, request.prompt)
        sequence = self._admit(request, prompt)
        span = self._tracer.start_span("generator.sequence")
        span.set_attribute("gen_ai.request.model", self.model.name)
        span.set_attribute("gen_ai.usage.input_tokens", len(prompt))
        try:
            yield Started(sequence.lineage, len(prompt))
            while True:
                event = await sequence.events.get()
                if isinstance(event, TandemError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            span.set_attribute("gen_ai.usage.output_tokens", sequence.num_tokens)
            span.end()
            if not sequence.done:
                sequence.cancelled = True
                self._wake.set()

    def lineage(self, request: GenerateInput) -> Lineage:
        """Returns the weights that a request would run on."""
        adapter = request.adapter
        return Lineage(
            model=self.model.name,
            model_sha256=self.model.sha256,
            adapter=adapter.name if adapter else "",
            adapter_sha256=adapter.sha256 if adapter else "",
        )

    def _check_door(self) -> None:
        if self._task is None or self._stopping or self._task.done():
            raise Unavailable("the generator is not running")
        if len(self._waiting) >= self._limits.max_waiting:
            self._metrics.refused.inc()
            rounds = 1 + len(self._waiting) / self._limits.max_running
            raise Overloaded(
                f"{len(self._waiting)} sequences are waiting already",
                retry_after_s=min(60.0, max(0.2, rounds * self._seconds_per_sequence)),
            )

    def _admit(self, request: GenerateInput, prompt: list[int]) -> Sequence:
        limit = min(self.model.max_context_tokens, self._limits.max_running_tokens)
        if not prompt:
            raise InvalidInput.of("prompt", "has no tokens")
        if len(prompt) >= limit:
            raise InvalidInput.of("prompt", f"has {len(prompt)} tokens; with its answer at most {limit} fit")
        self._check_door()
        sequence = Sequence(
            id=next(self._ids),
            request=request,
            prompt=prompt,
            max_tokens=min(request.sampling.max_tokens, limit - len(prompt)),
            lineage=self.lineage(request),
            tokenizer=self._tokenizer,
        )
        self._waiting.append(sequence)
        self._metrics.waiting.set(len(self._waiting))
        self._wake.set()
        return sequence

    async def _run(self) -> None:
        try:
            while not self._stopping:
                if not self._waiting and not self._running:
                    self._wake.clear()
                    await self._wake.wait()
                try:
                    await self._round()
                except Exception:
                    log.exception("a step of the model failed", extra={"sequences": len(self._running)})
                    await self._abandon()
        finally:
            for sequence in [*self._waiting, *self._running.values()]:
                sequence.fail(Unavailable("the generator is stopping"))
            self._waiting.clear()
            self._running.clear()
            self._gauge()

    async def _round(self) -> None:
        await self._let_go()
        fresh = self._next_group()
        if fresh:
            for sequence in fresh:
                sequence.started = time.monotonic()
                self._running[sequence.id] = sequence
                self._metrics.queue_seconds.observe(sequence.started - sequence.arrived)
            self._gauge()
            rows = [sequence.row for sequence in fresh]
            await self._apply(await self._model("prefill", lambda: self._runner.prefill(rows)))
            self._metrics.prefill_tokens.inc(sum(len(row.prompt) for row in rows))
            await self._let_go()
        if self._running:
            self._metrics.batch_sequences.observe(len(self._running))
            await self._apply(await self._model("decode", self._runner.step))

    def _next_group(self) -> list[Sequence]:
        """Takes waiting sequences, first come first served, as far as the limits allow."""
        group: list[Sequence] = []
        held = sum(sequence.reserved for sequence in self._running.values())
        longest = 0
        while self._waiting and len(self._running) + len(group) < self._limits.max_running:
            sequence = self._waiting[0]
            longest = max(longest, len(sequence.prompt))
            if held + sequence.reserved > self._limits.max_running_tokens:
                break
            if group and (len(group) + 1) * longest > self._limits.max_prefill_tokens:
                break
            held += sequence.reserved
            group.append(self._waiting.popleft())
        return group

    async def _apply(self, choices: Mapping[int, Choice]) -> None:
        now = time.monotonic()
        done: list[int] = []
        for row_id, choice in choices.items():
            sequence = self._running[row_id]
            if sequence.num_tokens == 0:
                self._metrics.time_to_first_token.observe(now - sequence.arrived)
            if finished := sequence.push(choice, now):
                done.append(row_id)
                self._observe(finished)
        self._metrics.decode_tokens.inc(len(choices))
        await self._remove(done)

    async def _let_go(self) -> None:
        """Drops sequences whose caller has left or whose deadline has passed."""
        now = time.monotonic()
        gone = [s for s in [*self._waiting, *self._running.values()] if s.cancelled or s.expired(now)]
        if not gone:
            return
        for sequence in gone:
            self._metrics.sequences.labels("cancelled" if sequence.cancelled else "deadline").inc()
            sequence.fail(DeadlineExceeded("the deadline passed during generation"))
        self._waiting = deque(s for s in self._waiting if not s.done)
        await self._remove([s.id for s in gone if s.id in self._running])

    async def _remove(self, ids: list[int]) -> None:
        for row_id in ids:
            del self._running[row_id]
        self._gauge()
        if ids:
            await self._call(lambda: self._runner.remove(ids))

    async def _abandon(self) -> None:
        """Fails everything that was running and starts afresh."""
        ids = list(self._running)
        for sequence in self._running.values():
            self._metrics.sequences.labels("failed").inc()
            sequence.fail(Internal("the model failed"))
        await self._remove(ids)

    async def _model(self, kind: str, work: Callable[[], T]) -> T:
        started = time.monotonic()
        result = await self._call(work)
        self._metrics.step_seconds.labels(kind).observe(time.monotonic() - started)
        return result

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _gauge(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.running.set(len(self._running))
        self._metrics.running_tokens.set(sum(s.reserved for s in self._running.values()))

    def _observe(self, finished: Finished) -> None:
        self._metrics.sequences.labels(finished.reason.value).inc()
        if finished.output_tokens > 1:
            self._metrics.time_per_output_token.observe(finished.decode_seconds / (finished.output_tokens - 1))
        seconds = finished.prefill_seconds + finished.decode_seconds
        self._seconds_per_sequence = 0.8 * self._seconds_per_sequence + 0.2 * seconds
