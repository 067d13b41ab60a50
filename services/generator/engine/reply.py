"""What callers get: the events of a generation, the scores of a call."""

import asyncio
from collections.abc import Callable
from functools import lru_cache

from services.generator.domain import (
    Alternative,
    Choice,
    Confidence,
    Delta,
    Event,
    Finished,
    GenerateInput,
    Lineage,
    Pin,
    Score,
    StreamCost,
    Token,
    Tokenizer,
    Usage,
)
from services.generator.engine.sequence import Sequence
from services.generator.engine.text import TextStream
from tandem.errors import Internal, TandemError

_VOCABULARY = 262_144


class Vocabulary:
    """Knows the text of single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.text: Callable[[int], str] = lru_cache(maxsize=_VOCABULARY)(lambda token: tokenizer.decode([token]))


class Reply:
    """Turns the choices of one sequence into events. Holds at most one event for each token and two more."""

    def __init__(
        self, request: GenerateInput, *, vocabulary: Vocabulary, lineages: tuple[Lineage, ...], with_entropy: bool
    ) -> None:
        self.request = request
        self.tenant = request.tenant
        self.lineages = lineages
        self.pins = request.pins
        self.waiting = True
        self.events: asyncio.Queue[Event | TandemError] = asyncio.Queue()
        self.num_tokens = 0
        self._vocabulary = vocabulary
        self._end_tokens = vocabulary.tokenizer.end_tokens
        self._text = TextStream(vocabulary.tokenizer.decode, stop=request.sampling.stop)
        self._ready: str | None = None
        self._fault: Exception | None = None
        self._with_entropy = with_entropy
        self._totals = Totals()
        self._failed = False

    def stops(self, token: int) -> bool:
        """Takes a token's text ahead of its event, and tells whether a stop string ends with it."""
        try:
            self._ready = self._text.push(token)
        except Exception as error:  # noqa: BLE001 - it is raised again by push, where only this sequence ends with it
            self._fault = error
        return self._text.stopped or self._fault is not None

    def push(self, choice: Choice) -> None:
        """Sends the event of a token."""
        if self._fault is not None:
            raise self._fault
        self.num_tokens += 1
        self._totals.add(choice)
        text, self._ready = self._ready, None
        if text is None:
            text = "" if choice.token_id in self._end_tokens else self._text.push(choice.token_id)
        self.events.put_nowait(Delta(text, self._token(choice)))

    def end(self, sequence: Sequence) -> None:
        """Sends the last event, unless an error was it."""
        if self._failed:
            return
        if sequence.error is not None or sequence.reason is None:
            self.fail(sequence.error or Internal("the model failed"))
            return
        ended = sequence.ended if sequence.ended is not None else sequence.arrived
        started = sequence.started if sequence.started is not None else ended
        first = sequence.first if sequence.first is not None else ended
        costs = tuple(
            StreamCost(lineage=lineage, weight=weight, input_tokens=stream.num_prompt, cached_tokens=stream.num_cached)
            for lineage, weight, stream in zip(self.lineages, sequence.weights, sequence.streams, strict=True)
        )
        self.events.put_nowait(
            Finished(
                reason=sequence.reason,
                tail=self._text.finish(),
                lineage=self.lineages[0],
                usage=Usage(
                    input_tokens=sum(cost.input_tokens for cost in costs),
                    output_tokens=sequence.num_tokens,
                    cached_tokens=sum(cost.cached_tokens for cost in costs),
                    computed_tokens=sequence.computed,
                ),
                confidence=self._totals.confidence(with_entropy=self._with_entropy),
                streams=costs,
                queue_seconds=started - sequence.arrived,
                prefill_seconds=first - started,
                decode_seconds=ended - first,
            )
        )

    def fail(self, error: TandemError) -> None:
        """Ends the events with an error; the first one counts."""
        if not self._failed:
            self._failed = True
            self.events.put_nowait(error)

    def _token(self, choice: Choice) -> Token:
        text = self._vocabulary.text
        return Token(
            choice.token_id,
            text(choice.token_id),
            choice.logprob,
            choice.entropy if self._with_entropy else None,
            choice.margin if self._with_entropy else None,
            tuple(Alternative(token, text(token), logprob) for token, logprob in choice.alternatives),
        )


class Totals:
    """Sums up the tokens of a sequence."""

    __slots__ = ("_count", "_entropy", "_logprob", "_margin", "_max_entropy", "_min_logprob", "_min_margin")

    def __init__(self) -> None:
        self._count = 0
        self._logprob = self._entropy = self._margin = 0.0
        self._min_logprob = self._max_entropy = 0.0
        self._min_margin = 1.0

    def add(self, choice: Choice) -> None:
        """Takes the next token."""
        self._count += 1
        self._logprob += choice.logprob
        self._entropy += choice.entropy
        self._margin += choice.margin
        self._min_logprob = min(self._min_logprob, choice.logprob)
        self._max_entropy = max(self._max_entropy, choice.entropy)
        self._min_margin = min(self._min_margin, choice.margin)

    def confidence(self, *, with_entropy: bool) -> Confidence:
        """Returns means and extremes; all 0 without a token."""
        count = max(self._count, 1)
        if not with_entropy:
            return Confidence(mean_logprob=self._logprob / count, min_logprob=self._min_logprob)
        return Confidence(
            mean_logprob=self._logprob / count,
            min_logprob=self._min_logprob,
            mean_entropy=self._entropy / count,
            max_entropy=self._max_entropy,
            mean_margin=self._margin / count,
            min_margin=self._min_margin,
        )


class ScoreReply:
    """Collects the scores of one call; complete when every sequence has left the runner."""

    def __init__(
        self, sequences: tuple[Sequence, ...], *, pins: tuple[Pin, ...], vocabulary: Vocabulary, with_entropy: bool
    ) -> None:
        self.sequences = sequences
        self.tenant = sequences[0].tenant
        self.pins = pins
        self.waiting = True
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = len(sequences)
        self._vocabulary = vocabulary
        self._with_entropy = with_entropy

    def end(self, sequence: Sequence) -> bool:
        """Takes a sequence that has left; True if it was the last."""
        self._left -= 1
        if sequence.error is not None:
            self.fail(sequence.error)
        if not self._left and not self.complete.done():
            self.complete.set_result(None)
        return not self._left

    def fail(self, error: TandemError) -> None:
        """Ends the call with an error."""
        if not self.complete.done():
            self.complete.set_exception(error)

    def scores(self) -> list[Score]:
        """Returns the score of each continuation."""
        return [self._score(sequence) for sequence in self.sequences]

    def usage(self) -> Usage:
        """Returns what all sequences cost; the last token of each continuation counts, though it is not read."""
        return Usage(
            input_tokens=sum(sequence.streams[0].num_prompt + 1 for sequence in self.sequences),
            output_tokens=0,
            cached_tokens=sum(sequence.streams[0].num_cached for sequence in self.sequences),
            computed_tokens=sum(sequence.computed for sequence in self.sequences),
        )

    def _score(self, sequence: Sequence) -> Score:
        text = self._vocabulary.text
        tokens = tuple(
            Token(target, text(target), score.logprob, score.entropy if self._with_entropy else None)
            for target, score in zip(sequence.targets, sequence.scores, strict=True)
        )
        return Score(
            sum_logprob=sum(token.logprob for token in tokens),
            greedy=all(score.greedy for score in sequence.scores),
            tokens=tokens,
        )
