"""Wires the generator and serves it; `--prepare` converts the bundled model and exits."""

import asyncio
import logging
import sys

import grpc

from services.generator.backend import loading
from services.generator.config import GeneratorConfig
from services.generator.domain import Adapter, Limits
from services.generator.engine import Engine
from services.generator.metrics import GeneratorMetrics
from services.generator.registry import Registry, scan
from services.generator.servicer import GeneratorServicer
from tandem import config as settings
from tandem.errors import ConfigError
from tandem.rpc.server import App, Service, run
from tandem.telemetry import Telemetry
from tandem.v1.generator_service_pb2_grpc import add_GeneratorServiceServicer_to_server


async def build(config: GeneratorConfig, telemetry: Telemetry) -> App:
    """Returns the generator; the model is loaded by the app's start."""
    metrics = GeneratorMetrics(telemetry.registry)
    servicer = GeneratorServicer()
    engines: list[Engine] = []

    async def start() -> None:
        loaded = await asyncio.to_thread(loading.load, config)
        adapters: list[Adapter] = []
        refused = 0
        if config.adapter_dir is not None:
            shapes = loaded.runner.bank.shapes()
            adapters, refused = await asyncio.to_thread(
                scan, config.adapter_dir, shapes, max_adapters=config.max_adapters
            )
        good = [a for a in adapters if await asyncio.to_thread(loading.load_adapter, loaded.runner, a)]
        metrics.adapters.set(len(good))
        metrics.adapters_refused.inc(refused + len(adapters) - len(good))
        await asyncio.to_thread(loading.warm_up, loaded.runner)
        engine = Engine(
            runner=loaded.runner,
            tokenizer=loaded.tokenizer,
            model=loaded.model,
            limits=_limits(config),
            metrics=metrics,
            tracer=telemetry.tracer,
        )
        await engine.start()
        engines.append(engine)
        servicer.adopt(engine, Registry(good))

    async def stop() -> None:
        for engine in engines:
            await engine.stop()

    def add(server: grpc.aio.Server) -> None:
        add_GeneratorServiceServicer_to_server(servicer, server)

    return App(services=[Service("tandem.v1.GeneratorService", add)], start=start, stop=stop)


def _limits(config: GeneratorConfig) -> Limits:
    return Limits(
        max_running=config.max_running,
        max_running_tokens=config.max_running_tokens,
        max_prefill_tokens=config.max_prefill_tokens,
        max_waiting=config.max_waiting,
    )


def prepare() -> int:
    """Makes the model's folder ready, prints it, and returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(loading.prepare(settings.load(GeneratorConfig, "GENERATOR")))
    except ConfigError as error:
        print(f"generator: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(prepare() if sys.argv[1:] == ["--prepare"] else run("generator", GeneratorConfig, build))
