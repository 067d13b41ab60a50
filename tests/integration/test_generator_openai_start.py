"""How the backend openai finds its server, its model and its key."""

import asyncio
import logging

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend.openai import connect
from services.generator.config import GeneratorConfig
from services.generator.metrics import GeneratorMetrics
from tandem.errors import ConfigError, Unavailable
from tests.fakes.generator_openai import GOOD, connected, events, request
from tests.fakes.openai_server import Answer, OpenAiServer, models, serving


async def test_start_waits_for_a_server_that_is_loading():
    server = OpenAiServer()
    ready, server.models = server.models, Answer(status=503, body={})
    async with serving(server):
        config = GeneratorConfig(openai_url=server.url)
        connecting = asyncio.create_task(
            connect(config, metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer())
        )
        await server.reached(1)
        assert not connecting.done()
        server.models = ready
        backend = await asyncio.wait_for(connecting, 20)
        await backend.stop()


@pytest.mark.parametrize(
    ("answer", "model"),
    [
        (Answer(status=401, body={}), None),
        (Answer(status=404, body={}), None),
        (Answer(body=models()), "another"),
        (Answer(body={"data": []}), None),
        (Answer(body={"data": [{"id": "a"}, {"id": "b"}]}), None),
    ],
)
async def test_a_server_that_cannot_serve_stops_the_start(answer: Answer, model: str | None):
    server = OpenAiServer()
    server.models = answer
    async with serving(server):
        config = GeneratorConfig(openai_url=server.url, **({"model": model} if model else {}))  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            await connect(config, metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer())


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host/v1", "http://user:secret@host/v1", "http://", "http://a b/", "http://[x"]
)
async def test_an_address_that_is_none_stops_the_start(url: str):
    with pytest.raises(ConfigError) as caught:
        await connect(
            GeneratorConfig(openai_url=url), metrics=GeneratorMetrics(CollectorRegistry()), tracer=NoOpTracer()
        )
    assert "secret" not in str(caught.value)


async def test_vllms_adapters_are_not_taken_for_models():
    listed = models("vllm", max_model_len=99)
    listed["data"].append({"id": "lora", "owned_by": "vllm", "parent": "tiny"})
    async with connected(OpenAiServer(listed)) as backend:
        assert (backend.model.name, backend.model.max_context_tokens) == ("tiny", 99)


async def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "key"
    key.write_text("sesame\n")
    server = OpenAiServer()
    server.answers.extend([Answer(GOOD), Answer(status=500, body={})])
    async with connected(server, openai_key_file=key) as backend:
        await events(backend, request())
        with pytest.raises(Unavailable) as caught:
            await events(backend, request("a secret question"))
    assert [sent.headers["authorization"] for sent in server.requests] == ["Bearer sesame"] * 3
    assert "sesame" not in caplog.text + repr(caught.value)
    assert "secret question" not in caplog.text


@pytest.mark.parametrize("content", ["", "two\nlines", "ü"])
async def test_a_key_file_without_a_key_stops_the_start(tmp_path, content: str):
    key = tmp_path / "key"
    key.write_text(content)
    with pytest.raises(ConfigError):
        await connect(
            GeneratorConfig(openai_url="http://127.0.0.1:1/v1", openai_key_file=key),
            metrics=GeneratorMetrics(CollectorRegistry()),
            tracer=NoOpTracer(),
        )
