"""One sequence in the engine: what it has produced, and whether it is done."""

import asyncio
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from services.generator.domain import (
    Choice,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateInput,
    Lineage,
    Row,
    Token,
    Tokenizer,
)
from services.generator.engine.text import TextStream
from tandem.errors import TandemError


@dataclass(eq=False, kw_only=True)
class Sequence:
    """Is one generation between its arrival and its last event. All of it is used on the event loop only."""

    id: int
    request: GenerateInput
    prompt: Tokens[int]
    max_tokens: int
    lineage: Lineage
    tokenizer: Tokenizer
    events: asyncio.Queue[Event | TandemError] = field(default_factory=asyncio.Queue)
    """Holds at most max_tokens + 2 events, so it needs no bound of its own."""
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first: float | None = None
    cancelled: bool = False
    done: bool = False
    num_tokens: int = 0
    sum_logprob: float = 0.0
    min_logprob: float = 0.0

    def __post_init__(self) -> None:
        self._text = TextStream(self.tokenizer.decode, stop=self.request.sampling.stop)

    @property
    def row(self) -> Row:
        """Returns the sequence as the runner sees it."""
        adapter = self.request.adapter
        return Row(
            id=self.id,
            prompt=tuple(self.prompt),
            sampling=self.request.sampling,
            adapter_key=adapter.key if adapter else None,
        )

    @property
    def reserved(self) -> int:
        """Returns the tokens that the sequence may come to hold."""
        return len(self.prompt) + self.max_tokens

    def expired(self, now: float) -> bool:
        """Tells whether the caller's deadline has passed."""
        return self.request.deadline is not None and now >= self.request.deadline

    def push(self, choice: Choice, now: float) -> Finished | None:
        """Takes the next token, sends its events, and returns the last one if the sequence is done with it."""
        if self.first is None:
            self.first = now
        self.num_tokens += 1
        self.sum_logprob += choice.logprob
        self.min_logprob = min(self.min_logprob, choice.logprob)
        ended = choice.token_id in self.tokenizer.end_tokens
        text = "" if ended else self._text.push(choice.token_id)
        alone = self.tokenizer.decode([choice.token_id])
        self.events.put_nowait(Delta(text, Token(choice.token_id, alone, choice.logprob)))
        if ended or self._text.stopped:
            return self._finish(FinishReason.STOP, now)
        if self.num_tokens >= self.max_tokens:
            return self._finish(FinishReason.LENGTH, now)
        return None

    def fail(self, error: TandemError) -> None:
        """Ends the sequence with an error."""
        self.done = True
        self.events.put_nowait(error)

    def _finish(self, reason: FinishReason, now: float) -> Finished:
        self.done = True
        started = self.started or now
        first = self.first or now
        finished = Finished(
            reason=reason,
            tail=self._text.finish(),
            lineage=self.lineage,
            input_tokens=len(self.prompt),
            output_tokens=self.num_tokens,
            mean_logprob=self.sum_logprob / self.num_tokens,
            min_logprob=self.min_logprob,
            queue_seconds=started - self.arrived,
            prefill_seconds=first - started,
            decode_seconds=now - first,
        )
        self.events.put_nowait(finished)
        return finished
