"""Paths, parts and an audit log that do what a test scripts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from services.router import policies
from services.router.domain import (
    Answer,
    Closing,
    DecisionStep,
    Domain,
    Event,
    Generated,
    Grounding,
    LabelCondition,
    Lineage,
    Opening,
    Passage,
    Piece,
    Prompt,
    QueryVector,
    Question,
    Span,
    Turn,
    Usage,
)
from services.router.domain.calibration import Features
from services.router.engine import Admission, Ports, RouterEngine, RunSettings
from services.router.grounding import SentenceGrounding
from services.router.metrics import RouterMetrics
from tandem.errors import NotFound, TandemError
from tandem.prompts import Message
from tandem.security import Principal
from tests.fakes.router_grounding import WordClassifier, WordEmbedder, WordScorer

ALICE = Principal("alice", "halden", frozenset(), frozenset({"user"}))
NEVER = float("inf")
EMBEDDER_SHA256 = "e" * 64
DOMAIN = Domain(threshold=0.75, min_groundedness=0.5)


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
    vector: tuple[float, float] | None = None

    async def embed(self, text: str, *, timeout_s: float) -> QueryVector:
        """Returns the vector that was set, else the length of the text as its vector."""
        self.texts.append(text)
        await self.play()
        return QueryVector(self.vector or (float(len(text)), 1.0), EMBEDDER_SHA256)


@dataclass
class FakeRetriever(Script):
    """Implements the Retriever port; remembers queries with their vectors."""

    passages: tuple[Passage, ...] = PASSAGES
    vector_error: TandemError | None = None
    queries: list[tuple[str, QueryVector | None]] = field(default_factory=list)
    narrowed: list[tuple[tuple[LabelCondition, ...], str]] = field(default_factory=list)

    async def search(
        self,
        query: str,
        *,
        vector: QueryVector | None,
        top_k: int,
        as_of: datetime | None,
        documents: Sequence[LabelCondition] = (),
        snapshot: str = "",
        timeout_s: float,
    ) -> tuple[Passage, ...]:
        """Returns the first of its passages."""
        self.queries.append((query, vector))
        self.narrowed.append((tuple(documents), snapshot))
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

    async def between(self) -> None:
        """Waits before each word."""
        await asyncio.sleep(0)


@dataclass
class FakeGenerator:
    """Implements the Generator port; sequences by adapter name, "" is the base model.

    A blend is what its reading prompt writes; `blends` keeps the adapters and weights of each.
    """

    sequences: dict[str, Written] = field(
        default_factory=lambda: {"": Written(), "answers": Written(), "reading": Written()}
    )
    loaded: frozenset[str] = frozenset({"answers", "reading"})
    listing: Script = field(default_factory=Script)
    prompts: list[tuple[str, str]] = field(default_factory=list)
    blends: list[tuple[tuple[str, float], ...]] = field(default_factory=list)
    num_listings: int = 0
    num_running: int = 0
    running: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields the scripted text word by word."""
        async with aclosing(self._written([Prompt(messages, adapter, 1.0)])) as events:
            async for event in events:
                yield event

    async def blend(
        self, prompts: Sequence[Prompt], *, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields the text of the last prompt word by word."""
        self.blends.append(tuple((prompt.adapter, prompt.weight) for prompt in prompts))
        async with aclosing(self._written(prompts)) as events:
            async for event in events:
                yield event

    async def _written(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Piece | Generated, None]:
        messages, adapter = prompts[-1].messages, prompts[-1].adapter
        self.prompts.append((adapter, messages[-1].content))
        self.num_running += 1
        self.running.set()
        self.idle.clear()
        try:
            if any(prompt.adapter not in self.sequences for prompt in prompts):
                raise NotFound("no such adapter")
            sequence = self.sequences[adapter]
            await sequence.play()
            if sequence.too_long is not None and len(messages[-1].content) > sequence.max_characters:
                raise sequence.too_long
            names = [prompt.adapter for prompt in prompts]
            if sequence.lineage_adapter is not None:
                names[0] = sequence.lineage_adapter
            lineages = tuple(map(lineage_of, names))
            yield Piece("", lineages[0])
            for word in sequence.text.split(" "):
                await sequence.between()
                yield Piece(f"{word} ")
            if sequence.late_error is not None:
                raise sequence.late_error
            yield Generated(
                lineage=lineages[0],
                usage=Usage(len(messages[-1].content), len(sequence.text.split())),
                mean_logprob=sequence.mean_logprob,
                signals=Features(mean_logprob=sequence.mean_logprob, num_tokens=float(len(sequence.text.split()))),
                lineages=lineages,
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


def lineage_of(adapter: str) -> Lineage:
    """Returns the weights that an adapter's name stands for, "" is the base model."""
    if not adapter:
        return Lineage("tiny", "ab" * 32)
    return Lineage("tiny", "ab" * 32, adapter, "cd" * 32, "ef" * 8, "AES-256-GCM", "01" * 8)


@dataclass
class FakeAudit:
    """Implements the Audit port in memory; keeps apart what was written, refused, and given up before it was either."""

    opening: Script = field(default_factory=Script)
    closing: Script = field(default_factory=Script)
    opened: list[Opening] = field(default_factory=list)
    closed: list[Closing] = field(default_factory=list)
    refused: list[Opening | Closing] = field(default_factory=list)
    given_up: list[Opening | Closing] = field(default_factory=list)

    def open(self, opening: Opening) -> Coroutine[Any, Any, None]:
        """Keeps the opening."""
        return self._open(opening)

    def close(self, closing: Closing) -> Coroutine[Any, Any, None]:
        """Keeps the closing."""
        return self._close(closing)

    async def _open(self, opening: Opening) -> None:
        await self._write(self.opening, opening)
        self.opened.append(opening)

    async def _close(self, closing: Closing) -> None:
        await self._write(self.closing, closing)
        self.closed.append(closing)

    async def _write(self, script: Script, entry: Opening | Closing) -> None:
        try:
            await script.play()
        except asyncio.CancelledError:
            self.given_up.append(entry)
            raise
        except Exception:
            self.refused.append(entry)
            raise


@dataclass
class World:
    """Is an engine among fakes."""

    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    retriever: FakeRetriever = field(default_factory=FakeRetriever)
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    audit: FakeAudit = field(default_factory=FakeAudit)
    grounding: Grounding = field(
        default_factory=lambda: SentenceGrounding(
            embedder=WordEmbedder(), scorer=WordScorer(), classifier=WordClassifier()
        )
    )
    domain: Domain = DOMAIN
    stream_drafts: bool = True
    max_running: int = 4
    max_waiting: int = 2
    adapter_cache_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
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
                grounding=self.grounding,
            ),
            policies=policies.build(pattern=lambda _: "cascade"),
            settings=RunSettings(
                max_answer_tokens=64,
                max_prompt_characters=10_000,
                stream_drafts=self.stream_drafts,
            ),
            admission=Admission(max_running=self.max_running, max_waiting=self.max_waiting, metrics=metrics),
            metrics=metrics,
            tracer=NoOpTracer(),
            adapter_cache_s=self.adapter_cache_s,
            default_timeout_s=30.0,
            clock=self.clock,
        )

    async def ask(self, asked: Question) -> Answer:
        """Answers one question of this domain by a new engine; what was emitted is in `events`."""
        return await self.engine().answer(replace(asked, domain=self.domain), self.emit)

    async def emit(self, event: Event) -> None:
        """Keeps an event."""
        self.events.append(event)

    def kinds(self) -> list[str]:
        """Returns the decisions so far as "kind:route"."""
        return [f"{event.kind}:{event.route}" for event in self.events if isinstance(event, DecisionStep)]


def history(*questions: str) -> tuple[Turn, ...]:
    """Returns turns with these questions."""
    return tuple(Turn(text, "An answer.") for text in questions)
