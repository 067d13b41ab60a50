"""One question on its way: the paths that a policy can take for it, timed, bounded and noted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from opentelemetry.trace import Tracer

from services.router.domain import (
    ABSTAINED_TEXT,
    EMBEDDER,
    GENERATOR,
    RETRIEVER,
    Confidence,
    DecisionStep,
    Degradation,
    Delta,
    Draft,
    Drafted,
    Embedder,
    Emit,
    Generated,
    Generator,
    Grounding,
    NoAdapter,
    PartDown,
    Passage,
    QueryVector,
    Question,
    Retriever,
    Route,
    Sources,
    Span,
    StageTiming,
    StepKind,
    Usage,
)
from services.router.engine.adapters import AdapterDirectory
from services.router.engine.budget import Budget
from services.router.engine.faults import is_too_long, prompt_refused, search_refused, translate
from services.router.engine.writing import Writing, confidence_of
from services.router.metrics import RouterMetrics
from tandem import prompts
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, TandemError, Unavailable

_EMBED_SHARE, _SEARCH_SHARE, _READ_SHARE = 0.25, 0.5, 0.9
_LEAST_PASSAGE = 400
"""Characters under which a single passage is not cut any further to fit the model's context."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Holds what the operator chose for all questions."""

    answer_adapter: str
    reading_adapter: str
    max_answer_tokens: int
    max_prompt_characters: int
    stream_drafts: bool


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Holds what every run works with."""

    embedder: Embedder
    retriever: Retriever
    generator: Generator
    adapters: AdapterDirectory
    grounding: Grounding
    metrics: RouterMetrics
    tracer: Tracer
    settings: RunSettings


class Run:
    """Implements services.router.domain.Paths for one question, and keeps what its answer will tell."""

    def __init__(self, question: Question, *, rewritten: str, budget: Budget, emit: Emit, tools: Tools) -> None:
        self.question = question
        self.rewritten = rewritten
        self.budget = budget
        self.steps: list[DecisionStep] = []
        self.degraded: list[Degradation] = []
        self.drafts: list[Drafted] = []
        self.usage = Usage()
        self._emit = emit
        self._tools = tools
        self._held = ""
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    async def finetuned(self, *, share: float, tentative: bool) -> Draft:
        """Answers from the adapter's weights; raises NoAdapter or PartDown."""
        settings, tenant = self._tools.settings, self.question.principal.tenant
        name = settings.answer_adapter
        shown = settings.stream_drafts or not tentative
        async with self._part(GENERATOR, "generate.finetuned", share=share) as limit_s:
            if not await self._tools.adapters.has(name, tenant, timeout_s=limit_s):
                raise NoAdapter(name)
            messages = prompts.closed_book(self.rewritten)
            try:
                text, done = await self._generate(
                    messages, route=Route.FINETUNED, adapter=name, shown=shown, timeout_s=limit_s
                )
            except NotFound:
                self._tools.adapters.forget(tenant)
                raise NoAdapter(name) from None
            except InvalidInput as error:
                raise prompt_refused(error) from error
        if not done.lineage.adapter:
            raise NoAdapter(name)
        self._held = "" if shown else text
        return self._draft(Route.FINETUNED, text, done)

    async def embed(self) -> QueryVector:
        """Embeds the self-contained question; raises PartDown."""
        async with self._part(EMBEDDER, "embed", share=_EMBED_SHARE) as limit_s:
            try:
                return await self._tools.embedder.embed(self.rewritten, timeout_s=limit_s)
            except InvalidInput as error:
                raise PartDown(EMBEDDER, "refused the question") from error

    async def search(self, vector: QueryVector | None) -> tuple[Passage, ...]:
        """Finds passages; raises PartDown, that of the embedder where its vector was refused."""
        async with self._part(RETRIEVER, "search", share=_SEARCH_SHARE) as limit_s:
            try:
                return await self._tools.retriever.search(
                    self.rewritten,
                    vector=vector,
                    top_k=self.question.max_passages,
                    as_of=self.question.as_of,
                    timeout_s=limit_s,
                )
            except (InvalidInput, FailedPrecondition) as error:
                raise search_refused(error, by_words=vector is None) from error

    async def read(self, passages: Sequence[Passage]) -> Draft:
        """Answers from passages, with citations; raises PartDown."""
        async with self._part(GENERATOR, "generate.rag", share=_READ_SHARE) as limit_s:
            adapter = await self._reading_adapter(limit_s)
            fitting = _fit(passages, self._tools.settings.max_prompt_characters)
            while True:
                try:
                    text, done = await self._read(fitting, adapter, limit_s)
                    break
                except NotFound:
                    if not adapter:
                        raise
                    self._tools.adapters.forget(self.question.principal.tenant)
                    adapter = ""
                except InvalidInput as error:
                    fitting = _fewer(fitting, error)
        draft = replace(self._draft(Route.RAG, text, done), passages=fitting)
        if draft.abstained:
            return draft
        with self._timed("cite"):
            citations = self._tools.grounding.cite(self.rewritten, draft.text, fitting)
        return replace(draft, citations=citations)

    async def quote(self, passages: Sequence[Passage]) -> Draft:
        """Gives the best passage as the answer."""
        best = passages[0]
        with self._timed("cite"):
            text, citation = self._tools.grounding.extract(self.rewritten, best)
        await self._emit(Sources((best,)))
        return Draft(route=Route.RAG, text=text, passages=(best,), citations=(citation,))

    async def show(self, draft: Draft) -> None:
        """Sends a draft's whole text."""
        await self._emit(Delta(draft.text))

    async def step(self, kind: StepKind, route: Route, reason: str) -> None:
        """Records a decision and tells the caller."""
        held, self._held = self._held, ""
        if held and kind is StepKind.ACCEPT:
            await self._emit(Delta(held))
        step = DecisionStep(kind, route, reason)
        self.steps.append(step)
        if kind is StepKind.ESCALATE:
            self._tools.metrics.escalations.labels(self.question.policy).inc()
        await self._emit(step)

    def degrade(self, component: str, effect: str) -> None:
        """Notes a missing part, once for each effect."""
        note = Degradation(component, effect)
        if note not in self.degraded:
            self.degraded.append(note)

    def note(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time; stages keep the order in which they began."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def timings(self) -> tuple[StageTiming, ...]:
        """Returns the stages so far, "total" last."""
        total = StageTiming("total", time.perf_counter() - self._start)
        return (*(StageTiming(stage, seconds) for stage, seconds in self._seconds.items()), total)

    async def _reading_adapter(self, timeout_s: float) -> str:
        name = self._tools.settings.reading_adapter
        tenant = self.question.principal.tenant
        return name if await self._tools.adapters.has(name, tenant, timeout_s=timeout_s) else ""

    async def _read(self, passages: tuple[Passage, ...], adapter: str, timeout_s: float) -> tuple[str, Generated]:
        messages = prompts.reading(
            self.rewritten, [prompts.passage(passage.title, passage.text) for passage in passages]
        )
        # The sources are told once the prompt was taken: until then fewer of them may be read.
        return await self._generate(
            messages,
            route=Route.RAG,
            adapter=adapter,
            shown=True,
            timeout_s=timeout_s,
            admitted=lambda: self._emit(Sources(passages)),
        )

    async def _generate(
        self,
        messages: Sequence[prompts.Message],
        *,
        route: Route,
        adapter: str,
        shown: bool,
        timeout_s: float,
        admitted: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[str, Generated]:
        writing = Writing(self._emit if shown else None)
        done: Generated | None = None
        # Noted as soon as it is known, so that a draft that breaks off is recorded with its weights too.
        place = len(self.drafts)
        stream = self._tools.generator.generate(
            messages, adapter=adapter, max_tokens=self._tools.settings.max_answer_tokens, timeout_s=timeout_s
        )
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, Generated):
                    done = event
                    self.drafts[place:] = [Drafted(route, event.lineage, finished=True)]
                    continue
                if event.lineage is not None:
                    self.drafts[place:] = [Drafted(route, event.lineage)]
                if event.text:
                    await writing.add(event.text)
                elif admitted is not None:
                    await admitted()
                    admitted = None
        if done is None:
            raise Unavailable("the stream ended before the text was finished")
        if admitted is not None:
            await admitted()
        await writing.finish()
        return writing.text, done

    def _draft(self, route: Route, text: str, done: Generated) -> Draft:
        metrics = self._tools.metrics
        self.usage += done.usage
        metrics.tokens.labels(route.value, "input").inc(done.usage.input_tokens)
        metrics.tokens.labels(route.value, "output").inc(done.usage.output_tokens)
        confidence = Confidence(confidence_of(done.mean_logprob))
        metrics.confidence.labels(route.value).observe(confidence.value)
        if not text:
            return Draft(route=route, text=ABSTAINED_TEXT, lineage=done.lineage, confidence=confidence, abstained=True)
        return Draft(route=route, text=text, lineage=done.lineage, confidence=confidence)

    @asynccontextmanager
    async def _part(self, component: str, stage: str, *, share: float) -> AsyncIterator[float]:
        """Times a stage that asks a part, bounds it by its share, and turns the part's failures into PartDown."""
        limit_s = self.budget.share(share)
        with self._timed(stage):
            try:
                async with asyncio.timeout(limit_s):
                    yield limit_s
            except (TandemError, TimeoutError) as error:
                raise translate(error, component=component, limit_s=limit_s, budget=self.budget) from error

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.note(stage, 0.0)
        start = time.perf_counter()
        tracer = self._tools.tracer
        with tracer.start_as_current_span(f"router.{stage}", record_exception=False, set_status_on_exception=False):
            try:
                yield
            finally:
                self.note(stage, time.perf_counter() - start)


def _fit(passages: Sequence[Passage], max_characters: int) -> tuple[Passage, ...]:
    """Returns the first passages that fit together; the first one is cut rather than left out."""
    kept: list[Passage] = []
    for passage in passages:
        max_characters -= len(passage.text)
        if max_characters < 0 and kept:
            break
        kept.append(_cut(passage, len(passage.text) + min(0, max_characters)))
    return tuple(kept)


def _fewer(passages: tuple[Passage, ...], error: InvalidInput) -> tuple[Passage, ...]:
    """Returns less to read after a prompt was refused as too long; raises what the refusal means when nothing helps."""
    if is_too_long(error) and len(passages) > 1:
        return passages[: len(passages) // 2]
    if is_too_long(error) and len(passages[0].text) > _LEAST_PASSAGE:
        return (_cut(passages[0], len(passages[0].text) // 2),)
    raise prompt_refused(error) from error


def _cut(passage: Passage, length: int) -> Passage:
    if length >= len(passage.text):
        return passage
    span = passage.span
    exact = span.end - span.start == len(passage.text)
    return replace(passage, text=passage.text[:length], span=Span(span.start, span.start + length) if exact else span)
