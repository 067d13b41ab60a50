"""Makes sequences of requests: checks them, tokenises their prompts, and fits them into the context and the blocks."""

import asyncio
import itertools
import secrets
import time
from dataclasses import replace

from opentelemetry.trace import Tracer

from services.generator.domain import Feature, GenerateInput, Lineage, ModelInfo, Pin, ScoreInput, Tokenizer
from services.generator.engine.checks import check_features, check_request, check_score, fit_output
from services.generator.engine.reply import Reply, ScoreReply, Vocabulary
from services.generator.engine.scheduler import Scheduler
from services.generator.engine.sequence import Sequence, Stream
from tandem.errors import DeadlineExceeded


class Intake:
    """Stands between the door and the scheduler; tokenises in a thread, off the event loop."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        model: ModelInfo,
        features: frozenset[Feature],
        scheduler: Scheduler,
        tracer: Tracer,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer)
        self._model = model
        self._features = features
        self._scheduler = scheduler
        self._tracer = tracer
        self._ids = itertools.count()

    def check(self, request: GenerateInput | ScoreInput) -> None:
        """Raises what speaks against a request before anything is tokenised."""
        check_features(request, self._features)
        check_request(request, self._model)
        if request.deadline is not None and request.deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline had passed on arrival")

    async def generation(self, request: GenerateInput) -> tuple[Sequence, Reply]:
        """Returns the sequence of a generation, and what answers its caller."""
        arrived = time.monotonic()
        encode = self._tokenizer.encode
        with self._tracer.start_as_current_span("generator.tokenize"):
            prompts = await asyncio.to_thread(
                lambda: [_prefixed(encode(stream.prompt), stream.pin) for stream in request.streams]
            )
        sampling = request.sampling
        room = fit_output(prompts, wanted=sampling.max_tokens, model=self._model, scheduler=self._scheduler)
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbits(63))
        reply = Reply(
            request,
            vocabulary=self._vocabulary,
            lineages=tuple(self._lineage(stream.pin) for stream in request.streams),
            with_entropy=Feature.ENTROPY in self._features,
        )
        sequence = Sequence(
            id=next(self._ids),
            tenant=request.tenant,
            priority=request.priority,
            streams=tuple(
                _stream(prompt, request.tenant, stream.pin)
                for prompt, stream in zip(prompts, request.streams, strict=True)
            ),
            arrived=arrived,
            deadline=request.deadline,
            sampling=sampling,
            max_tokens=room,
            end_tokens=self._tokenizer.end_tokens,
            weights=tuple(stream.weight for stream in request.streams),
            mixing=request.mixing,
            num_alternatives=request.num_alternatives,
            stops=reply.stops if sampling.stop else None,
        )
        return sequence, reply

    async def scoring(self, request: ScoreInput) -> ScoreReply:
        """Returns what answers the caller of a scoring, with its sequences, one for each item."""
        arrived = time.monotonic()
        with self._tracer.start_as_current_span("generator.tokenize"):
            pairs = await asyncio.to_thread(self._encode_items, request)
        for index, (prompt, continuation) in enumerate(pairs):
            check_score(index, prompt, continuation, self._model, self._scheduler)
        sequences = tuple(
            Sequence(
                id=next(self._ids),
                tenant=request.tenant,
                priority=request.priority,
                streams=(_stream(prompt + continuation[:-1], request.tenant, request.pin),),
                arrived=arrived,
                deadline=request.deadline,
                targets=tuple(continuation),
            )
            for prompt, continuation in pairs
        )
        return ScoreReply(
            sequences,
            pins=() if request.pin is None else (request.pin,),
            vocabulary=self._vocabulary,
            with_entropy=Feature.ENTROPY in self._features,
        )

    def _encode_items(self, request: ScoreInput) -> list[tuple[list[int], list[int]]]:
        """Returns the tokens of prompts and continuations; a prompt of several items is tokenised once."""
        prompts = {
            prompt: _prefixed(self._tokenizer.encode(prompt), request.pin)
            for prompt in {item.prompt for item in request.items}
        }
        return [
            (prompts[item.prompt], self._tokenizer.encode_continuation(item.continuation)) for item in request.items
        ]

    def _lineage(self, pin: Pin | None) -> Lineage:
        return self._model.lineage(pin.adapter if pin is not None else None)


def _prefixed(tokens: list[int], pin: Pin | None) -> list[int]:
    """Returns a prompt's tokens after those that stand for its adapter's prefix; an empty prompt stays empty."""
    num_virtual = 0 if pin is None or not tokens else pin.adapter.num_virtual
    return [*range(-1, -1 - num_virtual, -1), *tokens]


def _stream(tokens: list[int], tenant: str, pin: Pin | None) -> Stream:
    if pin is None:
        return Stream(tokens, tenant=tenant, adapter=None)
    return Stream(tokens, tenant=tenant, adapter=pin.adapter.key, num_virtual=pin.adapter.num_virtual)
