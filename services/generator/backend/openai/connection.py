"""Finds the server and the model that the configuration names."""

import asyncio
import logging

import httpx2
from opentelemetry.trace import Tracer

from services.generator.backend.openai import api
from services.generator.backend.openai.backend import OpenAiBackend
from services.generator.config import GeneratorConfig
from services.generator.domain import Limits
from services.generator.metrics import GeneratorMetrics
from tandem.errors import ConfigError, FailedPrecondition, TandemError, Unavailable

log = logging.getLogger(__name__)
_CONNECT_S = 5.0
_LIST_S = 10.0
_SILENCE_S = 300.0
"""Longest time without a byte from the server, its queue and prefill included; a deadline may end a call earlier."""
_MAX_PAUSE_S = 5.0


async def connect(config: GeneratorConfig, *, metrics: GeneratorMetrics, tracer: Tracer) -> OpenAiBackend:
    """Returns the backend for the configured server, once that answers.

    Waits for a server that is down or loading as long as it takes, so that
    the processes may start in any order. Raises ConfigError for a server
    that refuses the key or does not serve the model.
    """
    client = _client(config)
    try:
        found = await _find(client, name=None if config.model == GeneratorConfig.model else config.model)
    except BaseException:
        await client.aclose()
        raise
    limits = Limits(max_running=config.max_running, max_waiting=config.max_waiting)
    return OpenAiBackend(client=client, served=found, limits=limits, metrics=metrics, tracer=tracer)


def _client(config: GeneratorConfig) -> httpx2.AsyncClient:
    try:
        url = httpx2.URL(config.openai_url)
    except httpx2.InvalidURL as error:
        raise ConfigError("GENERATOR_OPENAI_URL is no URL") from error
    if url.scheme not in ("http", "https") or not url.host or "%" in url.host or url.userinfo:
        raise ConfigError("GENERATOR_OPENAI_URL must be like http://host:8000/v1, without a user or password")
    headers = {}
    if config.openai_key_file is not None:
        try:
            key = config.openai_key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            # Without the cause: a decoding error quotes what it could not decode.
            raise ConfigError(f"GENERATOR_OPENAI_KEY_FILE: cannot read {config.openai_key_file} as text") from None
        if not key or not key.isprintable():
            raise ConfigError(f"GENERATOR_OPENAI_KEY_FILE: {config.openai_key_file} does not hold one line of text")
        headers["Authorization"] = f"Bearer {key}"
    # One line for each request is noise beside our own log.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return httpx2.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
        limits=httpx2.Limits(max_connections=config.max_running + 4),
        trust_env=False,
    )


async def _find(client: httpx2.AsyncClient, *, name: str | None) -> api.Served:
    """Returns the model of that name, or the only one; waits until the server answers."""
    pause = 0.25
    while True:
        try:
            models = await _models(client)
            break
        except FailedPrecondition as error:
            raise ConfigError(f"GENERATOR_OPENAI_URL: {error.message}") from error
        except TandemError as error:
            log.warning("waiting for the model server", extra={"reason": error.message})
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_S, 2 * pause)
    wanted = [found for found in models if name is None or found.model.name == name]
    if len(wanted) != 1:
        names = ", ".join(found.model.name for found in models) or "none"
        raise ConfigError(f"GENERATOR_MODEL must name one of the server's models: {names}")
    return wanted[0]


async def _models(client: httpx2.AsyncClient) -> list[api.Served]:
    try:
        response = await client.get("models", timeout=_LIST_S)
        if response.status_code == httpx2.codes.NOT_FOUND:
            raise FailedPrecondition("there is no list of models at /models; does the path end in /v1?")
        if response.status_code != httpx2.codes.OK:
            raise api.failure(response, response.content)
        return api.served(response.json())
    except (httpx2.HTTPError, ValueError) as error:
        raise Unavailable("the model server cannot be reached") from error
