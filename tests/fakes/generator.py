"""A model that writes what it is told to, and a tokenizer whose tokens are bytes."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from services.generator.domain import Choice, Prompt, Row

END = 256


class ByteTokenizer:
    """Encodes text as its UTF-8 bytes; token 256 ends the turn. A chat is its turns, one a line."""

    end_tokens = frozenset({END})

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the prompt's bytes."""
        text = prompt if isinstance(prompt, str) else "".join(f"{turn.role}: {turn.content}\n" for turn in prompt)
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the bytes' text, with U+FFFD where they are none."""
        return bytes(token for token in tokens if token != END).decode("utf-8", errors="replace")


class ScriptedRunner:
    """Answers each prompt with the bytes of `reply(row)` and the end token, for as long as it is asked.

    `batches` records what ran in each call. With `gated`, every call waits for
    one `allow()`, so that a test decides when a step happens. `fail_next`
    makes the next call raise.
    """

    def __init__(self, reply: Callable[[Row], str] = lambda row: "ok", *, gated: bool = False) -> None:
        self._reply = reply
        self._gate = threading.Semaphore(0) if gated else None
        self._left: dict[int, list[int]] = {}
        self.batches: list[tuple[str, tuple[int, ...]]] = []
        self.rows: dict[int, Row] = {}
        self.removed: list[int] = []
        self.fail_next = False
        self.entered = threading.Semaphore(0)

    def allow(self, calls: int = 1) -> None:
        """Lets that many waiting or later calls go on."""
        if self._gate is not None:
            self._gate.release(calls)

    @property
    def held(self) -> set[int]:
        """Returns the rows that were read in and not removed."""
        return set(self._left)

    def prefill(self, rows: Sequence[Row]) -> Mapping[int, Choice]:
        """Takes the rows in and returns the first token of each."""
        self._call("prefill", [row.id for row in rows])
        for row in rows:
            self.rows[row.id] = row
            self._left[row.id] = [*self._reply(row).encode(), END]
        return {row.id: self._next(row.id) for row in rows}

    def step(self) -> Mapping[int, Choice]:
        """Returns the next token of every row."""
        self._call("step", list(self._left))
        return {row_id: self._next(row_id) for row_id in self._left}

    def remove(self, ids: Collection[int]) -> None:
        """Lets rows go."""
        for row_id in ids:
            self.removed.append(row_id)
            self._left.pop(row_id, None)

    def _call(self, kind: str, ids: list[int]) -> None:
        self.batches.append((kind, tuple(ids)))
        self.entered.release()
        if self._gate is not None:
            self._gate.acquire()
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the fake model was told to fail")

    def _next(self, row_id: int) -> Choice:
        tokens = self._left[row_id]
        return Choice(tokens.pop(0) if len(tokens) > 1 else tokens[0], -0.5)
