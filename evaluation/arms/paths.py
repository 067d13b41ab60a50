"""The arms that are asked: the domain's policies by the router, and the base model by the generator."""

from collections.abc import Callable
from typing import Any

from evaluation.answers.answered import Kept, of_text
from evaluation.answers.asking import Ask
from evaluation.answers.questions import Question
from tandem.prompts import Message, closed_book, passage, reading
from tandem.scoring import abstains
from tandem.v1 import generator_service_pb2 as generator

OWN, EVIDENCE = "finetuned", "rag"
BASE, BASE_READS = "base", "rag-base"
POLICIES = (OWN, EVIDENCE, "dual", "cascade", "ensemble", "auto")
ARMS = (BASE, OWN, BASE_READS, *POLICIES[1:])
NEEDS = {BASE_READS: EVIDENCE}
"""Arms that read what another was given."""
_FINDING = ("embed", "search")
"""Stages of an answer from passages before it is read."""


class Base:
    """Asks the base model alone: closed book, or with the passages that the arm `rag` read for the same question.

    `generator_client` has the `generate` of tandem.client.AsyncGeneratorClient.
    """

    def __init__(self, generator_client: Any, kept: Kept, *, max_tokens: int = 192) -> None:
        self._client = generator_client
        self._kept = kept
        self._max_tokens = max_tokens

    def by(self, arm: str) -> Ask:
        """Returns what asks an arm of BASE and BASE_READS."""
        asks: dict[str, Ask] = {BASE: self._closed_book, BASE_READS: self._reads}
        return asks[arm]

    async def _closed_book(self, question: Question) -> dict[str, Any]:
        return await self._write(closed_book(question.question))

    async def _reads(self, question: Question) -> dict[str, Any]:
        read = self._kept.of(EVIDENCE, question)
        found = {"passages": read.passages, "groundedness": None}
        finding = {stage: read.stages_ms[stage] for stage in _FINDING if stage in read.stages_ms}
        if not read.passages:
            return {**found, "abstained": True, "num_calls": 2.0, "stages_ms": finding}
        shown = [passage(one["title"], one["text"]) for one in read.passages]
        written = await self._write(reading(read.rewritten or question.question, shown))
        return {**written, **found, "num_calls": 1.0 + 2.0, "stages_ms": finding}

    async def _write(self, messages: list[Message]) -> dict[str, Any]:
        chat = generator.ChatPrompt(
            messages=[generator.ChatMessage(role=one.role, content=one.content) for one in messages]
        )
        request = generator.GenerateRequest(chat=chat, sampling=generator.Sampling(max_tokens=self._max_tokens))
        response = await self._client.generate(request)
        return of_text(response, abstained=abstains(response.text))


def waited_s(arm: str, seconds: float, stages_ms: dict[str, float]) -> float:
    """Returns how long an answer took: that of BASE_READS lacks the finding, which another call did before."""
    return seconds + (sum(stages_ms.values()) / 1000 if arm == BASE_READS else 0.0)


def asker(router_by: Callable[[str], Ask], base: Base) -> Callable[[str], Ask]:
    """Returns what asks any arm."""
    return lambda arm: router_by(arm) if arm in POLICIES else base.by(arm)
