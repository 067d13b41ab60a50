"""Parts that wait at every turn until a test lets them go on or fail, on a clock that the test moves."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.router.domain import Citation, Depth, Passage
from services.router.domain.grounding import AbsentSignal, Groundedness, Signal
from services.router.grounding import SentenceGrounding
from tandem.errors import Overloaded, TandemError, Unavailable
from tests.fakes.router import FakeAudit, FakeEmbedder, FakeRetriever, Script, Written
from tests.fakes.router_grounding import WordClassifier, WordEmbedder, WordScorer


class VirtualLoop(asyncio.SelectorEventLoop):
    """Is a loop whose time stands still until somebody moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        """Returns the moment that was set."""
        return self.now

    def turn(self, num_turns: int = 30) -> None:
        """Lets what is ready go on."""
        for _ in range(num_turns):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass
class Gate:
    """Holds back all who come, in the order in which they came."""

    waiting: list[tuple[str, "asyncio.Future[None]"]] = field(default_factory=list)

    async def wait(self, part: str) -> None:
        """Waits until the test lets this part go on; raises what the test has it fail with."""
        entry = (part, asyncio.get_running_loop().create_future())
        self.waiting.append(entry)
        try:
            await entry[1]
        finally:
            self.waiting.remove(entry)

    def open(self, part: str = "") -> None:
        """Lets all who wait go on, or those of one part."""
        for waiting, future in self.waiting:
            if part in ("", waiting) and not future.done():
                future.set_result(None)

    def let(self, place: int, error: Exception | None) -> None:
        """Lets one of those who wait go on, or fail."""
        part, future = self.waiting[place % len(self.waiting)]
        if part == "audit":
            # A log fails seldom, and in one way.
            error = Unavailable("disk full") if isinstance(error, Overloaded) else None
        if not future.done() and error is None:
            future.set_result(None)
        elif not future.done() and error is not None:
            future.set_exception(error)


@dataclass
class GatedScript(Script):
    """Is a script that waits at a gate."""

    gate: Gate = field(default_factory=Gate)

    async def play(self) -> None:
        """Waits for the test."""
        await self.gate.wait("audit")


@dataclass
class GatedEmbedder(FakeEmbedder):
    """Is an embedder that waits at a gate."""

    gate: Gate = field(default_factory=Gate)

    async def play(self) -> None:
        """Waits for the test."""
        await self.gate.wait("embedder")


@dataclass
class GatedRetriever(FakeRetriever):
    """Is a retriever that waits at a gate."""

    gate: Gate = field(default_factory=Gate)

    async def play(self) -> None:
        """Waits for the test."""
        await self.gate.wait("retriever")


@dataclass
class GatedWritten(Written):
    """Is a text that waits at a gate, before it begins and before each word."""

    gate: Gate = field(default_factory=Gate)

    async def play(self) -> None:
        """Waits for the test."""
        await self.gate.wait("generator")

    async def between(self) -> None:
        """Waits for the test."""
        await self.gate.wait("generator")


class GatedGrounding:
    """Implements Grounding: by words, after waiting at a gate as it would for a peer; late or failing, without it."""

    def __init__(self, gate: Gate) -> None:
        self.num_calls = 0
        self._gate = gate
        self._by_words = SentenceGrounding(embedder=WordEmbedder(), scorer=WordScorer(), classifier=WordClassifier())

    def calls(self, depth: Depth) -> int:
        """Returns one call but by words alone."""
        return 0 if depth is Depth.WORDS else 1

    async def ground(
        self, question: str, answer: str, passages: Sequence[Passage], *, depth: Depth, timeout_s: float
    ) -> Groundedness:
        """Returns what the words say, as if a peer had been asked for vectors."""
        found = await self._by_words.ground(question, answer, passages, depth=Depth.WORDS, timeout_s=timeout_s)
        if depth is Depth.WORDS:
            return found
        self.num_calls += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._gate.wait("grounding")
        except (TimeoutError, TandemError):
            return replace(found, absent=(AbsentSignal(Signal.EMBEDDING, "late or failed"),))
        return replace(found, rests_on=(*found.rests_on, Signal.EMBEDDING))

    def extract(self, question: str, passage: Passage) -> tuple[str, Citation]:
        """Returns what the words say."""
        return self._by_words.extract(question, passage)


def gated_audit(gate: Gate) -> FakeAudit:
    """Returns an audit log that waits at a gate before each entry."""
    return FakeAudit(opening=GatedScript(gate=gate), closing=GatedScript(gate=gate))
