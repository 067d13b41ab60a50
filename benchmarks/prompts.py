"""Prompts of a chosen length from the sample company's documents, no two of which begin alike."""

import random
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Prompt

COMPANY = Path(__file__).resolve().parents[1] / "examples" / "company"
_STRIDE = 17  # tokens between two beginnings: a prime, so that few fall on the same line


class Prompts:
    """Deals prompts; none twice."""

    def __init__(self, model: Path, *, seed: int) -> None:
        from transformers import AutoTokenizer  # here, for it takes seconds and only a run that measures needs it

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        files = sorted([*COMPANY.glob("sources/**/*.md"), *COMPANY.glob("facts/*.txt")])
        text = "\n".join(file.read_text() for file in files)
        self._ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        self._starts = list(range(0, len(self._ids), _STRIDE))
        random.Random(seed).shuffle(self._starts)  # noqa: S311
        self._overhead = len(self.rendered("")) + 2

    def rendered(self, text: str) -> list[int]:
        """Returns the token ids of a chat of one turn, the assistant's turn opened."""
        chat = [{"role": "user", "content": text}]
        return list(self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def take(self, count: int, *, length: int = 300) -> list[Prompt]:
        """Deals `count` prompts of about `length` tokens, the chat's frame included."""
        return [self._prompt(self.passage(length - self._overhead)) for _ in range(count)]

    def shared(self, count: int, *, common: int, length: int = 300) -> list[Prompt]:
        """Deals prompts that begin with the same `common` tokens, the chat's frame not counted."""
        prefix = self.passage(common)
        rest = length - common - self._overhead
        return [self._prompt(f"{prefix}\n\n{self.passage(rest)}") for _ in range(count)]

    def passage(self, length: int) -> str:
        """Deals a stretch of the documents."""
        if not self._starts:
            raise ValueError("the documents are used up: ask for fewer prompts")
        start = self._starts.pop()
        ring = self._ids[start:] + self._ids[:start]
        text: str = self._tokenizer.decode(ring[:length]).strip()
        return text

    def _prompt(self, text: str) -> Prompt:
        return Prompt(text, self.rendered(text))
