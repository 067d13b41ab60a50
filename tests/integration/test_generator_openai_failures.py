"""What the backend openai tells of a server that fails, is full or is gone."""

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend.openai import connect
from services.generator.config import GeneratorConfig
from services.generator.metrics import GeneratorMetrics
from tandem.errors import FailedPrecondition, InvalidInput, Overloaded, TandemError, Unavailable
from tests.fakes.generator_openai import GOOD, connected, events, request, text
from tests.fakes.openai_server import Answer, OpenAiServer, end, models, serving, word


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (Answer(status=500, body={}), Unavailable, "UNAVAILABLE"),
        (Answer(status=503, body={}), Unavailable, "UNAVAILABLE"),
        (Answer(status=302, body={}, headers={"location": "http://127.0.0.1:1/"}), Unavailable, "UNAVAILABLE"),
        (Answer(status=404, body={}), FailedPrecondition, "MODEL_NOT_SERVED"),
        (Answer(status=401, body={}), FailedPrecondition, "SERVER_REFUSED_KEY"),
        (Answer(status=400, body={"error": {"message": "no such thing"}}), InvalidInput, "REFUSED_BY_SERVER"),
        (
            Answer(status=400, body={"error": {"message": "exceeds the available context size (9 tokens)"}}),
            InvalidInput,
            "PROMPT_TOO_LONG",
        ),
        (Answer(body={"choices": []}), Unavailable, "UNAVAILABLE"),
        (Answer(("data: {broken\n\n",)), Unavailable, "UNAVAILABLE"),
        (Answer(('data: {"choices": 7}\n\n',)), Unavailable, "UNAVAILABLE"),
        (Answer(("data: [1, 2]\n\n",)), Unavailable, "UNAVAILABLE"),
        (Answer((word("a", logprob=float("nan")),)), Unavailable, "UNAVAILABLE"),
        (Answer((word("a"), {"error": {"message": "out of memory", "code": 500}})), Unavailable, "UNAVAILABLE"),
        (Answer((word("a"),)), Unavailable, "UNAVAILABLE"),
        (Answer((word("a"),), done=False), Unavailable, "UNAVAILABLE"),
        (Answer((word("a"), end("content_filter"))), Unavailable, "UNAVAILABLE"),
        (Answer((*[word("a")] * 200, end())), Unavailable, "UNAVAILABLE"),
        (Answer(("data: " + "x" * 3_000_000,)), Unavailable, "UNAVAILABLE"),
        (Answer(({"choices": [{"text": "a"}]}, end())), FailedPrecondition, "UNSUPPORTED_BY_BACKEND"),
    ],
)
async def test_each_failure_of_the_server_has_its_status(answer: Answer, error: type[TandemError], reason: str):
    server = OpenAiServer(models("llamacpp"))
    server.answers.append(answer)
    async with connected(server) as backend:
        with pytest.raises(error) as caught:
            await events(backend, request())
        assert caught.value.reason == reason
        server.answers.append(Answer(GOOD))
        assert text(await events(backend, request())) == "Good day"


async def test_an_overloaded_server_says_when_to_come_back():
    server = OpenAiServer()
    server.answers.append(Answer(status=429, body={}, headers={"retry-after": "7"}))
    async with connected(server) as backend:
        with pytest.raises(Overloaded) as caught:
            await events(backend, request())
    assert caught.value.retry_after_s == 7


async def test_a_server_that_is_gone_is_unavailable():
    server = OpenAiServer()
    async with serving(server):
        config = GeneratorConfig(openai_url=server.url)
        backend = await connect(config, metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer())
        await backend.start()
    with pytest.raises(Unavailable):
        await events(backend, request())
    await backend.stop()
