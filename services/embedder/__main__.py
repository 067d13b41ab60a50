"""Runs the embedder: ``python -m services.embedder``."""

import sys

from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder, Limits
from services.embedder.engine import Engine
from services.embedder.metrics import EmbedderMetrics
from services.embedder.servicer import SERVICE_NAME, EmbedderServicer
from tandem.rpc.server import App, Service, run
from tandem.telemetry import Telemetry
from tandem.v1.embedder_service_pb2_grpc import add_EmbedderServiceServicer_to_server


async def build(config: EmbedderConfig, telemetry: Telemetry) -> App:
    """Wires the embedder."""

    def load() -> Encoder:
        # Imported here, in the model's thread: torch takes seconds, and health must answer meanwhile.
        from services.embedder import backend

        return backend.load(config.model, precision=config.precision, device=config.device, threads=config.threads)

    limits = Limits(
        max_batch_tokens=config.max_batch_tokens,
        max_batch_texts=config.max_batch_texts,
        max_queue_tokens=config.max_queue_tokens,
        max_stream_texts=config.max_stream_texts,
    )
    metrics = EmbedderMetrics(telemetry.registry)
    engine = Engine(load, limits=limits, metrics=metrics, tracer=telemetry.tracer)
    servicer = EmbedderServicer(engine)
    service = Service(name=SERVICE_NAME, add=lambda server: add_EmbedderServiceServicer_to_server(servicer, server))
    return App(services=[service], start=engine.start, stop=engine.stop)


if __name__ == "__main__":
    sys.exit(run("embedder", EmbedderConfig, build))
