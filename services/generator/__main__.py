"""Wires the generator and serves it; `--prepare` converts the bundled model and exits.

What needs torch is imported only where a model runs in this process: a
generator before another server starts in a second and is small.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc

from services.generator.config import GeneratorConfig
from services.generator.domain import Limits
from services.generator.engine import Engine
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import KeyFiles, NoAdapters, Registry, Rules, verify
from services.generator.servicer import GeneratorServicer, Parts
from tandem import config as settings
from tandem.errors import ConfigError
from tandem.rpc.server import App, Service, run
from tandem.telemetry import Telemetry
from tandem.v1.generator_service_pb2_grpc import add_GeneratorServiceServicer_to_server


async def build(config: GeneratorConfig, telemetry: Telemetry) -> App:
    """Returns the generator; the model is loaded by the app's start."""
    metrics = GeneratorMetrics(telemetry.registry)
    servicer = GeneratorServicer()
    serving: list[Parts] = []

    async def start() -> None:
        if config.backend == "openai":
            parts = await _remote(config, telemetry, metrics)
        else:
            parts = await _local(config, telemetry, metrics, on_failure=app.failed.set)
        serving.append(parts)
        await parts.registry.start()
        await parts.backend.start()
        servicer.adopt(parts)

    async def stop() -> None:
        for parts in serving:
            # The backend first: it gives its pins back.
            await parts.backend.stop()
            await parts.registry.stop()

    def add(server: grpc.aio.Server) -> None:
        add_GeneratorServiceServicer_to_server(servicer, server)

    app = App(services=[Service("tandem.v1.GeneratorService", add)], start=start, stop=stop)
    return app


async def _local(
    config: GeneratorConfig, telemetry: Telemetry, metrics: GeneratorMetrics, *, on_failure: Callable[[], None]
) -> Parts:
    from services.generator.backend import loading

    loaded = await asyncio.to_thread(loading.load, config)
    keys = _keys(config)
    registry = Registry(
        adapters=loaded.adapters,
        check=partial(verify, rules=Rules(shapes=loaded.shapes, base_sha256=loaded.model.sha256, keys=keys)),
        trust=keys.trust,
        folder=config.adapter_dir,
        max_adapters=config.max_adapters,
        metrics=metrics,
        refresh_s=config.adapter_refresh_seconds,
    )
    engine = Engine(
        runner=loaded.runner,
        tokenizer=loaded.tokenizer,
        model=loaded.model,
        limits=_limits(config),
        metrics=metrics,
        tracer=telemetry.tracer,
        features=loaded.features,
        on_failure=on_failure,
    )
    return Parts(backend=engine, registry=registry, kind=loaded.kind)


async def _remote(config: GeneratorConfig, telemetry: Telemetry, metrics: GeneratorMetrics) -> Parts:
    from services.generator.backend import openai

    backend = await openai.connect(config, metrics=metrics, tracer=telemetry.tracer)
    registry = Registry(
        adapters=NoAdapters(), check=partial(verify, rules=Rules()), folder=None, max_adapters=1, metrics=metrics
    )
    return Parts(backend=backend, registry=registry, kind="openai")


def _keys(config: GeneratorConfig) -> KeyFiles:
    """Returns the keys that adapters are checked with; raises ConfigError where they cannot be read."""
    keys = KeyFiles(
        trust=[Path(path).expanduser() for path in config.adapter_trust_files],
        keyring=config.adapter_key_file,
        keyring_text=config.adapter_keys,
    )
    if config.adapter_dir is not None:
        keys.check()
    return keys


def _limits(config: GeneratorConfig) -> Limits:
    return Limits(
        max_running=config.max_running,
        max_prefill_tokens=config.max_prefill_tokens,
        max_step_stretch=config.max_step_stretch,
        max_waiting=config.max_waiting,
        prefix_sharing=config.prefix_sharing,
    )


def prepare() -> int:
    """Makes the model's folder ready, prints it, and returns the exit status."""
    from services.generator.backend import loading

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(loading.prepare(settings.load(GeneratorConfig, "GENERATOR")))
    except ConfigError as error:
        print(f"generator: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(prepare() if sys.argv[1:] == ["--prepare"] else run("generator", GeneratorConfig, build))
