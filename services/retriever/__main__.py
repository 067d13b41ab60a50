"""Runs the retriever: ``python -m services.retriever``."""

import asyncio
import sys

from services.retriever.backend.embedder import EmbedderPeer
from services.retriever.backend.embedders import Embedders
from services.retriever.backend.store import MilvusStore
from services.retriever.config import RetrieverConfig
from services.retriever.domain import ReciprocalRank, Weighted
from services.retriever.engine import Defaults, Documents, Searcher
from services.retriever.ingest.pipeline import Ingestion
from services.retriever.ingest.window import Limits
from services.retriever.ingest.workers import ParserPool
from services.retriever.jobs.registry import JobLimits, Jobs
from services.retriever.jobs.runner import Runner
from services.retriever.jobs.spool import Spool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.servicer import SERVICE_NAME, RetrieverServicer
from services.retriever.snapshots import Builder, Keeper
from services.retriever.sources.config import load_sources
from services.retriever.sources.watch import Watch
from tandem.rpc.channel import connect
from tandem.rpc.server import App, Service, run
from tandem.security import read_credential
from tandem.telemetry import Telemetry
from tandem.v1.retriever_service_pb2_grpc import add_RetrieverServiceServicer_to_server


async def build(config: RetrieverConfig, telemetry: Telemetry) -> App:
    """Wires the retriever."""
    metrics = RetrieverMetrics(telemetry.registry)
    store = MilvusStore(config, metrics=metrics)
    parser = ParserPool(
        workers=config.parse_workers,
        seconds=config.parse_seconds,
        memory_mib=config.parse_memory_mib,
        chunk_characters=config.chunk_characters,
        max_characters=config.max_text_characters,
    )
    token = await asyncio.to_thread(read_credential, config.credential_file)
    targets = [target for target in (config.embedder_target, config.embedder_next_target) if target]
    channels = [connect(target, token=token, max_message_bytes=16 * 1024 * 1024) for target in targets]
    # Documents are embedded in the retriever's own name, on a channel with time for a batch.
    bulk_channels = [
        connect(
            target,
            token=token,
            default_timeout_s=config.embed_timeout_seconds,
            max_message_bytes=64 * 1024 * 1024,
        )
        for target in targets
    ]
    bulk_embedders = Embedders(*(EmbedderPeer(channel, patient=True) for channel in bulk_channels))
    limits = Limits(
        streams=config.max_ingest_streams,
        documents=config.max_ingest_documents,
        bytes=config.max_ingest_mib * 1024 * 1024,
        chunk_characters=config.chunk_characters,
        embed_batch_texts=config.embed_batch_texts,
        embed_concurrency=config.embed_concurrency,
        write_batch_chunks=config.write_batch_chunks,
    )
    fusion = (
        Weighted(config.fusion_dense_weight)
        if config.fusion == "weighted"
        else ReciprocalRank(config.fusion_k, config.fusion_dense_weight)
    )
    searcher = Searcher(
        store=store,
        embedder=Embedders(*map(EmbedderPeer, channels)),
        defaults=Defaults(fusion=fusion, rerank=config.rerank),
        metrics=metrics,
        tracer=telemetry.tracer,
    )
    ingestion = Ingestion(
        store=store,
        embedder=bulk_embedders,
        parser=parser,
        limits=limits,
        metrics=metrics,
        tracer=telemetry.tracer,
    )
    jobs = _jobs(config, ingestion, metrics)
    sources = await asyncio.to_thread(load_sources, config.sources_file)
    watch = Watch(sources, store=store, intake=ingestion, metrics=metrics)
    builder = Builder(
        store=store,
        models=bulk_embedders,
        batch_texts=config.embed_batch_texts,
        metrics=metrics,
        tracer=telemetry.tracer,
    )
    keeper = Keeper(
        store=store,
        builder=builder,
        models=bulk_embedders,
        chunk_characters=config.chunk_characters,
        analyzer=config.analyzer,
        refresh_seconds=None if store.connection.embedded else config.snapshot_refresh_seconds,
    )
    servicer = RetrieverServicer(
        searcher=searcher,
        documents=Documents(store=store, metrics=metrics),
        ingestion=ingestion,
        jobs=jobs,
        keeper=keeper,
        collection=config.collection,
        max_message_bytes=config.max_message_bytes,
    )

    async def start() -> None:
        await store.open()
        ingestion.start()
        keeper.start()
        await jobs.start()
        watch.start()

    async def stop() -> None:
        await keeper.stop()
        await watch.stop()
        await jobs.stop()
        await ingestion.stop()
        await parser.close()
        await store.close()
        for channel in (*channels, *bulk_channels):
            await channel.close()

    service = Service(name=SERVICE_NAME, add=lambda server: add_RetrieverServiceServicer_to_server(servicer, server))
    return App(services=[service], start=start, stop=stop)


def _jobs(config: RetrieverConfig, ingestion: Ingestion, metrics: RetrieverMetrics) -> Jobs:
    spool = Spool(config.spool)
    runner = Runner(spool=spool, intake=ingestion, concurrency=config.job_concurrency, metrics=metrics)
    limits = JobLimits(
        uploads=config.max_ingest_streams,
        jobs=config.max_jobs,
        bytes=config.max_job_mib * 1024 * 1024,
        keep_days=config.job_keep_days,
    )
    return Jobs(spool=spool, runner=runner, limits=limits, metrics=metrics)


if __name__ == "__main__":
    sys.exit(run("retriever", RetrieverConfig, build))
