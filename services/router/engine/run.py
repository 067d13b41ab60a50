"""One question on its way: the paths that a policy can take for it, timed, bounded and noted."""

from collections.abc import Sequence
from dataclasses import replace

from services.router.domain import (
    BUDGET,
    EMBEDDER,
    RETRIEVER,
    Cited,
    Cost,
    DecisionStep,
    Degradation,
    Depth,
    Domain,
    Draft,
    Drafted,
    Emit,
    PartDown,
    Passage,
    QueryVector,
    Question,
    Route,
    StageTiming,
    StepKind,
    Usage,
)
from services.router.domain.calibration import Calibrated, ScopeReading
from services.router.engine.budget import Budget
from services.router.engine.faults import search_refused
from services.router.engine.judging import Knowledge
from services.router.engine.once import Once
from services.router.engine.spending import Spending
from services.router.engine.stages import Stages
from services.router.engine.telling import Telling, Voice
from services.router.engine.tools import Tools
from services.router.engine.writer import Writer
from tandem.errors import FailedPrecondition, InvalidInput

_EMBED_SHARE, _SEARCH_SHARE, _GROUND_SHARE = 0.25, 0.5, 0.5


class Run:
    """Implements services.router.domain.Paths for one question, and keeps what its answer will tell."""

    def __init__(self, question: Question, *, rewritten: str, budget: Budget, emit: Emit, tools: Tools) -> None:
        self.question = question
        self.rewritten = rewritten
        self.budget = budget
        self.degraded: list[Degradation] = []
        self.stages = Stages(budget, tools.tracer)
        self._tools = tools
        self._telling = Telling(emit)
        self._known = Knowledge(question.domain, tools.judges)
        self._spending = Spending(question.allowance, question.domain.costs)
        self._writer = Writer(
            question,
            rewritten=rewritten,
            tools=tools,
            stages=self.stages,
            spending=self._spending,
            telling=self._telling,
        )
        self._embedding = Once(self._embed)

    @property
    def domain(self) -> Domain:
        """Is the domain that is asked."""
        return self.question.domain

    def room(self, *, calls: int) -> bool:
        """Tells whether the allowance has room for so many more calls."""
        return self._spending.room(calls=calls)

    async def finetuned(self, *, share: float, tentative: bool, held: bool = False) -> Draft:
        """Answers from the adapter's weights; raises NoAdapter or PartDown."""
        unshown = held or (tentative and not self._tools.settings.stream_drafts)
        draft = await self._writer.from_weights(share=share, held=unshown)
        self._known.wrote(draft)
        return draft

    async def embed(self) -> QueryVector:
        """Embeds the self-contained question, once for all who ask; raises PartDown."""
        return await self._embedding.get()

    @property
    def embedded(self) -> bool:
        """Tells whether the question is embedded already, or is being."""
        return self._embedding.begun

    async def scope(self) -> ScopeReading:
        """Tells where the question lies; raises PartDown where it has to be embedded and cannot."""
        if not self._known.has_scope:
            missing = (
                "the domain has no calibration" if self.domain.artefact is None else "its calibration has no scope"
            )
            return ScopeReading(None, None, missing)
        await self.embed()
        return self._known.scope or ScopeReading(None, None, "the question was not embedded")

    def judge(self, draft: Draft) -> Calibrated:
        """Tells how sure a draft is and whether that is enough."""
        return self._known.judge(draft)

    async def search(self, vector: QueryVector | None) -> tuple[Passage, ...]:
        """Finds passages; raises PartDown, that of the embedder where its vector was refused."""
        async with self.stages.part(RETRIEVER, "search", share=_SEARCH_SHARE) as limit_s:
            self._spending.search()
            try:
                passages = await self._tools.retriever.search(
                    self.rewritten,
                    vector=vector,
                    top_k=self.question.max_passages,
                    as_of=self.question.as_of,
                    documents=self.domain.documents,
                    snapshot=self.domain.snapshot,
                    timeout_s=limit_s,
                )
            except (InvalidInput, FailedPrecondition) as error:
                raise search_refused(error, by_words=vector is None) from error
        self._known.found(passages)
        return passages

    async def read(self, passages: Sequence[Passage], *, tentative: bool = False) -> Draft:
        """Answers from passages, with citations; raises PartDown."""
        voice = self._telling.voice(Route.RAG, held=tentative and self._telling.taken is not Route.RAG)
        return await self._cited(await self._writer.from_passages(passages, voice=voice), voice)

    def weight(self, passages: Sequence[Passage]) -> float:
        """Returns the fine-tuned prompt's share of a blend, 0 to 1."""
        return self._known.weight(passages)

    async def blend(self, passages: Sequence[Passage], *, weight: float) -> Draft:
        """Answers from weights and passages together, with citations; raises NoAdapter or PartDown."""
        voice = self._telling.voice(Route.ENSEMBLE, held=False)
        return await self._cited(await self._writer.from_both(passages, weight=weight, voice=voice), voice)

    async def support(self, draft: Draft, passages: Sequence[Passage]) -> Draft:
        """Returns an accepted draft of the adapter's with what passages say of it, and tells that."""
        supported = await self._grounded(replace(draft, passages=tuple(passages)), self.domain.depth)
        await self._telling.show(supported, sources=True)
        return supported

    async def quote(self, passages: Sequence[Passage]) -> Draft:
        """Gives the best passage as the answer."""
        best = passages[0]
        text, citation = self._tools.grounding.extract(self.rewritten, best)
        draft = Draft(route=Route.RAG, text=text, passages=(best,))
        draft = replace(await self._grounded(draft, Depth.WORDS), citations=(citation,))
        await self._telling.show(draft, sources=True)
        return draft

    async def show(self, draft: Draft) -> None:
        """Sends what the caller has not heard of a draft."""
        await self._telling.show(draft)

    async def step(self, kind: StepKind, route: Route, reason: str) -> None:
        """Records a decision and tells the caller."""
        if kind is StepKind.ESCALATE:
            self._tools.metrics.escalations.labels(self.question.policy).inc()
        await self._telling.decided(DecisionStep(kind, route, reason))

    def degrade(self, component: str, effect: str) -> None:
        """Notes a missing part, once for each effect."""
        note = Degradation(component, effect)
        if note not in self.degraded:
            self.degraded.append(note)

    def finished(self, draft: Draft) -> Draft:
        """Returns the draft that became the answer with all that is known of it."""
        return replace(draft, signals=self._known.features(draft))

    @property
    def steps(self) -> tuple[DecisionStep, ...]:
        """Are the decisions so far."""
        return tuple(self._telling.steps)

    @property
    def drafts(self) -> tuple[Drafted, ...]:
        """Are the drafts that were begun so far, with the weights that wrote them."""
        return self._writer.drafts()

    @property
    def usage(self) -> Usage:
        """Are the tokens of all drafts that came to their end."""
        return self._writer.usage

    @property
    def cost(self) -> Cost:
        """Is what the answer took so far."""
        return self._spending.cost()

    @property
    def located(self) -> ScopeReading | None:
        """Is where the question lies, None where that was not measured."""
        return self._known.scope

    def timings(self) -> tuple[StageTiming, ...]:
        """Returns the stages so far, "total" last."""
        return self.stages.timings()

    async def _embed(self) -> QueryVector:
        async with self.stages.part(EMBEDDER, "embed", share=_EMBED_SHARE) as limit_s:
            self._spending.embed()
            try:
                vector = await self._tools.embedder.embed(self.rewritten, timeout_s=limit_s)
            except InvalidInput as error:
                raise PartDown(EMBEDDER, "refused the question") from error
        if self._known.has_scope:
            with self.stages.timed("scope"):
                self._known.embedded(vector)
        return vector

    async def _cited(self, draft: Draft, voice: Voice) -> Draft:
        """Returns a whole draft with its groundedness, told by its voice."""
        if draft.abstained:
            return draft
        draft = await self._grounded(draft, self.domain.depth)
        self._known.wrote(draft)
        if draft.groundedness is not None:
            await voice.say(Cited(draft.citations, draft.groundedness))
        return draft

    async def _grounded(self, draft: Draft, wanted: Depth) -> Draft:
        grounding, passages = self._tools.grounding, draft.passages
        depth, charge = self._spending.ground(
            wanted, calls=grounding.calls(wanted), answer=draft.text, passages=passages
        )
        if depth is not wanted:
            self.degrade(BUDGET, "how far passages support the answer was judged by their words alone")
        with self.stages.timed("ground"):
            found = await grounding.ground(
                self.rewritten, draft.text, passages, depth=depth, timeout_s=self.budget.share(_GROUND_SHARE)
            )
        self._spending.grounded(charge, found, answer=draft.text, passages=passages)
        supports = (sentence.support for sentence in found.sentences)
        return replace(
            draft, groundedness=found, citations=tuple(support for support in supports if support is not None)
        )
