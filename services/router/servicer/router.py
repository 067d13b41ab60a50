"""RouterService: questions in, answers out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.router.domain import Answer, Domains, Event, Question
from services.router.engine import RouterEngine
from services.router.servicer.advise import Adviser
from services.router.servicer.check import question_of
from services.router.servicer.convert import answer_to_proto, event_to_proto
from services.router.servicer.domains import DomainLister
from services.router.servicer.ground import Grounder
from tandem.rpc import call
from tandem.v1 import advice_pb2, domains_pb2, router_service_pb2, router_service_pb2_grpc

_MAX_EVENTS = 64
"""Events that may wait for a slow reader before the path that makes them waits, too."""

Context = grpc.aio.ServicerContext[Any, Any]


class RouterServicer(router_service_pb2_grpc.RouterServiceServicer):
    """Checks, calls the engine, the domains, the advisor or grounding, converts."""

    def __init__(
        self,
        engine: RouterEngine,
        *,
        domains: Domains,
        adviser: Adviser,
        grounder: Grounder,
        default_passages: int,
    ) -> None:
        self._engine = engine
        self._domains = domains
        self._lister = DomainLister(domains)
        self._adviser = adviser
        self._grounder = grounder
        self._default_passages = default_passages

    async def Ask(self, request: router_service_pb2.AskRequest, context: Context) -> router_service_pb2.AskResponse:
        """Returns the whole answer at once."""
        answer = await self._engine.answer(self._question(request), _unheard)
        return router_service_pb2.AskResponse(answer=answer_to_proto(answer))

    async def StreamAsk(
        self, request: router_service_pb2.StreamAskRequest, context: Context
    ) -> AsyncIterator[router_service_pb2.StreamAskResponse]:
        """Returns the answer as it is made."""
        question = self._question(request.request)
        events: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_EVENTS)
        work = asyncio.create_task(self._engine.answer(question, events.put))
        work.add_done_callback(lambda _: None if events.full() else events.put_nowait(None))
        try:
            while not (work.done() and events.empty()):
                event = await events.get()
                if event is not None:
                    yield event_to_proto(event)
            answer = await work
        finally:
            # A caller who has left takes the answer along; its record is closed before the call ends.
            await _end(work)
        yield router_service_pb2.StreamAskResponse(
            finished=router_service_pb2.AnswerFinished(answer=answer_to_proto(answer))
        )

    async def ListPolicies(
        self, request: router_service_pb2.ListPoliciesRequest, context: Context
    ) -> router_service_pb2.ListPoliciesResponse:
        """Names the policies, and that of the caller's default domain."""
        caller = call.principal()
        policy_by_domain = {row.domain.name: row.domain.policy for row in self._domains.list(caller)}
        return router_service_pb2.ListPoliciesResponse(
            policies=[
                router_service_pb2.PolicyDescription(name=policy.name, description=policy.description)
                for policy in self._engine.policies.values()
            ],
            default_policy=policy_by_domain.get(self._domains.default(caller), ""),
        )

    async def Advise(self, request: advice_pb2.AdviseRequest, context: Context) -> advice_pb2.AdviseResponse:
        """Says which approach suits a domain, and why."""
        return await self._adviser.answer(request)

    async def ListDomains(
        self, request: domains_pb2.ListDomainsRequest, context: Context
    ) -> domains_pb2.ListDomainsResponse:
        """Names the domains that the caller may ask."""
        return self._lister.answer(request)

    async def Ground(
        self, request: router_service_pb2.GroundRequest, context: Context
    ) -> router_service_pb2.GroundResponse:
        """Says how far passages support an answer."""
        return await self._grounder.answer(request)

    def _question(self, request: router_service_pb2.AskRequest) -> Question:
        return question_of(
            request,
            principal=call.require_role("user"),
            domains=self._domains,
            default_passages=self._default_passages,
            timeout_s=call.remaining(),
        )


async def _unheard(_event: Event) -> None:
    return None


async def _end(work: asyncio.Task[Answer]) -> None:
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()
