"""Answers callers and counts what happened, from the news of the scheduler."""

import logging
from collections.abc import Iterable

from services.generator.domain import FinishReason
from services.generator.engine.door import Door
from services.generator.engine.flight import Flight, News
from services.generator.engine.reply import Reply, ScoreReply
from services.generator.engine.scheduler import Scheduler
from services.generator.engine.sequence import Sequence
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Cancelled, DeadlineExceeded, Internal, Overloaded, TandemError

log = logging.getLogger(__name__)


class Bookkeeping:
    """Knows whose sequence is whose, and releases the pins of those that have left."""

    def __init__(self, *, scheduler: Scheduler, door: Door, metrics: GeneratorMetrics) -> None:
        self._scheduler = scheduler
        self._door = door
        self._metrics = metrics
        self._owners: dict[int, tuple[Sequence, Reply | ScoreReply]] = {}
        self._step_seconds = {kind: metrics.step_seconds.labels(kind) for kind in ("prefill", "decode", "mixed")}
        self._kv_blocks = {state: metrics.kv_blocks.labels(state) for state in ("used", "cached", "free")}
        self.gauge()

    def add(self, sequence: Sequence, reply: Reply | ScoreReply) -> None:
        """Hands a sequence to the scheduler."""
        self._owners[sequence.id] = sequence, reply
        self._scheduler.add(sequence)

    def enter(self, tenant: str) -> None:
        """Lets a call wait at the door; raises Overloaded where too many do."""
        try:
            self._door.enter(tenant)
        except Overloaded:
            self._metrics.refused.inc()
            raise
        self._metrics.waiting.set(self._door.waiting)

    def turn_away(self, tenant: str) -> None:
        """Takes a call from the door that comes to nothing."""
        self._door.leave(tenant)
        self._metrics.waiting.set(self._door.waiting)

    def deliver(self, news: News, measured: tuple[Flight, float] | None) -> None:
        """Sends the events, counts, and lets go of what has left."""
        if measured is not None:
            self._observe_step(*measured)
        for sequence in news.started:
            self._started(sequence)
        for sequence, choice in news.drawn:
            reply = self._owners[sequence.id][1]
            if not isinstance(reply, Reply):
                continue
            if reply.num_tokens == 0 and sequence.first is not None:
                self._metrics.time_to_first_token.observe(sequence.first - sequence.arrived)
            try:
                reply.push(choice)
            except Exception:
                # One sequence's text must not end the others.
                log.exception("a token could not be turned into text")
                reply.fail(Internal("the model failed"))
                self._scheduler.cancel(sequence, Internal("the model failed"), now=sequence.first or 0.0)
        self._metrics.decode_tokens.inc(len(news.drawn))
        self._metrics.preemptions.inc(news.preempted)
        self._metrics.prefix_lookup_tokens.inc(news.looked_up)
        self._metrics.prefix_hit_tokens.inc(news.hits)
        for sequence in news.ended:
            self._ended(sequence)
        self.gauge()

    def late(self, sequences: Iterable[Sequence]) -> None:
        """Answers callers whose deadline passes during a step; their sequences leave after it."""
        for sequence in sequences:
            if sequence.error is not None:
                self._owners[sequence.id][1].fail(sequence.error)

    def abandon(self, error: TandemError) -> None:
        """Ends all that is left with an error."""
        for sequence, reply in self._owners.values():
            sequence.error = sequence.error or error
            reply.fail(error)
            self._metrics.sequences.labels("failed").inc()
            for pin in reply.pins:
                pin.release()
            self._leave_door(reply)
        self._owners.clear()

    def gauge(self) -> None:
        """Sets the gauges to what is."""
        pool = self._scheduler.pool
        self._metrics.waiting.set(self._door.waiting)
        self._metrics.running.set(self._scheduler.num_running)
        self._kv_blocks["used"].set(pool.used)
        self._kv_blocks["cached"].set(pool.cached)
        self._kv_blocks["free"].set(pool.available - pool.cached)

    def _started(self, sequence: Sequence) -> None:
        if sequence.started is not None:
            self._metrics.queue_seconds.observe(sequence.started - sequence.arrived)
        self._leave_door(self._owners[sequence.id][1])

    def _ended(self, sequence: Sequence) -> None:
        reply = self._owners.pop(sequence.id)[1]
        self._leave_door(reply)
        last = True
        if isinstance(reply, Reply):
            reply.end(sequence)
        else:
            last = reply.end(sequence)
        if last:
            for pin in reply.pins:
                pin.release()
        self._observe_end(sequence)

    def _leave_door(self, reply: Reply | ScoreReply) -> None:
        if reply.waiting:
            reply.waiting = False
            self._door.leave(reply.tenant)

    def _observe_step(self, flight: Flight, seconds: float) -> None:
        self._step_seconds[flight.kind].observe(seconds)
        self._metrics.batch_rows.observe(len(flight.works))
        self._metrics.prefill_tokens.inc(flight.tokens)
        if len(flight.works) > len(flight.draws):
            self._metrics.blended_rows.inc(sum(len(draw.works) for draw in flight.draws if len(draw.works) > 1))
        if flight.scoring:
            self._metrics.scored_tokens.inc(sum(len(flight.works[index].targets) for index in flight.scoring))

    def _observe_end(self, sequence: Sequence) -> None:
        metrics = self._metrics
        metrics.sequences.labels(_reason(sequence)).inc()
        metrics.tenant_tokens.labels(sequence.tenant, "input").inc(
            sum(stream.num_prompt for stream in sequence.streams) + (1 if sequence.targets else 0)
        )
        metrics.tenant_tokens.labels(sequence.tenant, "output").inc(sequence.num_tokens)
        if sequence.error is not None or sequence.started is None or sequence.ended is None:
            return
        self._door.observe(sequence.ended - sequence.started)
        if sequence.num_tokens > 1 and sequence.first is not None:
            metrics.time_per_output_token.observe((sequence.ended - sequence.first) / (sequence.num_tokens - 1))


def _reason(sequence: Sequence) -> str:
    if isinstance(sequence.error, Cancelled):
        return "cancelled"
    if isinstance(sequence.error, DeadlineExceeded):
        return "deadline"
    if sequence.error is not None or sequence.reason is None:
        return "failed"
    return "stop" if sequence.reason is FinishReason.STOP else "length"
