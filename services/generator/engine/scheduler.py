"""Decides what each step computes. Plain Python: no tensors, no clock, no asyncio.

Each step takes the next token of all sequences that decode and as many
prompt tokens as the pace allows, first of those that are being read, then of
those that start. A sequence draws in the step that reads the last pending
token of each of its streams. What runs out of blocks makes the least
important sequence give way: that one drops its blocks, goes back to the head
of its queue and reads its tokens again later.

The caller alternates plan and apply (or fail); cancel and expire may come at
any time. What happened is collected in `news`.
"""

import heapq
from collections.abc import Collection
from collections.abc import Sequence as Tokens
from itertools import islice

from services.generator.domain import FinishReason, Limits, Priority, Step, StepResult
from services.generator.engine.blocks import BlockPool
from services.generator.engine.fairness import OUTPUT_COST, Flows
from services.generator.engine.flight import Flight, News
from services.generator.engine.memory import Memory
from services.generator.engine.pace import Pace
from services.generator.engine.sequence import Sequence, Stream
from tandem.errors import DeadlineExceeded, Internal, TandemError

_PATIENCE = 4
"""After so many preemptions a batch sequence gives way no sooner than an interactive one."""


class Scheduler:
    """Holds all sequences between arrival and end, and the blocks of those that run."""

    def __init__(self, *, limits: Limits, pool: BlockPool, pace: Pace) -> None:
        self.pool = pool
        self.news = News()
        self.flight: Flight | None = None
        self._memory = Memory(pool)
        self._limits = limits
        self._pace = pace
        self._flows = Flows()
        self._running: list[Sequence] = []
        self._width = 0
        self._deadlines: list[tuple[float, int, Sequence]] = []
        self._num_started = 0
        self._num_streams = 0

    @property
    def num_running(self) -> int:
        """Returns how many sequences hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Returns how many sequences wait to start, or to go on after they gave way."""
        return self._flows.num_waiting

    @property
    def next_deadline(self) -> float | None:
        """Returns when expire has something to do."""
        while self._deadlines and self._deadlines[0][2].done:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def collect(self) -> News:
        """Returns what happened since the last call."""
        news, self.news = self.news, News()
        return news

    def room(self, lengths: Tokens[int], wanted: int) -> int:
        """Returns how many of the wanted tokens fit into the blocks after prompts of these lengths, 0 if none does.

        The last token that is drawn needs no place.
        """
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            if sum(self.pool.blocks_for(length + middle - 1) for length in lengths) <= self.pool.num_blocks:
                low = middle
            else:
                high = middle - 1
        return low

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its start. Its streams fit into the blocks together, by `room`."""
        self._flows.push(sequence)
        if sequence.deadline is not None:
            if len(self._deadlines) > 64 + 2 * (self.num_waiting + self.num_running):
                self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (sequence.deadline, sequence.id, sequence))

    def cancel(self, sequence: Sequence, error: TandemError, *, now: float) -> None:
        """Ends a sequence: at once, or with the step that computes it right now."""
        if sequence.done:
            return
        sequence.error = error
        sequence.ended = now
        if self.flight is None or sequence.id not in self.flight.members:
            self._leave(sequence)

    def expire(self, now: float) -> list[Sequence]:
        """Cancels the sequences whose deadline has passed, and returns them."""
        late: list[Sequence] = []
        while (deadline := self.next_deadline) is not None and deadline <= now:
            sequence = heapq.heappop(self._deadlines)[2]
            self.cancel(sequence, DeadlineExceeded("the deadline passed during generation"), now=now)
            late.append(sequence)
        return late

    def plan(self, now: float) -> Step | None:
        """Returns the next step; None if there is nothing to compute."""
        if self.flight is not None:
            raise RuntimeError("a step is in progress")
        flight = Flight()
        calm = self._grow()
        reading: list[Sequence] = []
        for sequence in self._running:
            if all(stream.pending == 1 for stream in sequence.streams):
                self._decode(flight, sequence)
            else:
                reading.append(sequence)
        self._read_prompts(flight, reading, may_start=calm, now=now)
        if not flight.works:
            return None
        self.flight = flight
        return flight.step

    def apply(self, result: StepResult, *, now: float, seconds: float) -> None:
        """Takes what the step brought and how long it took; sequences that are complete leave."""
        flight = self._land()
        self._pace.observe(rows=flight.rows, tokens=flight.tokens, seconds=seconds)
        for index, sequence in flight.scoring.items():
            sequence.scores += result.scores[index]
        for sequence in flight.drawing:
            if sequence.done:
                continue
            choice = result.choices[sequence.id]
            if sequence.first is None:
                sequence.first = now
            sequence.reason = sequence.take(choice.token_id)
            self.news.drawn.append((sequence, choice))
        for sequence in flight.members.values():
            if sequence.targets and not sequence.done and len(sequence.scores) == len(sequence.targets):
                sequence.reason = FinishReason.STOP
            if sequence.done:
                sequence.ended = sequence.ended or now
                self._leave(sequence)

    def fail(self, *, now: float, culprits: Collection[int] = (), error: TandemError | None = None) -> None:
        """Notes that the step failed: its sequences end, and what it named is lost for others too.

        Where the culprits are known, by the indices of their works, they end
        alone, with the error, and the others read their tokens again.
        """
        flight = self._land()
        lost = {block for work in flight.works for block in work.blocks}
        self.pool.forget(lost)
        faulty = {flight.works[index].stream for index in culprits}
        # The last one first, so that those who give way queue in the order of their start.
        for sequence in reversed(list(self._running)):
            took_part = sequence.id in flight.members
            if took_part and (not faulty or any(stream.id in faulty for stream in sequence.streams)):
                self._abort(sequence, error or Internal("the model failed"), now=now)
            elif sequence.done:
                self._leave(sequence)
            elif any(not lost.isdisjoint(stream.blocks) for stream in sequence.streams):
                self._preempt(sequence)

    def _abort(self, sequence: Sequence, error: TandemError, *, now: float) -> None:
        sequence.error = sequence.error or error
        sequence.ended = sequence.ended or now
        self._leave(sequence)

    def everyone(self) -> list[Sequence]:
        """Returns all sequences that have not left."""
        return [*self._running, *self._flows.everyone()]

    def _land(self) -> Flight:
        if self.flight is None:
            raise RuntimeError("no step is in progress")
        flight, self.flight = self.flight, None
        return flight

    def _leave(self, sequence: Sequence) -> None:
        if sequence.running:
            self._stop(sequence)
            self._flows.stop(sequence)
        else:
            self._flows.drop(sequence)
        self.news.ended.append(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """Takes a sequence's blocks away."""
        sequence.running = False
        self._running.remove(sequence)
        self._width -= sequence.width
        self.news.released += [stream.id for stream in sequence.streams]
        self._memory.drop(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        sequence.preemptions += 1
        self.news.preempted += 1
        self._stop(sequence)
        self._flows.push(sequence, first=True)
        self._flows.stop(sequence)

    def _grow(self) -> bool:
        """Gets the blocks that the next tokens need, the most important sequences first; True if no one gave way."""
        calm = True
        lacks = self._memory.lacks
        needy = [sequence for sequence in self._running if any(lacks(stream) for stream in sequence.streams)]
        for sequence in sorted(needy, key=_importance):
            for stream in sequence.streams:
                while sequence.running and lacks(stream):
                    if not self._memory.grow(stream):
                        self._preempt(max(self._running, key=_importance))
                        calm = False
        return calm

    def _decode(self, flight: Flight, sequence: Sequence) -> None:
        """Adds the last token of each stream to the step."""
        for stream in sequence.streams:
            flight.read(sequence, stream, 1)
            self._memory.advance(stream, 1)
        flight.rows += sequence.width
        self._flows.charge(sequence, OUTPUT_COST * sequence.width)
        flight.draw(sequence)

    def _read_prompts(self, flight: Flight, reading: list[Sequence], *, may_start: bool, now: float) -> None:
        """Shares the step's prompt tokens out: by what the flows had, and within one first come, first served.

        So the long prompt of one tenant does not hold up the short ones of
        others, nor batch work a person. may_start is False after someone gave
        way, who would start again right away and take the blocks it gave.
        """
        free = max(0, self._limits.max_running - self._width)
        waiting = [*reading, *islice(self._flows.everyone(), free)] if flight.rows else []
        budget = self._pace.budget(flight.rows, waiting=[sequence.length for sequence in waiting])
        left = min(budget, self._limits.max_prefill_tokens)
        had = self._flows.had
        queue = sorted(reading, key=lambda sequence: (had(sequence), sequence.order), reverse=True)
        while left > 0:
            head = self._flows.head() if may_start else None
            if head is not None and (not queue or had(head) < had(queue[-1])):
                may_start = self._start(head, now)
                if may_start:
                    left = self._read(flight, head, left)
            elif queue:
                left = self._read(flight, queue.pop(), left)
            else:
                break

    def _read(self, flight: Flight, sequence: Sequence, left: int) -> int:
        """Adds as much of the pending tokens as the budget allows, and returns what is left of it.

        If not all fit, each stream keeps its last one back, so that the last
        positions of all fall in the same step.
        """
        for stream in sequence.streams:
            self._take_over(sequence, stream)
        pending = sum(stream.pending for stream in sequence.streams)
        # Crumbs cost more than they bring: a chunk is a block or all that there is.
        if left < min(pending, self.pool.block_size, self._limits.max_prefill_tokens):
            return 0
        # One token each is what decoding takes: a blend wider than the budget starts with it.
        complete = pending <= left or (pending == sequence.width and not flight.works)
        before = flight.tokens
        for stream in sequence.streams:
            # Again, since the stream before may have filled what this one needs.
            self._take_over(sequence, stream)
            count = stream.pending if complete else min(left, stream.pending - 1)
            if count:
                flight.read(sequence, stream, count)
                self._memory.advance(stream, count)
                flight.tokens += count
                left -= count
        self._flows.charge(sequence, flight.tokens - before)
        if complete:
            flight.draw(sequence)
        return max(left, 0)

    def _take_over(self, sequence: Sequence, stream: Stream) -> None:
        hits = self._memory.take_over(sequence, stream)
        self.news.hits += hits
        if not sequence.preemptions:
            stream.cached += hits

    def _start(self, sequence: Sequence, now: float) -> bool:
        """Starts the sequence whose turn it is; False if its place is not free yet, which no other may take."""
        if self._running and self._width + sequence.width > self._limits.max_running:
            return False
        # Each row that runs may need a block soon, and then someone would have to give way.
        if not self._memory.place(sequence, spare=self._width):
            return False
        self._flows.start(sequence)
        self._running.append(sequence)
        self._width += sequence.width
        sequence.running = True
        for stream in sequence.streams:
            stream.id = self._num_streams
            self._num_streams += 1
            self.news.looked_up += sequence.shareable(stream)
            self.news.hits += stream.computed
        if sequence.started is None:
            self._note_start(sequence, now)
        return True

    def _note_start(self, sequence: Sequence, now: float) -> None:
        sequence.started = now
        sequence.order = self._num_started
        self._num_started += 1
        for stream in sequence.streams:
            stream.cached = stream.computed
        self.news.started.append(sequence)


def _importance(sequence: Sequence) -> tuple[bool, int]:
    """Orders sequences by who keeps its blocks: interactive ones first, then those that were started first."""
    return sequence.priority is Priority.BATCH and sequence.preemptions < _PATIENCE, sequence.order
