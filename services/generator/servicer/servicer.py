"""GeneratorService's methods: check, call, convert."""

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from services.generator.domain import Backend, Delta, Feature, Finished, GenerateInput, Pin, Started
from services.generator.engine import meaning
from services.generator.registry import Registry
from services.generator.servicer import checks, requests, responses
from tandem.errors import FailedPrecondition, InvalidInput
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tandem.v1 import generator_service_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Is what calls are served with; `kind` is the backend's name in the contract."""

    backend: Backend
    registry: Registry
    kind: str


class GeneratorServicer(generator_service_pb2_grpc.GeneratorServiceServicer):
    """Serves what a backend can do; `adopt` gives it the backend once the model is there.

    Between taking a request's pins and handing them to the backend no method
    waits, so that no caller who leaves can leave a pin behind; from then on
    they are the backend's, even if it is never asked for an event.
    """

    def __init__(self) -> None:
        self._adopted: Parts | None = None

    def adopt(self, parts: Parts) -> None:
        """Takes what calls are served with; the server lets no call in before."""
        self._adopted = parts

    async def Generate(self, request: pb.GenerateRequest, context: _Context) -> pb.GenerateResponse:
        """Returns the whole text at once."""
        wanted = self._generate_input(request)
        response = pb.GenerateResponse()
        pieces: list[str] = []
        async with aclosing(self._parts.backend.generate(wanted)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    if request.include_token_logprobs:
                        response.tokens.append(responses.token_logprob(event.token))
                elif isinstance(event, Finished):
                    pieces.append(event.tail)
                    response.finished.CopyFrom(responses.finished(event))
        response.text = "".join(pieces)
        return response

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: _Context
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Yields started, deltas and finished."""
        wanted = self._generate_input(request.request, within="request.")
        with_tokens = request.request.include_token_logprobs
        async with aclosing(self._parts.backend.generate(wanted)) as events:
            async for event in events:
                if isinstance(event, Started):
                    yield responses.started(event)
                elif isinstance(event, Delta):
                    if event.text or with_tokens:
                        yield responses.delta(event.text, [event.token] if with_tokens else [])
                else:
                    if event.tail:
                        yield responses.delta(event.tail)
                    yield pb.StreamGenerateResponse(finished=responses.finished(event))

    async def Score(self, request: pb.ScoreRequest, context: _Context) -> pb.ScoreResponse:
        """Returns the likelihood of each continuation."""
        caller = call.require_role("user")
        requests.refuse(checks.score(request))
        wanted = requests.score_input(request, tenant=caller.tenant, pin=self._take_pin(caller))
        scores, usage = await self._parts.backend.score(wanted)
        return pb.ScoreResponse(
            scores=[responses.score(item, with_tokens=request.include_token_logprobs) for item in scores],
            usage=responses.usage(usage),
            lineage=responses.lineage_of(self._parts.backend.model, wanted.pin),
        )

    async def Sample(self, request: pb.SampleRequest, context: _Context) -> pb.SampleResponse:
        """Returns several answers and how far they disagree."""
        caller = call.require_role("user")
        vocabulary_size = self._parts.backend.model.vocabulary_size
        requests.refuse(checks.sample(request, vocabulary_size=vocabulary_size))
        wanted = requests.sample_inputs(request, tenant=caller.tenant, pin=self._take_pin(caller))
        return responses.samples(await meaning.sample(self._parts.backend, wanted))

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: _Context) -> pb.LoadAdapterResponse:
        """Loads what an adapter's aliases name in the caller's tenant's folder now, or one version of it too."""
        caller = self._operator()
        loaded = await self._parts.registry.load(request.name, tenant=caller.tenant)
        return pb.LoadAdapterResponse(
            adapter=responses.adapter(loaded.shown), replaced_sha256=loaded.before.sha256 if loaded.before else ""
        )

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: _Context) -> pb.UnloadAdapterResponse:
        """Takes an adapter from new calls."""
        caller = self._operator()
        self._parts.registry.unload(request.name, tenant=caller.tenant)
        return pb.UnloadAdapterResponse()

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: _Context) -> pb.ListAdaptersResponse:
        """Returns a page of the adapters that the caller's tenant may use."""
        caller = call.require_role("user", "operator")
        registry = self._parts.registry
        if not 0 <= request.page_size <= 1000:
            raise InvalidInput.of("page_size", "must be from 0 to 1,000")
        after = _read_page_token(request.page_token)
        adapters = [shown for shown in registry.visible(caller.tenant) if shown.adapter.name > after]
        page = adapters[: request.page_size or 100]
        return pb.ListAdaptersResponse(
            adapters=[responses.adapter(shown, explained="operator" in caller.roles) for shown in page],
            next_page_token=_page_token(page[-1].adapter.name) if len(adapters) > len(page) else "",
        )

    async def PromoteAdapter(self, request: pb.PromoteAdapterRequest, context: _Context) -> pb.PromoteAdapterResponse:
        """Makes the candidate, or the version that is named, the stable one."""
        caller = self._operator()
        made = await self._parts.registry.promote(request.name, tenant=caller.tenant, version=request.version)
        return pb.PromoteAdapterResponse(adapter=responses.adapter(made.shown), previous_version=made.previous)

    async def RollBackAdapter(
        self, request: pb.RollBackAdapterRequest, context: _Context
    ) -> pb.RollBackAdapterResponse:
        """Makes what was stable before stable again."""
        caller = self._operator()
        made = await self._parts.registry.roll_back(request.name, tenant=caller.tenant)
        return pb.RollBackAdapterResponse(adapter=responses.adapter(made.shown), previous_version=made.previous)

    async def SetAdapterCanary(
        self, request: pb.SetAdapterCanaryRequest, context: _Context
    ) -> pb.SetAdapterCanaryResponse:
        """Gives the candidate a share of the calls."""
        caller = self._operator()
        if not 0 <= request.share <= 1:  # so that NaN fails as well
            raise InvalidInput.of("share", "must be from 0 to 1")
        made = await self._parts.registry.set_canary(
            request.name, request.share, tenant=caller.tenant, version=request.version
        )
        return pb.SetAdapterCanaryResponse(adapter=responses.adapter(made.shown))

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Returns the description of the base model."""
        call.require_role("user", "operator")
        backend = self._parts.backend
        return pb.GetModelResponse(
            lineage=responses.lineage_of(backend.model),
            max_context_tokens=backend.model.max_context_tokens,
            precision=backend.model.precision,
            backend=self._parts.kind,
            features=sorted(feature.value for feature in backend.features),
        )

    @property
    def _parts(self) -> Parts:
        if self._adopted is None:
            raise RuntimeError("a call came in before the model was loaded")
        return self._adopted

    def _generate_input(self, request: pb.GenerateRequest, *, within: str = "") -> GenerateInput:
        caller = call.require_role("user")
        vocabulary_size = self._parts.backend.model.vocabulary_size
        requests.refuse(checks.generate(request, vocabulary_size=vocabulary_size), within=within)
        return requests.generate_input(request, tenant=caller.tenant, pin=self._take_pin(caller))

    def _take_pin(self, caller: Principal) -> requests.TakePin:
        lot = self._parts.registry.draw()

        def take(name: str) -> Pin:
            self._need_adapters()
            # One lot for all that the call names: a canary never mixes versions in one answer.
            return self._parts.registry.pin(name, tenant=caller.tenant, lot=lot)

        return take

    def _operator(self) -> Principal:
        caller = call.require_role("operator")
        self._need_adapters()
        return caller

    def _need_adapters(self) -> None:
        if Feature.ADAPTERS not in self._parts.backend.features:
            raise FailedPrecondition("the configured backend has no adapters", reason="UNSUPPORTED_BY_BACKEND")


def _page_token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _read_page_token(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidInput.of("page_token", "is not a token that this method returned") from error
