"""Wires the router and serves it: python -m services.router."""

import asyncio
import sys
from collections.abc import Collection

from services.router import calibration, policies
from services.router.advisor import Advisor, AnswerWindow, LiveEvidence, VerdictWindow
from services.router.audit import AuditLog, AuditReader, Payloads
from services.router.backend import (
    Breaker,
    Hedge,
    PeerDocuments,
    PeerEmbedder,
    PeerGenerator,
    PeerLikelihoodScorer,
    PeerPairClassifier,
    PeerRetriever,
    PeerTextEmbedder,
)
from services.router.config import RouterConfig
from services.router.domain import EMBEDDER, GENERATOR, RETRIEVER, Depth, Domain
from services.router.domains import DomainFolder, DomainReader, OneDomain
from services.router.engine import Admission, Ports, RouterEngine, RunSettings
from services.router.feedback import FeedbackIntake
from services.router.grounding import SentenceGrounding
from services.router.metrics import RouterMetrics
from services.router.servicer import Adviser, AuditServicer, FeedbackServicer, Grounder, RouterServicer
from tandem.rpc.channel import connect
from tandem.rpc.server import App, Service, run
from tandem.security import read_credential
from tandem.telemetry import Telemetry
from tandem.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from tandem.v1.feedback_service_pb2_grpc import add_FeedbackServiceServicer_to_server
from tandem.v1.router_service_pb2_grpc import add_RouterServiceServicer_to_server


async def build(config: RouterConfig, telemetry: Telemetry) -> App:
    """Returns the router with everything that it is made of."""
    metrics = RouterMetrics(telemetry.registry)
    peers = _Peers(config, metrics)
    log = AuditLog(
        url=config.audit_url,
        writer=config.writer,
        payloads=Payloads(keep_text=config.audit_text == "full"),
        metrics=metrics,
        max_queue=config.audit_queue,
    )
    reader = AuditReader(config.audit_url)
    window, verdicts, advisor = AnswerWindow(), VerdictWindow(), Advisor()
    engine = RouterEngine(
        ports=Ports(
            embedder=peers.embedder,
            retriever=peers.retriever,
            generator=peers.generator,
            audit=log,
            grounding=peers.grounding,
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
    domains = _domains(config, known=engine.policies, metrics=metrics)
    timeout_s = config.default_deadline_seconds
    evidence = LiveEvidence(window, peers.documents, domains=domains, verdicts=verdicts)
    router = RouterServicer(
        engine,
        domains=domains,
        adviser=Adviser(advisor, evidence=evidence, domains=domains, default_timeout_s=timeout_s),
        grounder=Grounder(peers.grounding, default_depth=Depth(config.grounding_depth), default_timeout_s=timeout_s),
        default_passages=config.default_passages,
    )
    auditor = AuditServicer(reader)
    intake = FeedbackIntake(log=log, records=reader, observer=verdicts, metrics=metrics)
    judge = FeedbackServicer(intake)

    async def start() -> None:
        await domains.start()
        await asyncio.to_thread(log.start)
        await asyncio.to_thread(reader.start)
        await intake.start()

    async def stop() -> None:
        await domains.stop()
        await engine.stop()
        await asyncio.to_thread(log.stop)
        reader.stop()
        await peers.close()

    return App(
        services=(
            Service("tandem.v1.RouterService", lambda server: add_RouterServiceServicer_to_server(router, server)),
            Service("tandem.v1.AuditService", lambda server: add_AuditServiceServicer_to_server(auditor, server)),
            Service("tandem.v1.FeedbackService", lambda server: add_FeedbackServiceServicer_to_server(judge, server)),
        ),
        start=start,
        stop=stop,
    )


class _Peers:
    """Holds the ports of the peers, each with its channel and breaker."""

    def __init__(self, config: RouterConfig, metrics: RouterMetrics) -> None:
        token = read_credential(config.credential_file)
        self._channels = [
            connect(target, token=token, forward_principal=True, max_message_bytes=config.max_message_bytes)
            for target in (config.embedder_target, config.retriever_target, config.generator_target)
        ]
        to_embedder, to_retriever, to_generator = (
            (
                channel,
                Breaker(peer, max_failures=config.breaker_failures, open_s=config.breaker_seconds, metrics=metrics),
            )
            for channel, peer in zip(self._channels, (EMBEDDER, RETRIEVER, GENERATOR), strict=True)
        )
        hedges = {peer: Hedge(peer, after_s=config.hedge_seconds, metrics=metrics) for peer in (EMBEDDER, RETRIEVER)}
        self.embedder = PeerEmbedder(*to_embedder, hedges[EMBEDDER])
        self.retriever = PeerRetriever(*to_retriever, hedges[RETRIEVER])
        self.generator = PeerGenerator(*to_generator)
        self.documents = PeerDocuments(to_retriever[0])
        self.grounding = SentenceGrounding(
            embedder=PeerTextEmbedder(*to_embedder),
            scorer=PeerLikelihoodScorer(*to_generator),
            classifier=PeerPairClassifier(*to_embedder),
        )

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()


def _domains(config: RouterConfig, *, known: Collection[str], metrics: RouterMetrics) -> DomainFolder | OneDomain:
    """Returns the domains of the folder that is configured, else the one that the settings describe."""
    base = Domain(
        policy=config.default_policy,
        answer_adapter=config.answer_adapter,
        reading_adapter=config.reading_adapter,
        threshold=config.cascade_threshold,
        min_groundedness=config.min_groundedness,
        depth=Depth(config.grounding_depth),
    )
    if config.domains_dir is None:
        return OneDomain(base)
    reader = DomainReader(base=base, policies=tuple(known), calibration=calibration.read)
    return DomainFolder(config.domains_dir, reader=reader, metrics=metrics, refresh_s=config.domains_refresh_seconds)


if __name__ == "__main__":
    sys.exit(run("router", RouterConfig, build))
