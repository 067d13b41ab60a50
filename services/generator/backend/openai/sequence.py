"""One sequence on the server: what it has told so far, as the events of our own port."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.generator.backend.openai import api
from services.generator.domain import (
    Confidence,
    Delta,
    Finished,
    FinishReason,
    Lineage,
    Started,
    StreamCost,
    Token,
    Usage,
)
from tandem.errors import Unavailable

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_LEAST_LOGPROB = -9999.0
_MAX_HELD = 1 << 20
"""Characters of text of which no token was told."""


@dataclass(eq=False, kw_only=True)
class Sequence:
    """Turns chunks into events; times are those of time.monotonic."""

    lineage: Lineage
    max_tokens: int
    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first: float | None = None
    last: float | None = None
    counts: api.Counts | None = None
    finish: str | None = None
    tokens: list[Token] = field(default_factory=list)
    closed: bool = False
    _opened: bool = False
    _held: str = ""

    def push(self, chunk: api.Chunk) -> Iterator[Started | Delta]:
        """Yields the events of a chunk; text of which no token is told waits for the next one."""
        self.counts = chunk.counts or self.counts
        self.finish = chunk.finish or self.finish
        if not (chunk.text or chunk.tokens or self.finish):
            return
        if not self._opened:
            self._opened = True
            yield Started(self.lineage, self.counts.input_tokens if self.counts else 0)
        self._held += chunk.text
        if len(self.tokens) + len(chunk.tokens) > self.max_tokens or len(self._held) > _MAX_HELD:
            raise Unavailable("the model server sends more than was asked for")
        if not chunk.tokens:
            return
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.tokens += chunk.tokens
        for token in chunk.tokens[:-1]:
            yield Delta("", token)
        text, self._held = self._held, ""
        yield Delta(text, chunk.tokens[-1])

    def close(self) -> Finished:
        """Returns the last event; raises Unavailable where the stream broke off, or told text but no tokens."""
        reason = _REASONS.get(self.finish or "")
        if reason is None:
            raise Unavailable("the model server ended the stream too early")
        if self._held and not self.tokens:
            # Confidence is computed from logprobs: an answer without any must not pass for a sure one.
            raise api.unsupported("logprobs", "logprobs on this server")
        self.closed = True
        counts = self.counts or api.Counts(0, len(self.tokens))
        computed = counts.input_tokens - counts.cached_tokens + max(0, counts.output_tokens - 1)
        now = time.monotonic()
        admitted, first = self.admitted or self.arrived, self.first or now
        return Finished(
            reason=reason,
            tail=self._held,
            lineage=self.lineage,
            usage=Usage(
                input_tokens=counts.input_tokens,
                output_tokens=counts.output_tokens,
                cached_tokens=counts.cached_tokens,
                computed_tokens=computed,
            ),
            confidence=_confidence(self.tokens),
            streams=(
                StreamCost(
                    lineage=self.lineage,
                    weight=1.0,
                    input_tokens=counts.input_tokens,
                    cached_tokens=counts.cached_tokens,
                ),
            ),
            queue_seconds=admitted - self.arrived,
            prefill_seconds=first - admitted,
            decode_seconds=(self.last or first) - first,
        )


def _confidence(tokens: list[Token]) -> Confidence:
    """Sums up the told tokens; where none was told (an answer that ends at once), as unsure as can be."""
    logprobs = [token.logprob for token in tokens] or [_LEAST_LOGPROB]
    margins = [token.margin for token in tokens if token.margin is not None]
    return Confidence(
        mean_logprob=sum(logprobs) / len(logprobs),
        min_logprob=min(logprobs),
        mean_margin=sum(margins) / len(margins) if margins else None,
        min_margin=min(margins) if margins else None,
    )
