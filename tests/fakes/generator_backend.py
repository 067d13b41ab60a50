"""A backend without a model: it says what it was asked, and lets go of pins as the port demands."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from services.generator.domain import (
    Alternative,
    Confidence,
    Delta,
    Event,
    Feature,
    Finished,
    FinishReason,
    GenerateInput,
    Lineage,
    ModelInfo,
    Pin,
    Score,
    ScoreInput,
    Started,
    StreamCost,
    Token,
    Usage,
)
from services.generator.engine.pins import PinnedEvents

MODEL = ModelInfo(name="fake", sha256="ab" * 32, max_context_tokens=64, precision="float32", vocabulary_size=100)


class FakeBackend:
    """Implements the Backend port.

    A sequence's text is `reply(request)`, a token a word. With `hold`, a
    sequence waits after it has started until `proceed` is set. `fail` is
    raised by every call.
    """

    def __init__(
        self,
        reply: Callable[[GenerateInput], str] = lambda request: "one two",
        *,
        features: frozenset[Feature] = frozenset(Feature),
        hold: bool = False,
        fail: Exception | None = None,
    ) -> None:
        self.model = MODEL
        self.features = features
        self.requests: list[GenerateInput | ScoreInput] = []
        self.started = asyncio.Event()
        self.proceed = asyncio.Event()
        self.fail = fail
        self._reply = reply
        if not hold:
            self.proceed.set()

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Does nothing."""

    def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        """Yields the words of the reply."""
        return PinnedEvents(self._generate(request), request.pins)

    async def _generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        try:
            self.requests.append(request)
            if self.fail is not None:
                raise self.fail
            streams = tuple(
                StreamCost(lineage=_lineage(stream.pin), weight=stream.weight, input_tokens=3, cached_tokens=1)
                for stream in request.streams
            )
            yield Started(streams[0].lineage, 3)
            self.started.set()
            await self.proceed.wait()
            words = self._reply(request).split()
            for index, word in enumerate(words):
                yield Delta(word + " " * (index < len(words) - 1), _token(index, word, request.num_alternatives))
            yield Finished(
                reason=FinishReason.STOP,
                tail="!",
                lineage=streams[0].lineage,
                usage=Usage(input_tokens=3, output_tokens=len(words), cached_tokens=1, computed_tokens=9),
                confidence=Confidence(mean_logprob=-0.5, min_logprob=-1.0, mean_entropy=0.25, max_entropy=0.5),
                streams=streams,
                queue_seconds=0.1,
                prefill_seconds=0.2,
                decode_seconds=0.3,
            )
        finally:
            for pin in request.pins:
                pin.release()

    async def score(self, request: ScoreInput) -> tuple[list[Score], Usage]:
        """Scores each word of a continuation the same."""
        try:
            self.requests.append(request)
            if self.fail is not None:
                raise self.fail
            self.started.set()
            await self.proceed.wait()
            scores = []
            for item in request.items:
                tokens = tuple(_token(index, word, 0) for index, word in enumerate(item.continuation.split()))
                scores.append(Score(sum(token.logprob for token in tokens), True, tokens))
            return scores, Usage(input_tokens=7, output_tokens=0, computed_tokens=7)
        finally:
            if request.pin is not None:
                request.pin.release()


def _token(index: int, text: str, num_alternatives: int) -> Token:
    others = tuple(Alternative(number, f"t{number}", -1.0 - number) for number in range(num_alternatives))
    return Token(index, text, -0.5, entropy=0.25, alternatives=others)


def _lineage(pin: Pin | None) -> Lineage:
    return MODEL.lineage(pin.adapter if pin is not None else None)
