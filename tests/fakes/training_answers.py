"""A model that answers by rule, for the gate."""

from collections.abc import Callable, Sequence

from tandem.prompts import Message


class FakeAnswerer:
    """Answers each prompt by a function of its messages; remembers what it was asked."""

    def __init__(self, reply: Callable[[Sequence[Message]], str], *, perplexity: float = 20.0) -> None:
        self._reply = reply
        self._perplexity = perplexity
        self.asked: list[tuple[Message, ...]] = []

    def answers(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        self.asked += [tuple(prompt) for prompt in prompts]
        said = [" ".join(self._reply(prompt).split(" ")[:max_tokens]) for prompt in prompts]
        on_batch(len(said))
        return said

    def perplexity(self, texts: Sequence[str]) -> float:
        return self._perplexity

    def num_tokens(self, text: str) -> int:
        return len(text.split())
