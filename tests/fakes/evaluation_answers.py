"""A router, a generator and an embedder as evaluation asks them, and labelled questions for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.answers.questions import Question
from tandem.errors import TandemError
from tandem.v1 import embedder_service_pb2 as embedder
from tandem.v1 import generator_service_pb2 as generator
from tandem.v1 import router_service_pb2 as router

MODEL, ADAPTER, EMBEDDER = (letter * 64 for letter in "abe")


def questions(num: int = 40, *, prefix: str = "q") -> list[Question]:
    """Returns questions of two kinds in groups of two; each has its own answer."""
    return [
        Question(
            question_id=f"{prefix}{number}",
            question=f"What is the {('static', 'volatile')[number % 2]} amount number {prefix} {number}?",
            answers=(f"amount {number} of {prefix}",),
            gold_document_ids=(f"document-{number}",),
            group=f"{prefix} group {number // 4} {number % 2}",
            kind=("static", "volatile")[number % 2],
            source=("faq", "news")[number % 2],
        )
        for number in range(num)
    ]


def written(rows: Sequence[Question], path: Path) -> Path:
    """Writes questions as a file holds them."""
    told = [
        {
            "question_id": one.question_id,
            "question": one.question,
            "answers": list(one.answers),
            "gold_document_ids": list(one.gold_document_ids),
            "group": one.group,
            "kind": one.kind,
            "source": one.source,
        }
        for one in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


class FakeRouter:
    """Is a router's client: the adapter knows the static answers and is sure of them, passages hold the volatile ones.

    `auto` and `cascade` take the right one of them; `ensemble` gets everything wrong; `refusals` are raised by policy.
    """

    def __init__(self, rows: Sequence[Question], *, refusals: dict[str, TandemError] | None = None) -> None:
        self._rows = {one.question: one for one in rows}
        self.refusals = refusals or {}
        self.asked: list[tuple[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.faults: list[TandemError] = []

    async def ask(self, question: str, *, policy: str, **rest: Any) -> router.Answer:
        """Returns the answer of a policy."""
        self.asked.append((policy, self._rows[question].question_id))
        if self.faults:
            raise self.faults.pop(0)
        if policy in self.refusals:
            raise self.refusals[policy]
        return self.answer(self._rows[question], policy)

    def answer(self, one: Question, policy: str) -> router.Answer:
        """Returns what a policy answers."""
        static = one.kind == "static"
        escalated = policy in ("cascade", "auto") and not static
        reads = policy in ("rag", "dual", "ensemble") or escalated
        right = (
            (static if policy == "finetuned" else not static)
            if policy in ("finetuned", "rag")
            else policy != "ensemble"
        )
        place = int(one.question_id.lstrip("abcdefghijklmnopqrstuvwxyz "))
        found = router.Answer(
            text=one.answers[0] if right else "I made this up",
            decision=router.Decision(
                policy=policy,
                route=router.ROUTE_RAG if reads else router.ROUTE_FINETUNED,
                rewritten_question=one.question,
            ),
            cost=router.AnswerCost(num_calls=(3 if reads else 0) + (policy != "rag")),
        )
        found.usage.input_tokens = (300 if reads else 0) + (30 if policy != "rag" else 0)
        found.lineage.model_sha256, found.lineage.adapter_sha256, found.lineage.adapter = MODEL, ADAPTER, "answers"
        logprob = -0.05 - 0.001 * (place % 7) if static else -1.5 - 0.01 * (place % 5)
        found.signals.mean_logprob, found.signals.min_logprob = logprob, 2 * logprob
        for stage, milliseconds in (("embed", 10), ("search", 20)):
            if reads:
                found.timings.add(stage=stage).duration.FromMilliseconds(milliseconds)
        if reads:
            found.groundedness.value = 0.9
            for rank, name in enumerate((one.gold_document_ids[0], "another")):
                text = one.answers[0] if not rank else "nothing"
                found.passages.add(document_id=name, title="T", text=text, dense_score=0.8 - 0.2 * rank)
        return found


class FakeGenerator:
    """Is a generator's client that copies the first passage of a reading prompt, and knows nothing else."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def generate(self, request: generator.GenerateRequest) -> generator.GenerateResponse:
        """Returns the text."""
        prompt = request.chat.messages[-1].content
        self.prompts.append(prompt)
        assert not request.adapter
        text = prompt.split("\n")[1] if prompt.startswith("[1] ") else "no idea"
        found = generator.GenerateResponse(text=text)
        found.finished.usage.input_tokens, found.finished.usage.output_tokens = len(prompt) // 4, 5
        return found


class FakeEmbedder:
    """Is an embedder's client: static questions point one way, all others another, each a little aside."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> embedder.EmbedResponse:
        """Returns the vectors."""
        self.texts += texts
        response = embedder.EmbedResponse()
        response.lineage.model_sha256 = EMBEDDER
        for text in texts:
            aside = (sum(text.encode()) % 97) / 970
            response.embeddings.add(values=[1.0, 0.0, aside] if "static" in text else [0.0, 1.0, aside])
        return response
