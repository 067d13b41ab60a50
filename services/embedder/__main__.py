"""Runs the embedder: ``python -m services.embedder``."""

import sys

from services.embedder.config import EmbedderConfig
from services.embedder.domain import Encoder, Limits, PairScorer
from services.embedder.engine import Engine
from services.embedder.metrics import EmbedderMetrics
from services.embedder.servicer import SERVICE_NAME, EmbedderServicer
from tandem.cores import usable_cores
from tandem.rpc.server import App, Service, run
from tandem.telemetry import Telemetry
from tandem.v1.embedder_service_pb2_grpc import add_EmbedderServiceServicer_to_server


async def build(config: EmbedderConfig, telemetry: Telemetry) -> App:
    """Wires the embedder."""
    workers, threads = config.lanes(cores=usable_cores())

    # Imported in the model's thread: torch takes seconds, and health must answer meanwhile.

    def load() -> Encoder:
        from services.embedder import backend

        return backend.load_encoder(config, workers=workers, threads=threads)

    def load_reranker() -> PairScorer:
        from services.embedder import backend

        return backend.load_reranker(config, threads=threads)

    def load_classifier() -> PairScorer:
        from services.embedder import backend

        return backend.load_classifier(config, threads=threads)

    limits = Limits(
        max_batch_tokens=config.max_batch_tokens,
        max_batch_texts=config.max_batch_texts,
        max_queue_tokens=config.max_queue_tokens,
        max_stream_texts=config.max_stream_texts,
        workers=workers,
        cache_texts=config.cache_texts,
    )
    metrics = EmbedderMetrics(telemetry.registry)
    engine = Engine(
        load,
        limits=limits,
        metrics=metrics,
        tracer=telemetry.tracer,
        load_reranker=load_reranker if config.reranker else None,
        load_classifier=load_classifier if config.classifier else None,
    )
    servicer = EmbedderServicer(engine)
    service = Service(name=SERVICE_NAME, add=lambda server: add_EmbedderServiceServicer_to_server(servicer, server))
    return App(services=[service], start=engine.start, stop=engine.stop)


if __name__ == "__main__":
    sys.exit(run("embedder", EmbedderConfig, build))
