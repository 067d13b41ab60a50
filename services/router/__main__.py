"""Wires the router and serves it: python -m services.router."""

import asyncio
import sys

from services.router import policies
from services.router.advisor import Advisor, AnswerWindow, LiveEvidence
from services.router.audit import AuditLog, AuditReader, Payloads
from services.router.backend import (
    Breaker,
    PeerDocuments,
    PeerEmbedder,
    PeerGenerator,
    PeerLikelihoodScorer,
    PeerPairClassifier,
    PeerRetriever,
    PeerTextEmbedder,
)
from services.router.config import RouterConfig
from services.router.domain import EMBEDDER, GENERATOR, RETRIEVER
from services.router.engine import Admission, Ports, RouterEngine, RunSettings
from services.router.grounding import SentenceGrounding
from services.router.metrics import RouterMetrics
from services.router.servicer import Adviser, AuditServicer, OneDomain, RouterServicer
from tandem.rpc.channel import connect
from tandem.rpc.server import App, Service, run
from tandem.security import read_credential
from tandem.telemetry import Telemetry
from tandem.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from tandem.v1.router_service_pb2_grpc import add_RouterServiceServicer_to_server


async def build(config: RouterConfig, telemetry: Telemetry) -> App:
    """Returns the router with everything that it is made of."""
    metrics = RouterMetrics(telemetry.registry)
    token = read_credential(config.credential_file)
    channels = [
        connect(target, token=token, forward_principal=True, max_message_bytes=config.max_message_bytes)
        for target in (config.embedder_target, config.retriever_target, config.generator_target)
    ]
    breakers = {
        peer: Breaker(peer, max_failures=config.breaker_failures, open_s=config.breaker_seconds, metrics=metrics)
        for peer in (EMBEDDER, RETRIEVER, GENERATOR)
    }
    log = AuditLog(
        url=config.audit_url,
        writer=config.writer,
        payloads=Payloads(keep_text=config.audit_text == "full"),
        metrics=metrics,
        max_queue=config.audit_queue,
    )
    reader = AuditReader(config.audit_url)
    window = AnswerWindow()
    advisor = Advisor()
    engine = RouterEngine(
        ports=Ports(
            embedder=PeerEmbedder(channels[0], breakers[EMBEDDER]),
            retriever=PeerRetriever(channels[1], breakers[RETRIEVER]),
            generator=PeerGenerator(channels[2], breakers[GENERATOR]),
            audit=log,
            grounding=SentenceGrounding(
                embedder=PeerTextEmbedder(channels[0], breakers[EMBEDDER]),
                scorer=PeerLikelihoodScorer(channels[2], breakers[GENERATOR]),
                classifier=PeerPairClassifier(channels[0], breakers[EMBEDDER]),
            ),
        ),
        policies=policies.build(pattern=lambda profile: advisor.advise(profile).pattern),
        settings=RunSettings(
            max_answer_tokens=config.max_answer_tokens,
            max_prompt_characters=config.max_prompt_characters,
            stream_drafts=config.stream_drafts,
        ),
        admission=Admission(
            max_running=config.max_concurrent_answers, max_waiting=config.max_waiting_answers, metrics=metrics
        ),
        metrics=metrics,
        tracer=telemetry.tracer,
        adapter_cache_s=config.adapter_cache_seconds,
        default_timeout_s=config.default_deadline_seconds,
        observer=window,
    )
    adviser = Adviser(
        advisor,
        evidence=LiveEvidence(window, PeerDocuments(channels[1])),
        profiles=OneDomain(),
        default_timeout_s=config.default_deadline_seconds,
    )
    router = RouterServicer(
        engine,
        adviser=adviser,
        default_policy=config.default_policy,
        default_passages=config.default_passages,
    )
    auditor = AuditServicer(reader)

    async def start() -> None:
        await asyncio.to_thread(log.start)
        await asyncio.to_thread(reader.start)

    async def stop() -> None:
        await engine.stop()
        await asyncio.to_thread(log.stop)
        reader.stop()
        for channel in channels:
            await channel.close()

    return App(
        services=(
            Service("tandem.v1.RouterService", lambda server: add_RouterServiceServicer_to_server(router, server)),
            Service("tandem.v1.AuditService", lambda server: add_AuditServiceServicer_to_server(auditor, server)),
        ),
        start=start,
        stop=stop,
    )


if __name__ == "__main__":
    sys.exit(run("router", RouterConfig, build))
