"""Has the generator write the drafts of one answer; several may be written at the same time."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from services.router.domain import (
    ABSTAINED_TEXT,
    GENERATOR,
    Draft,
    Drafted,
    Generated,
    Lineage,
    NoAdapter,
    Passage,
    Piece,
    Prompt,
    Question,
    Route,
    Sources,
    Usage,
)
from services.router.engine.faults import prompt_refused
from services.router.engine.fitting import fewer, fit
from services.router.engine.judging import mean_probability
from services.router.engine.spending import Charge, Spending, read_tokens
from services.router.engine.stages import Stages
from services.router.engine.telling import Telling, Voice
from services.router.engine.tools import Tools
from services.router.engine.writing import Writing
from tandem import prompts
from tandem.errors import InvalidInput, NotFound, Unavailable

_READ_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class _Order:
    """Is one draft to write: by one prompt, or by several that are continued together."""

    route: Route
    prompts: tuple[Prompt, ...]
    voice: Voice
    sources: tuple[Passage, ...] = ()


@dataclass
class _Begun:
    """Is a draft whose weights are known; it stays unfinished where it broke off."""

    route: Route
    lineages: tuple[Lineage, ...]
    finished: bool = False


class Writer:
    """Writes drafts, and keeps what they took and by which weights they were written."""

    def __init__(
        self, question: Question, *, rewritten: str, tools: Tools, stages: Stages, spending: Spending, telling: Telling
    ) -> None:
        self.usage = Usage()
        self._domain = question.domain
        self._tenant = question.principal.tenant
        self._rewritten = rewritten
        self._tools = tools
        self._stages = stages
        self._spending = spending
        self._telling = telling
        self._begun: list[_Begun] = []

    def drafts(self) -> tuple[Drafted, ...]:
        """Returns all drafts that were begun, in that order, with each of their weights."""
        return tuple(
            Drafted(draft.route, lineage, finished=draft.finished)
            for draft in self._begun
            for lineage in draft.lineages
        )

    async def from_weights(self, *, share: float, held: bool) -> Draft:
        """Returns what the adapter writes; raises NoAdapter or PartDown."""
        name = self._domain.answer_adapter
        async with self._stages.part(GENERATOR, "generate.finetuned", share=share) as limit_s:
            await self._require(name, limit_s)
            prompt = Prompt(prompts.closed_book(self._rewritten), name, 1.0)
            voice = self._telling.voice(Route.FINETUNED, held=held)
            try:
                text, done = await self._write(
                    _Order(route=Route.FINETUNED, prompts=(prompt,), voice=voice), timeout_s=limit_s
                )
            except NotFound:
                self._tools.adapters.forget(self._tenant)
                raise NoAdapter(name) from None
            except InvalidInput as error:
                raise prompt_refused(error) from error
        if not done.lineage.adapter:
            raise NoAdapter(name)
        return self._draft(Route.FINETUNED, text, done)

    async def from_passages(self, passages: Sequence[Passage], *, voice: Voice) -> Draft:
        """Returns what is read from passages; raises PartDown."""
        async with self._stages.part(GENERATOR, "generate.rag", share=_READ_SHARE) as limit_s:
            fitting, text, done = await self._fitted(
                Route.RAG,
                passages,
                lambda fitting, adapter: (self._reading(fitting, adapter, 1.0),),
                voice=voice,
                limit_s=limit_s,
            )
        return replace(self._draft(Route.RAG, text, done), passages=fitting)

    async def from_both(self, passages: Sequence[Passage], *, weight: float, voice: Voice) -> Draft:
        """Returns what weights and passages write together; raises NoAdapter or PartDown."""
        name = self._domain.answer_adapter
        async with self._stages.part(GENERATOR, "generate.ensemble", share=_READ_SHARE) as limit_s:
            await self._require(name, limit_s)
            own = Prompt(prompts.closed_book(self._rewritten), name, weight)
            try:
                fitting, text, done = await self._fitted(
                    Route.ENSEMBLE,
                    passages,
                    lambda fitting, adapter: (own, self._reading(fitting, adapter, 1 - weight)),
                    voice=voice,
                    limit_s=limit_s,
                )
            except NotFound:
                self._tools.adapters.forget(self._tenant)
                raise NoAdapter(name) from None
        if not done.lineage.adapter:
            raise NoAdapter(name)
        return replace(self._draft(Route.ENSEMBLE, text, done), passages=fitting)

    async def _require(self, name: str, timeout_s: float) -> None:
        if not name or not await self._tools.adapters.has(name, self._tenant, timeout_s=timeout_s):
            raise NoAdapter(name)

    async def _fitted(
        self,
        route: Route,
        passages: Sequence[Passage],
        prompts_of: Callable[[tuple[Passage, ...], str], tuple[Prompt, ...]],
        *,
        voice: Voice,
        limit_s: float,
    ) -> tuple[tuple[Passage, ...], str, Generated]:
        """Writes from as many passages as fit, by the reading adapter where there is one."""
        adapter = self._domain.reading_adapter
        if adapter and not await self._tools.adapters.has(adapter, self._tenant, timeout_s=limit_s):
            adapter = ""
        fitting = fit(passages, self._tools.settings.max_prompt_characters)
        while True:
            order = _Order(route=route, prompts=prompts_of(fitting, adapter), voice=voice, sources=fitting)
            try:
                return fitting, *await self._write(order, timeout_s=limit_s)
            except NotFound:
                if not adapter:
                    raise
                self._tools.adapters.forget(self._tenant)
                adapter = ""
            except InvalidInput as error:
                fitting = fewer(fitting, error)

    def _reading(self, passages: Sequence[Passage], adapter: str, weight: float) -> Prompt:
        shown = [prompts.passage(passage.title, passage.text) for passage in passages]
        return Prompt(prompts.reading(self._rewritten, shown), adapter, weight)

    async def _write(self, order: _Order, *, timeout_s: float) -> tuple[str, Generated]:
        charge = self._spending.write(order.prompts, max_tokens=self._tools.settings.max_answer_tokens)
        writing = Writing(order.voice.say)
        begun: _Begun | None = None
        done: Generated | None = None
        num_pieces = 0
        try:
            async with aclosing(self._stream(order, timeout_s)) as events:
                async for event in events:
                    if isinstance(event, Generated):
                        done = event
                        continue
                    if begun is None:
                        # The sources are told once the prompt was taken: until then fewer of them may be read.
                        begun = self._began(order, event.lineage)
                        if order.sources:
                            await order.voice.say(Sources(order.sources))
                    if event.text:
                        num_pieces += 1
                        await writing.add(event.text)
        except (InvalidInput, NotFound) as error:
            if begun is None:
                raise
            # Some of the text is told already, so that it cannot be begun anew.
            raise Unavailable("the stream broke off") from error
        finally:
            self._settle(charge, order, begun=begun, done=done, num_pieces=num_pieces)
        if done is None:
            raise Unavailable("the stream ended before the text was finished")
        await writing.finish()
        return writing.text, done

    def _stream(self, order: _Order, timeout_s: float) -> AsyncGenerator[Piece | Generated, None]:
        generator, most = self._tools.generator, self._tools.settings.max_answer_tokens
        if len(order.prompts) > 1:
            return generator.blend(order.prompts, max_tokens=most, timeout_s=timeout_s)
        (prompt,) = order.prompts
        return generator.generate(prompt.messages, adapter=prompt.adapter, max_tokens=most, timeout_s=timeout_s)

    def _began(self, order: _Order, lineage: Lineage | None) -> _Begun:
        # Noted as soon as it is known, so that a draft that breaks off is recorded with its weights too.
        begun = _Begun(order.route, () if lineage is None else (lineage,))
        self._begun.append(begun)
        return begun

    def _settle(
        self, charge: Charge, order: _Order, *, begun: _Begun | None, done: Generated | None, num_pieces: int
    ) -> None:
        """Sets the price of a generation: that of its tokens, or about that of what came before it broke off."""
        if done is not None:
            begun = begun or self._began(order, done.lineage)
            begun.lineages = done.lineages or (done.lineage,)
            begun.finished = True
            charge.amount = self._spending.price(done.usage)
            self.usage += done.usage
        elif begun is not None:
            charge.amount = self._spending.price(Usage(read_tokens(order.prompts), num_pieces))
        else:
            charge.amount = 0.0

    def _draft(self, route: Route, text: str, done: Generated) -> Draft:
        metrics = self._tools.metrics
        metrics.tokens.labels(route.value, "input").inc(done.usage.input_tokens)
        metrics.tokens.labels(route.value, "output").inc(done.usage.output_tokens)
        confidence = mean_probability(done.mean_logprob)
        metrics.confidence.labels(route.value).observe(confidence.value)
        return Draft(
            route=route,
            text=text or ABSTAINED_TEXT,
            lineage=done.lineage,
            confidence=confidence,
            signals=done.signals,
            abstained=not text,
        )
