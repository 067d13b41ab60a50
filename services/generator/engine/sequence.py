"""What the scheduler knows of a sequence: its streams, what they have computed, and how it ends."""

from collections.abc import Callable, Collection
from collections.abc import Sequence as Tokens

from services.generator.domain import FinishReason, Mixing, Priority, Sampling, TokenScore
from services.generator.engine.blocks import Node, Root
from tandem.errors import TandemError


class Stream:
    """Is one prompt of a sequence with all that was added to it, and the blocks that hold its keys and values."""

    __slots__ = ("blocks", "cached", "computed", "id", "node", "num_prompt", "num_virtual", "root", "tokens")

    def __init__(self, prompt: Tokens[int], *, tenant: str, adapter: str | None, num_virtual: int = 0) -> None:
        self.tokens = list(prompt)
        self.num_virtual = num_virtual
        """How many of its first tokens stand for a prefix."""
        self.num_prompt = len(prompt) - num_virtual
        self.root: Root = (tenant, adapter)
        self.id = -1
        """The runner's name for it; a new one at every start."""
        self.blocks: list[int] = []
        self.computed = 0
        """Positions whose keys and values are stored, by the end of the step in progress."""
        self.cached = 0
        """Prompt tokens, and a prefix's, that were not read because their blocks were there at the first start."""
        self.node: Node | None = None
        """The last of its full blocks that the trie knows; None once a block of its own is not in it."""

    @property
    def num_cached(self) -> int:
        """Returns how many tokens of the prompt itself were not read."""
        return max(0, self.cached - self.num_virtual)

    @property
    def history(self) -> Tokens[int]:
        """Returns the prompt's own tokens and all that were added."""
        return self.tokens[self.num_virtual :] if self.num_virtual else self.tokens

    @property
    def pending(self) -> int:
        """Returns the number of tokens that were not read yet."""
        return len(self.tokens) - self.computed


class Sequence:
    """Is one generation, or the scoring of one continuation, between its arrival and its end."""

    def __init__(
        self,
        *,
        id: int,
        tenant: str,
        priority: Priority,
        streams: tuple[Stream, ...],
        arrived: float,
        deadline: float | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 0,
        end_tokens: Collection[int] = (),
        weights: tuple[float, ...] = (1.0,),
        mixing: Mixing = Mixing.ARITHMETIC,
        num_alternatives: int = 0,
        stops: Callable[[int], bool] | None = None,
        targets: tuple[int, ...] = (),
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.priority = priority
        self.streams = streams
        self.deadline = deadline
        self.sampling = sampling
        """None for a scoring, which draws nothing."""
        self.max_tokens = max_tokens
        self.end_tokens = end_tokens
        self.weights = weights
        self.mixing = mixing
        self.num_alternatives = num_alternatives
        self.stops = stops
        """Tells whether a stop string ends with this token; is asked once for each token, in order."""
        self.targets = targets
        """The continuation of a scoring; the stream's tokens are the prompt and all of it but the last."""
        self.scores: list[TokenScore] = []
        self.num_tokens = 0
        self.computed = 0
        """Positions that went through the model for it, again after a preemption."""
        self.order = -1
        """Its place among all that were ever started, -1 before."""
        self.preemptions = 0
        self.running = False
        self.arrived = arrived
        self.started: float | None = None
        self.first: float | None = None
        self.ended: float | None = None
        self.reason: FinishReason | None = None
        self.error: TandemError | None = None

    @property
    def done(self) -> bool:
        """Tells whether it has ended or is to end with the step in progress."""
        return self.reason is not None or self.error is not None

    @property
    def length(self) -> int:
        """Returns how many tokens its streams hold."""
        return sum(len(stream.tokens) for stream in self.streams)

    @property
    def width(self) -> int:
        """Returns how many rows of a batch it takes."""
        return len(self.streams)

    def shareable(self, stream: Stream) -> int:
        """Returns how many tokens may come from shared blocks: what is drawn from or scored must be computed."""
        if self.targets:
            return len(stream.tokens) - len(self.targets) + len(self.scores)
        return len(stream.tokens) - 1

    def take(self, token: int) -> FinishReason | None:
        """Appends the token that was drawn, and returns the reason if it is the last."""
        self.num_tokens += 1
        for stream in self.streams:
            stream.tokens.append(token)
        if token in self.end_tokens or (self.stops is not None and self.stops(token)):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_tokens >= self.max_tokens else None
