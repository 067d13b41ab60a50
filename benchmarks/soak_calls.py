"""The calls of the soak: random ones of every kind, each checked for an orderly end."""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from tandem.client import AsyncGeneratorClient
from tandem.errors import Overloaded, TandemError
from tandem.v1 import generator_service_pb2 as pb

_EXPECTED = {"RESOURCE_EXHAUSTED", "NOT_FOUND"}  # a full queue, an adapter that was just unloaded
_MAX_PROMPT_CHARS, _TOO_LONG_CHARS = 2_400, 40_000
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """Says how a call ended; `fault` if it should not have, `wait_s` how long the server asked to stay away."""

    name: str
    fault: str = ""
    wait_s: float = 0.0


Call = Callable[[AsyncGeneratorClient], Awaitable[Ended]]


class Calls:
    """Draws calls."""

    def __init__(self, text: str, source: random.Random, adapters: Sequence[str]) -> None:
        self._text, self._random, self._adapters = text, source, adapters

    def draw(self) -> tuple[str, Call, float | None]:
        """Returns the name of a kind of call, the call, and after how many seconds its caller leaves, if it does."""
        kinds: dict[str, tuple[int, Callable[[float], Call]]] = {
            "stream": (50, self._stream),
            "generate": (15, self._generate),
            "blend": (12, self._blend),
            "score": (12, self._score),
            "sample": (6, self._sample),
            "too long": (2, self._too_long),
        }
        (kind,) = self._random.choices(list(kinds), [weight for weight, _ in kinds.values()])
        hurried = self._random.random() < 0.1
        timeout = self._random.uniform(0.01, 0.5) if hurried else _PATIENCE_S
        leaves = self._random.expovariate(0.7) if self._random.random() < 0.15 else None
        return kind, _guarded(kinds[kind][1](timeout), hurried=hurried, refused=kind == "too long"), leaves

    def _stream(self, timeout: float) -> Call:
        return _streamed(self._request(self._prompt()), timeout)

    def _blend(self, timeout: float) -> Call:
        count = self._random.randint(2, 3)
        logarithmic = self._random.random() < 0.5
        prompts = [
            pb.BlendPrompt(
                text=self._prompt(800), adapter=self._adapter(), weight=self._random.uniform(0.2, 1.5)
            )
            for _ in range(count)
        ]  # fmt: skip
        mixing = pb.MIXING_LOGARITHMIC if logarithmic else pb.MIXING_ARITHMETIC
        request = self._request("")
        request.ClearField("adapter")
        request.blend.CopyFrom(pb.Blend(prompts=prompts, mixing=mixing))
        return _streamed(request, timeout)

    def _generate(self, timeout: float) -> Call:
        request = self._request(self._prompt())

        async def call(client: AsyncGeneratorClient) -> Ended:
            response = await client.generate(request, timeout=timeout)
            return _finished(response.finished, request.sampling.max_tokens)

        return call

    def _sample(self, timeout: float) -> Call:
        request, count = self._request(self._prompt(600)), self._random.randint(2, 4)
        request.sampling.temperature = self._random.uniform(0.5, 1.5)
        request.sampling.max_tokens = min(request.sampling.max_tokens, 24)

        async def call(client: AsyncGeneratorClient) -> Ended:
            response = await client.sample(request, num_samples=count, timeout=timeout)
            given = len(response.samples)
            return Ended("done") if given == count else Ended("wrong", fault=f"{given} samples instead of {count}")

        return call

    def _score(self, timeout: float) -> Call:
        count, adapter = self._random.randint(1, 5), self._adapter()
        items = [pb.ScoreItem(text=self._prompt(1_200), continuation=self._prompt(200)) for _ in range(count)]

        async def call(client: AsyncGeneratorClient) -> Ended:
            response = await client.score(items, adapter=adapter, timeout=timeout)
            sound = len(response.scores) == count and all(score.sum_logprob <= 1e-6 for score in response.scores)
            return Ended("done") if sound else Ended("wrong", fault="scores that cannot be")

        return call

    def _too_long(self, timeout: float) -> Call:
        request = self._request(self._slice(_TOO_LONG_CHARS))

        async def call(client: AsyncGeneratorClient) -> Ended:
            await client.generate(request, timeout=timeout)
            return Ended("taken", fault="a prompt that cannot fit was taken")

        return call

    def _request(self, prompt: str) -> pb.GenerateRequest:
        draw = self._random
        sampling = pb.Sampling(max_tokens=draw.choice((1, 4, 16, 64, 160, 320)))
        if draw.random() < 0.6:
            sampling.temperature = draw.uniform(0.1, 2)
            sampling.top_p, sampling.top_k = draw.uniform(0.3, 1), draw.choice((0, 1, 20, 1000))
        if draw.random() < 0.3:
            sampling.min_p, sampling.repetition_penalty = draw.uniform(0, 0.2), draw.uniform(0.8, 1.5)
        if draw.random() < 0.2:
            sampling.stop.extend(["\n\n", " the "])
        if draw.random() < 0.2:
            sampling.logit_bias.append(pb.LogitBias(token_id=draw.randrange(49_000), bias=draw.uniform(-100, 5)))
        logprobs = draw.random() < 0.2
        request = pb.GenerateRequest(
            adapter=self._adapter(),
            sampling=sampling,
            priority=draw.choice((pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH)),
            include_token_logprobs=logprobs,
            num_alternatives=draw.choice((0, 3)) if logprobs else 0,
        )
        if prompt and draw.random() < 0.5:
            request.chat.messages.append(pb.ChatMessage(role="user", content=prompt))
        elif prompt:
            request.text = prompt
        return request

    def _adapter(self) -> str:
        return self._random.choice(("", "", *self._adapters))

    def _prompt(self, most: int = _MAX_PROMPT_CHARS) -> str:
        """Returns a stretch of the documents; every third time one from the very beginning, that others share."""
        return self._slice(int(self._random.triangular(4, most, most / 8)))

    def _slice(self, length: int) -> str:
        start = 0 if self._random.random() < 0.3 else self._random.randrange(len(self._text))
        text = self._text
        while len(text) < start + length:
            text += self._text
        return text[start : start + length].strip() or "Begin."


def _streamed(request: pb.GenerateRequest, timeout: float) -> Call:
    async def call(client: AsyncGeneratorClient) -> Ended:
        started, finished = 0, None
        stream = client.stream(request, timeout=timeout)
        async with aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                kind = event.WhichOneof("event")
                if finished is not None or (kind == "started") != (started == 0):
                    return Ended("disorderly", fault=f"{kind} after started: {started}, finished: {bool(finished)}")
                started += kind == "started"
                finished = event.finished if kind == "finished" else None
        if finished is None:
            return Ended("torn", fault="the stream ended without finished and without a status")
        return _finished(finished, request.sampling.max_tokens)

    return call


def _finished(finished: pb.GenerationFinished, max_tokens: int) -> Ended:
    count = finished.usage.output_tokens
    if not 0 < count <= max_tokens:
        return Ended("wrong", fault=f"{count} tokens of at most {max_tokens}")
    reason = pb.FinishReason.Name(finished.finish_reason).removeprefix("FINISH_REASON_").lower()
    return Ended(reason) if reason in ("stop", "length") else Ended("wrong", fault=f"finished by {reason}")


def _guarded(call: Call, *, hurried: bool, refused: bool) -> Call:
    """Turns statuses into ends; any that this load does not call for is a fault.

    A caller in a hurry may miss its deadline; one who is not waits long enough for any queue, so that is a hang.
    """

    async def guarded(client: AsyncGeneratorClient) -> Ended:
        try:
            return await call(client)
        except Overloaded as error:
            return Ended("RESOURCE_EXHAUSTED", wait_s=min(error.retry_after_s or 0.5, 3.0))
        except TandemError as error:
            late = hurried and error.code == "DEADLINE_EXCEEDED"
            if late or error.code in _EXPECTED or (refused and error.reason == "PROMPT_TOO_LONG"):
                return Ended(f"{error.code} {error.reason}")
            return Ended(error.code, fault=f"{error.code} {error.reason}: {error.message}")

    return guarded
