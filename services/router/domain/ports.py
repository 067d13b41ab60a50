"""Ports: what the thinking rooms expect of the rooms and services around them."""

from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from services.router.domain.advice import CollectionEvidence, Evidence
from services.router.domain.calibration import NOTHING_KNOWN, Calibrated, Features, ScopeReading
from services.router.domain.domains import Depth, Domain, LabelCondition, ListedDomain
from services.router.domain.grounding import Groundedness
from services.router.domain.records import Closing, Opening
from services.router.domain.spans import Citation
from services.router.domain.values import (
    Answer,
    Draft,
    Lineage,
    Passage,
    QueryVector,
    Route,
    StepKind,
    Usage,
)
from tandem.prompts import Message
from tandem.security import Principal


class PartDown(Exception):
    """Says that a part cannot do its work now; a policy decides what is left.

    `full` tells that it refused because it is full, not because it is broken; `retry_after_s` is set where it is known
    when to come back.
    """

    def __init__(self, component: str, detail: str, *, retry_after_s: float | None = None, full: bool = False) -> None:
        super().__init__(f"{component}: {detail}")
        self.component = component
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.full = full


class NoAdapter(Exception):
    """Says that no answer adapter is loaded for the caller's tenant."""

    def __init__(self, adapter: str) -> None:
        super().__init__(
            f'no adapter "{adapter}" is loaded for this tenant' if adapter else "the domain has no answer adapter"
        )
        self.adapter = adapter


class Paths(Protocol):
    """Is what a policy can do for the one question it decides. All that awaits a part may raise PartDown.

    Paths may run at the same time in tasks of the policy's own; a cancelled one cancels its peer's call. What a
    draft says is shown as it comes only where nothing else may still take its place.
    """

    @property
    def domain(self) -> Domain:
        """Is the domain that is asked."""
        ...

    def room(self, *, calls: int) -> bool:
        """Tells whether the caller's allowance has room for so many more calls."""
        ...

    async def finetuned(self, *, share: float, tentative: bool, held: bool = False) -> Draft:
        """Answers from the adapter's weights within `share` of the time left; raises NoAdapter.

        A tentative draft may still be replaced: its text is shown early only where the operator allows it, and not
        before a decision for it where it is held.
        """
        ...

    async def embed(self) -> QueryVector:
        """Embeds the question, once: a second call returns the same vector."""
        ...

    @property
    def embedded(self) -> bool:
        """Tells whether the question is embedded already, or is being: to embed it again takes no call."""
        ...

    async def scope(self) -> ScopeReading:
        """Tells where the question lies, embedding it first; says why where the domain has no scope."""
        ...

    def judge(self, draft: Draft) -> Calibrated:
        """Tells how sure a fine-tuned draft is and whether that is enough, by all that is known by now.

        By the domain's calibration, or uncalibrated by its threshold where it has none.
        """
        ...

    async def search(self, vector: QueryVector | None) -> tuple[Passage, ...]:
        """Finds passages, best first; by words alone where there is no vector."""
        ...

    async def read(self, passages: Sequence[Passage], *, tentative: bool = False) -> Draft:
        """Answers from passages, with citations; leaves out the last passages where the prompt is too long.

        A tentative draft is held back until a decision for it.
        """
        ...

    def weight(self, passages: Sequence[Passage]) -> float:
        """Returns the fine-tuned prompt's share of a blend, 0 to 1, for this question and these passages."""
        ...

    async def blend(self, passages: Sequence[Passage], *, weight: float) -> Draft:
        """Answers from weights and passages together, token by token, with citations; raises NoAdapter."""
        ...

    async def support(self, draft: Draft, passages: Sequence[Passage]) -> Draft:
        """Returns a draft of the adapter's with what passages say of it, and tells that; an accepted one alone."""
        ...

    async def quote(self, passages: Sequence[Passage]) -> Draft:
        """Gives the best passage itself as the answer, cited, and sends it; needs no model."""
        ...

    async def show(self, draft: Draft) -> None:
        """Sends what the caller has not heard of a draft: it was held back, or made earlier and discarded since."""
        ...

    async def step(self, kind: StepKind, route: Route, reason: str) -> None:
        """Records a decision and tells the caller."""
        ...

    def degrade(self, component: str, effect: str) -> None:
        """Notes a missing part, once for each effect."""
        ...


class Policy(Protocol):
    """Decides which path answers; sees paths, never the wire."""

    @property
    def name(self) -> str:
        """Is what requests call it."""
        ...

    @property
    def description(self) -> str:
        """Says in one sentence what happens."""
        ...

    async def decide(self, paths: Paths) -> Draft:
        """Returns the draft that becomes the answer; raises PartDown or NoAdapter when nothing is left."""
        ...


class Grounding(Protocol):
    """Ties answers to the passages they were read from."""

    def calls(self, depth: Depth) -> int:
        """Returns the most calls of peers that `ground` makes at a depth; Groundedness.num_calls is how many it did."""
        ...

    async def ground(
        self, question: str, answer: str, passages: Sequence[Passage], *, depth: Depth, timeout_s: float
    ) -> Groundedness:
        """Returns how far the passages support the answer; a peer that fails or is late is told in it, not raised."""
        ...

    def extract(self, question: str, passage: Passage) -> tuple[str, Citation]:
        """Returns the part of the passage nearest to the question, and its citation."""
        ...


@dataclass(frozen=True)
class Prompt:
    """Is one prompt of a blend: what to continue, by which adapter, and its share of every token."""

    messages: Sequence[Message]
    adapter: str
    weight: float


@dataclass(frozen=True)
class Piece:
    """Is an event of a generation; the first has no text and says that the sequence was admitted, on which weights."""

    text: str
    lineage: Lineage | None = None


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Closes a generation; the lineage of a blend is of its first prompt, `lineages` are of all."""

    lineage: Lineage
    usage: Usage
    mean_logprob: float
    """Mean of the generated tokens' logprobs, at most 0."""
    signals: Features = NOTHING_KNOWN
    lineages: tuple[Lineage, ...] = ()


class Embedder(Protocol):
    """Is the port to the embedder; the caller's identity goes along by itself."""

    async def embed(self, text: str, *, timeout_s: float) -> QueryVector:
        """Returns the vector of a text; raises TandemError."""
        ...


class Retriever(Protocol):
    """Is the port to the retriever."""

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
        """Returns passages of the documents that meet all conditions, best first; raises TandemError.

        Ranks by words alone without a vector.
        """
        ...


class Generator(Protocol):
    """Is the port to the generator."""

    def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Yields an empty piece once admitted, then pieces, Generated last. Raises TandemError; closing it cancels."""
        ...

    def blend(
        self, prompts: Sequence[Prompt], *, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Continues prompts together, p = sum of weight * p of each; else as `generate`."""
        ...

    async def adapters(self, *, timeout_s: float) -> frozenset[str]:
        """Returns the names of the adapters that the caller may use; raises TandemError."""
        ...


class Audit(Protocol):
    """Is the port to the audit log; both calls return when the entry is durable and raise TandemError if it is not."""

    def open(self, opening: Opening) -> Coroutine[Any, Any, None]:
        """Records that an answer begins."""
        ...

    def close(self, closing: Closing) -> Coroutine[Any, Any, None]:
        """Records how it ended."""
        ...


class Documents(Protocol):
    """Is the port to the collection's documents, as far as the caller may see them."""

    async def changes(
        self, *, window_days: int, documents: Sequence[LabelCondition] = (), timeout_s: float
    ) -> CollectionEvidence:
        """Counts the documents that meet the conditions, and those changed within the window; raises TandemError."""
        ...


class EvidenceSource(Protocol):
    """Tells what was measured of a domain that is live."""

    async def gather(self, *, principal: Principal, domain: str, timeout_s: float) -> Evidence:
        """Returns what could be measured; what could not is said in `missing`, never raised.

        Raises NotFound or FailedPrecondition as Domains.find does for a domain that the caller may not ask.
        """
        ...


class Domains(Protocol):
    """Knows the domains."""

    def find(self, name: str, principal: Principal) -> Domain:
        """Returns a domain, the caller's default where name is ""; raises NotFound where the caller may not ask it."""
        ...

    def default(self, principal: Principal) -> str:
        """Returns the name of the caller's default domain, "" where the caller may ask none."""
        ...

    def list(self, principal: Principal) -> tuple[ListedDomain, ...]:
        """Returns the domains that the caller may ask, by name."""
        ...


class Observer(Protocol):
    """Is told of every answer that was given."""

    def note(self, answer: Answer, *, tenant: str, domain: str = "default") -> None:
        """Takes what it needs of an answer; must be quick and must not fail."""
        ...
