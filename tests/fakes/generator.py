"""A toy model whose tokens depend on all that its blocks hold, and a tokenizer whose tokens are bytes.

Every stored position keeps a number made of the one before it, read through
the block table, of its token, its place and its adapter. The next token is a
function of all these numbers. So a wrong table, a block shared across
adapters or prefixes, one that was overwritten, or one that was not computed
again after it was lost shows as another output than `alone` gives.
"""

import math
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from services.generator.domain import (
    Choice,
    Draw,
    Mixing,
    NotFinite,
    NotLoaded,
    Prompt,
    Sampling,
    Step,
    StepResult,
    TokenScore,
    Work,
)

END = 256
_ALPHABET = tuple(b"abcdefghijklmnop")
_MODULUS = (1 << 61) - 1


class ByteTokenizer:
    """Encodes text as its UTF-8 bytes; token 256 ends the turn. A chat is its turns, one a line."""

    end_tokens = frozenset({END})

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the prompt's bytes."""
        text = prompt if isinstance(prompt, str) else "".join(f"{turn.role}: {turn.content}\n" for turn in prompt)
        return list(text.encode())

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the text's bytes."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the bytes' text, with U+FFFD where they are none."""
        return bytes(token for token in tokens if token != END).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class _Cell:
    """Is what one position of a block holds."""

    position: int
    value: int


class ToyRunner:
    """Computes steps on cells in place of keys and values.

    With `reply`, the tokens are the bytes of reply(prompt) and the end token,
    whatever the cells hold; they are checked all the same. With `gated`,
    every step waits for one `allow()`. `fail_next` makes the next step raise,
    and what it named is lost. `complaints` lists what a real runner could not
    have computed: any entry is a bug of the engine.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        shares_blocks: bool = True,
        reply: Callable[[str], str] | None = None,
        gated: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.shares_blocks = shares_blocks
        self.steps: list[Step] = []
        self.streams: set[int] = set()
        """Streams that were read and not released."""
        self.complaints: list[str] = []
        self.fail_next = False
        self.overflowing: set[str] = set()
        """Keys of adapters whose logits are not finite."""
        self.missing: set[str] = set()
        """Keys of adapters whose weights are not in memory."""
        self.entered = threading.Semaphore(0)
        self._reply = reply
        self._gate = threading.Semaphore(0) if gated else None
        self._cells: dict[tuple[int, int], _Cell] = {}

    def allow(self, steps: int = 1) -> None:
        """Lets that many waiting or later steps go on."""
        if self._gate is not None:
            self._gate.release(steps)

    def run(self, step: Step) -> StepResult:
        """Stores the works' tokens, then draws and scores."""
        self.steps.append(step)
        self.entered.release()
        if self._gate is not None:
            self._gate.acquire()
        self.streams |= {work.stream for work in step.works}
        if self.fail_next:
            self.fail_next = False
            self._lose(step)
            raise RuntimeError("the toy model was told to fail")
        if overflowing := [i for i, work in enumerate(step.works) if work.adapter in self.overflowing]:
            self._lose(step)
            raise NotFinite(overflowing)
        if missing := [i for i, work in enumerate(step.works) if work.adapter in self.missing]:
            self._lose(step)
            raise NotLoaded(missing)
        self._store(step)
        choices = {draw.sequence: self._choose(step, draw) for draw in step.draws}
        scores = {index: self._score(work) for index, work in enumerate(step.works) if work.targets}
        return StepResult(choices, scores)

    def release(self, streams: Collection[int]) -> None:
        """Lets streams go."""
        self.streams -= set(streams)

    def _place(self, work: Work, position: int) -> tuple[int, int]:
        return work.blocks[position // self.block_size], position % self.block_size

    def _lose(self, step: Step) -> None:
        lost = {block for work in step.works for block in work.blocks}
        self._cells = {place: cell for place, cell in self._cells.items() if place[0] not in lost}

    def _store(self, step: Step) -> None:
        """Writes all cells of the step, those first that others of the same step build on."""
        written: set[tuple[int, int]] = set()
        for work in step.works:
            for position in range(work.start, work.start + len(work.tokens)):
                place = self._place(work, position)
                if place in written:
                    self._complain(f"two works of a step write {place}")
                written.add(place)
                self._cells.pop(place, None)
        left = list(step.works)
        while left:
            ready = [work for work in left if self._known(work)]
            if not ready:
                self._complain("a work stands on positions that nobody computed")
                raise RuntimeError("the toy model was asked for the impossible")
            for work in ready:
                left.remove(work)
                value = self._cells[self._place(work, work.start - 1)].value if work.start else 0
                for position, token in enumerate(work.tokens, work.start):
                    value = _mix(value, token, position, work.adapter)
                    self._cells[self._place(work, position)] = _Cell(position, value)

    def _known(self, work: Work) -> bool:
        return all(
            (cell := self._cells.get(self._place(work, position))) is not None and cell.position == position
            for position in range(work.start)
        )

    def _seen(self, work: Work, end: int) -> int:
        return _fold(self._cells[self._place(work, position)].value for position in range(end))

    def _choose(self, step: Step, draw: Draw) -> Choice:
        works = [step.works[index] for index in draw.works]
        seen = [self._seen(work, work.start + len(work.tokens)) for work in works]
        if draw.sampling.seed is None:
            self._complain("a draw came without a seed")
        if self._reply is None:
            return _choice(seen, draw)
        prompt = bytes(token for token in draw.history[: len(draw.history) - draw.position])
        tokens = [*self._reply(prompt.decode()).encode(), END]
        return Choice(tokens[min(draw.position, len(tokens) - 1)], -0.5, entropy=1.0, margin=0.25)

    def _score(self, work: Work) -> tuple[TokenScore, ...]:
        end = work.start + len(work.tokens)
        first = end - len(work.targets) + 1
        return tuple(
            toy_score(self._seen(work, position), target) for position, target in enumerate(work.targets, first)
        )

    def _complain(self, text: str) -> None:
        self.complaints.append(text)


def alone(
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    adapters: Sequence[str | None] = (None,),
    weights: Sequence[float] = (1.0,),
    mixing: Mixing = Mixing.ARITHMETIC,
    max_tokens: int | None = None,
) -> list[Choice]:
    """Returns what the toy model draws for a sequence that has it to itself."""
    texts = [list(prompt) for prompt in prompts]
    choices: list[Choice] = []
    for position in range(sampling.max_tokens if max_tokens is None else max_tokens):
        draw = Draw(
            sequence=0,
            works=tuple(range(len(texts))),
            weights=tuple(weights),
            mixing=mixing,
            sampling=sampling,
            history=tuple(texts[0]),
            position=position,
        )
        seen = [_seen_alone(text, adapter) for text, adapter in zip(texts, adapters, strict=True)]
        choices.append(_choice(seen, draw))
        if choices[-1].token_id == END:
            break
        for text in texts:
            text.append(choices[-1].token_id)
    return choices


def score_alone(prompt: Sequence[int], targets: Sequence[int], *, adapter: str | None = None) -> list[TokenScore]:
    """Returns the toy model's scores of a continuation that has it to itself."""
    return [
        toy_score(_seen_alone([*prompt, *targets[:index]], adapter), target) for index, target in enumerate(targets)
    ]


def toy_score(seen: int, target: int) -> TokenScore:
    """Returns the score of a target after what was seen."""
    number = _fold((seen, target))
    return TokenScore(-1.0 - number % 97 / 10, number % 13 / 4, number % 2 == 0)


def _choice(seen: Sequence[int], draw: Draw) -> Choice:
    """Returns the token that follows from all that the streams saw and from what the draw asks for."""
    number = _fold(
        (
            *seen,
            *(round(weight * 1000) for weight in draw.weights),
            draw.position,
            _fold(draw.history),
            draw.mixing is Mixing.LOGARITHMIC,
            0 if draw.sampling.temperature == 0 or draw.sampling.seed is None else draw.sampling.seed,
        )
    )
    token = END if number % 23 == 0 else _ALPHABET[number // 23 % len(_ALPHABET)]
    logprob = -(number % 31) / 10
    alternatives = tuple((_ALPHABET[index], logprob - index) for index in range(draw.num_alternatives))
    return Choice(token, logprob, number % 7 / 3, math.exp(-(number % 5)), alternatives)


def _seen_alone(tokens: Sequence[int], adapter: str | None) -> int:
    value, values = 0, []
    for position, token in enumerate(tokens):
        value = _mix(value, token, position, adapter)
        values.append(value)
    return _fold(values)


def _mix(before: int, token: int, position: int, adapter: str | None) -> int:
    return _fold((before, token, position, zlib.crc32((adapter or "").encode())))


def _fold(numbers: Iterable[int]) -> int:
    value = 1
    for number in numbers:
        value = (value * 1_000_003 + number + 7) % _MODULUS
    return value
