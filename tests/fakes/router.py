"""Paths, parts and an audit log that do what a test scripts."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.router import policies
from services.router.domain import (
    Answer,
    Citation,
    Closing,
    DecisionStep,
    Draft,
    Event,
    Generated,
    Lineage,
    Opening,
    Passage,
    Piece,
    QueryVector,
    Question,
    Route,
    Span,
    StepKind,
    Turn,
    Usage,
)
from services.router.engine import Admission, Ports, RouterEngine, RunSettings
from services.router.grounding import LexicalGrounding
from services.router.metrics import RouterMetrics
from tandem.errors import NotFound, TandemError
from tandem.prompts import Message
from tandem.security import Principal

ALICE = Principal("alice", "halden", frozenset(), frozenset({"user"}))
NEVER = float("inf")
EMBEDDER_SHA256 = "e" * 64
T = TypeVar("T")


def passage(
    text: str, *, document_id: str = "motor", number: int = 0, start: int = 100, title: str = "Motor"
) -> Passage:
    """Returns a passage that starts at a character of its document."""
    return Passage(
        document_id=document_id,
        chunk_id=f"{document_id}-{number}",
        title=title,
        text=text,
        span=Span(start, start + len(text)),
        score=1.0 - number / 10,
    )


PASSAGES = (
    passage("Report a theft within 14 days. The excess for collision is EUR 500.", number=0),
    passage("Motorcycles are insured under another policy.", document_id="two-wheel", number=1),
)


def question(text: str = "What is the excess for collision?", policy: str = "cascade", **changes: Any) -> Question:
    """Returns a question of alice's."""
    return Question(text=text, principal=ALICE, policy=policy, **{"timeout_s": 30.0, **changes})


CITATIONS = (
    Citation(
        answer_span=Span(0, 4),
        document_id=PASSAGES[0].document_id,
        chunk_id=PASSAGES[0].chunk_id,
        title=PASSAGES[0].title,
        document_span=PASSAGES[0].span,
        quote=PASSAGES[0].text,
    ),
)


@dataclass
class Script:
    """Says how a part behaves: how long it waits first, what it raises."""

    error: Exception | None = None
    delay_s: float = 0.0

    async def play(self) -> None:
        """Waits, then raises, as scripted."""
        if self.delay_s == NEVER:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error


@dataclass
class FakeEmbedder(Script):
    """Implements the Embedder port; remembers what it was asked."""

    texts: list[str] = field(default_factory=list)

    async def embed(self, text: str, *, timeout_s: float) -> QueryVector:
        """Returns the length of the text as its vector."""
        self.texts.append(text)
        await self.play()
        return QueryVector((float(len(text)), 1.0), EMBEDDER_SHA256)


@dataclass
class FakeRetriever(Script):
    """Implements the Retriever port; remembers queries with their vectors."""

    passages: tuple[Passage, ...] = PASSAGES
    vector_error: TandemError | None = None
    queries: list[tuple[str, QueryVector | None]] = field(default_factory=list)

    async def search(
        self, query: str, *, vector: QueryVector | None, top_k: int, as_of: datetime | None, timeout_s: float
    ) -> tuple[Passage, ...]:
        """Returns the first of its passages."""
        self.queries.append((query, vector))
        await self.play()
        if vector is not None and self.vector_error is not None:
            raise self.vector_error
        return self.passages[:top_k]


@dataclass
class Written(Script):
    """Is what one adapter writes; `late_error` comes after the text, `max_characters` bounds the prompt."""

    text: str = "The excess for collision is EUR 500."
    mean_logprob: float = -0.05
    late_error: Exception | None = None
    max_characters: int = 1_000_000
    too_long: TandemError | None = None
    lineage_adapter: str | None = None


@dataclass
class FakeGenerator:
    """Implements the Generator port; sequences by adapter name, "" is the base model."""

    sequences: dict[str, Written] = field(
        default_factory=lambda: {"": Written(), "answers": Written(), "reading": Written()}
    )
    loaded: frozenset[str] = frozenset({"answers", "reading"})
    listing: Script = field(default_factory=Script)
    prompts: list[tuple[str, str]] = field(default_factory=list)
    num_listings: int = 0
    num_running: int = 0
    running: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields the scripted text word by word."""
        self.prompts.append((adapter, messages[-1].content))
        self.num_running += 1
        self.running.set()
        self.idle.clear()
        try:
            sequence = self.sequences.get(adapter)
            if sequence is None:
                raise NotFound("no such adapter")
            await sequence.play()
            if sequence.too_long is not None and len(messages[-1].content) > sequence.max_characters:
                raise sequence.too_long
            name = adapter if sequence.lineage_adapter is None else sequence.lineage_adapter
            lineage = Lineage("tiny", "ab" * 32)
            if name:
                lineage = Lineage("tiny", "ab" * 32, name, "cd" * 32, "ef" * 8, "AES-256-GCM", "01" * 8)
            yield Piece("", lineage)
            for word in sequence.text.split(" "):
                await asyncio.sleep(0)
                yield Piece(f"{word} ")
            if sequence.late_error is not None:
                raise sequence.late_error
            yield Generated(
                lineage=lineage,
                usage=Usage(len(messages[-1].content), len(sequence.text.split())),
                mean_logprob=sequence.mean_logprob,
            )
        finally:
            self.num_running -= 1
            if self.num_running == 0:
                self.idle.set()

    async def adapters(self, *, timeout_s: float) -> frozenset[str]:
        """Returns what is loaded."""
        self.num_listings += 1
        await self.listing.play()
        return self.loaded


@dataclass
class FakeAudit:
    """Implements the Audit port in memory; remembers the order of events across both calls."""

    opening: Script = field(default_factory=Script)
    closing: Script = field(default_factory=Script)
    opened: list[Opening] = field(default_factory=list)
    closed: list[Closing] = field(default_factory=list)

    def open(self, opening: Opening) -> Coroutine[Any, Any, None]:
        """Keeps the opening."""
        return self._open(opening)

    def close(self, closing: Closing) -> Coroutine[Any, Any, None]:
        """Keeps the closing."""
        return self._close(closing)

    async def _open(self, opening: Opening) -> None:
        await self.opening.play()
        self.opened.append(opening)

    async def _close(self, closing: Closing) -> None:
        await self.closing.play()
        self.closed.append(closing)


@dataclass
class World:
    """Is an engine among fakes."""

    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    retriever: FakeRetriever = field(default_factory=FakeRetriever)
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    audit: FakeAudit = field(default_factory=FakeAudit)
    threshold: float = 0.75
    stream_drafts: bool = True
    max_running: int = 4
    max_waiting: int = 2
    adapter_cache_s: float = 60.0
    answer_adapter: str = "answers"
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    events: list[Event] = field(default_factory=list)

    def engine(self) -> RouterEngine:
        """Returns a new engine over these parts."""
        metrics = RouterMetrics(self.registry)
        return RouterEngine(
            ports=Ports(
                embedder=self.embedder,
                retriever=self.retriever,
                generator=self.generator,
                audit=self.audit,
                grounding=LexicalGrounding(),
            ),
            policies=policies.build(cascade_threshold=self.threshold),
            settings=RunSettings(
                answer_adapter=self.answer_adapter,
                reading_adapter="reading",
                max_answer_tokens=64,
                max_prompt_characters=10_000,
                stream_drafts=self.stream_drafts,
            ),
            admission=Admission(max_running=self.max_running, max_waiting=self.max_waiting, metrics=metrics),
            metrics=metrics,
            tracer=NoOpTracer(),
            adapter_cache_s=self.adapter_cache_s,
            default_timeout_s=30.0,
        )

    async def ask(self, asked: Question) -> Answer:
        """Answers one question by a new engine; what was emitted is in `events`."""
        return await self.engine().answer(asked, self.emit)

    async def emit(self, event: Event) -> None:
        """Keeps an event."""
        self.events.append(event)

    def kinds(self) -> list[str]:
        """Returns the decisions so far as "kind:route"."""
        return [f"{event.kind}:{event.route}" for event in self.events if isinstance(event, DecisionStep)]


@dataclass
class FakePaths:
    """Implements Paths for tests of policies: each path gives its draft or raises."""

    adapter: Draft | Exception = field(default_factory=lambda: Draft(route=Route.FINETUNED, text="weights"))
    vector: QueryVector | Exception = field(default_factory=lambda: QueryVector((1.0,)))
    passages: tuple[Passage, ...] | Exception = PASSAGES
    reading: Draft | Exception = field(
        default_factory=lambda: Draft(route=Route.RAG, text="read", passages=PASSAGES, citations=CITATIONS)
    )
    calls: list[str] = field(default_factory=list)
    steps: list[DecisionStep] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)

    async def finetuned(self, *, share: float, tentative: bool) -> Draft:
        """Gives the adapter's draft."""
        return self._give("finetuned", self.adapter)

    async def embed(self) -> QueryVector:
        """Gives the vector."""
        return self._give("embed", self.vector)

    async def search(self, vector: QueryVector | None) -> tuple[Passage, ...]:
        """Gives the passages."""
        return self._give("search" if vector is not None else "search by words", self.passages)

    async def read(self, passages: Sequence[Passage]) -> Draft:
        """Gives the reading."""
        return self._give("read", self.reading)

    async def quote(self, passages: Sequence[Passage]) -> Draft:
        """Gives the best passage."""
        return self._give("quote", Draft(route=Route.RAG, text=passages[0].text, passages=(passages[0],)))

    async def show(self, draft: Draft) -> None:
        """Notes that the draft was sent."""
        self.calls.append(f"show {draft.route}")

    async def step(self, kind: StepKind, route: Route, reason: str) -> None:
        """Keeps the step."""
        self.steps.append(DecisionStep(kind, route, reason))

    def degrade(self, component: str, effect: str) -> None:
        """Keeps the component."""
        self.degraded.append(component)

    def _give(self, call: str, result: T | Exception) -> T:
        self.calls.append(call)
        if isinstance(result, Exception):
            raise result
        return result


def history(*questions: str) -> tuple[Turn, ...]:
    """Returns turns with these questions."""
    return tuple(Turn(text, "An answer.") for text in questions)
