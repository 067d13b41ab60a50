"""The step in progress, and the news of what happened."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from services.generator.domain import Choice, Draw, Step, Work
from services.generator.engine.sequence import Sequence, Stream


@dataclass
class News:
    """Is what happened since it was last collected, for those who answer callers."""

    started: list[Sequence] = field(default_factory=list)
    drawn: list[tuple[Sequence, Choice]] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)
    """Have left the runner, or never reached it: nothing of theirs runs any more."""
    released: list[int] = field(default_factory=list)
    """Streams that the runner may forget."""
    preempted: int = 0
    looked_up: int = 0
    """Tokens that might have come from shared blocks."""
    hits: int = 0
    """Tokens that did."""


@dataclass
class Flight:
    """Is a step with those who take part in it."""

    works: list[Work] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    drawing: list[Sequence] = field(default_factory=list)
    scoring: dict[int, Sequence] = field(default_factory=dict)
    """By the index of the work with targets."""
    members: dict[int, Sequence] = field(default_factory=dict)
    """By the id of the sequence."""
    rows: int = 0
    """Works that only read the token drawn last."""
    tokens: int = 0
    """Tokens of all other works."""

    @property
    def kind(self) -> str:
        """Returns "prefill", "decode" or "mixed"."""
        if not self.tokens:
            return "decode"
        return "mixed" if self.rows else "prefill"

    @property
    def step(self) -> Step:
        """Returns what the runner is told."""
        return Step(tuple(self.works), tuple(self.draws))

    def read(self, sequence: Sequence, stream: Stream, count: int) -> None:
        """Adds a stream's next tokens."""
        start, end = stream.computed, stream.computed + count
        targets: Tokens[int] = ()
        if sequence.targets:
            done = len(sequence.scores)
            targets = sequence.targets[done : done + max(0, end - max(start, sequence.shareable(stream)))]
            if targets:
                self.scoring[len(self.works)] = sequence
        self.works.append(
            Work(
                stream=stream.id,
                tokens=tuple(stream.tokens[start:end]),
                start=start,
                blocks=tuple(stream.blocks),
                adapter=stream.root[1],
                targets=targets,
            )
        )
        self.members[sequence.id] = sequence
        sequence.computed += count

    def draw(self, sequence: Sequence) -> None:
        """Asks for the next token of a sequence, whose works are the last ones; nothing of one that is scored."""
        if sequence.sampling is None:
            return
        end = len(self.works)
        self.drawing.append(sequence)
        self.draws.append(
            Draw(
                sequence=sequence.id,
                works=tuple(range(end - sequence.width, end)),
                weights=sequence.weights,
                mixing=sequence.mixing,
                sampling=sequence.sampling,
                # Not copied: it only grows between two steps.
                history=sequence.streams[0].history,
                position=sequence.num_tokens,
                num_alternatives=sequence.num_alternatives,
            )
        )
