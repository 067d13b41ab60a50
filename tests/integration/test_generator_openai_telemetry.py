"""The metrics of the backend openai."""

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.generator.backend.openai import connect
from services.generator.config import GeneratorConfig
from services.generator.metrics import GeneratorMetrics
from tandem.errors import Unavailable
from tests.fakes.generator_openai import GOOD, events, request
from tests.fakes.openai_server import Answer, OpenAiServer, serving, word


async def test_metrics_tell_what_happened():
    server = OpenAiServer()
    server.answers.extend([Answer(GOOD), Answer(status=500, body={}), Answer((word("a"),), hold=True)])
    registry = CollectorRegistry()
    async with serving(server):
        config = GeneratorConfig(openai_url=server.url)
        backend = await connect(config, metrics=GeneratorMetrics(registry), tracer=NoOpTracer())
        await backend.start()
        await events(backend, request())
        with pytest.raises(Unavailable):
            await events(backend, request())
        left = backend.generate(request())
        await anext(left)
        assert registry.get_sample_value("tandem_generator_running_sequences") == 1
        await left.aclose()
        await backend.stop()
    for reason in ("stop", "failed", "cancelled"):
        assert registry.get_sample_value("tandem_generator_sequences_total", {"reason": reason}) == 1
    assert registry.get_sample_value("tandem_generator_decode_tokens_total") == 2
    assert registry.get_sample_value("tandem_generator_running_sequences") == 0
    assert registry.get_sample_value("tandem_generator_queue_seconds_count") == 3
