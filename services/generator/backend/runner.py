"""Runs steps on a model of the Llama family whose keys and values lie in blocks."""

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from services.generator.backend import attention
from services.generator.backend.llama import Llama, Plan
from services.generator.backend.lora import AdapterBank
from services.generator.backend.sampling import choose, score
from services.generator.domain import Choice, Step, StepResult, TokenScore, Work

_LOGITS = 64
"""Targets whose logits are computed at a time: with a vocabulary of 150,000 those take 40 MB."""


class PagedRunner:
    """Computes a step as one pass: the tokens of all works together through the linear layers, attention by groups.

    It keeps nothing but keys and values, so blocks that one stream filled
    may stand in the table of another.
    """

    shares_blocks = True

    def __init__(self, model: Llama, *, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.adapters = AdapterBank(
            model.shape, dtype=torch.float32 if model.precision == "fp32" else torch.bfloat16, device=model.device
        )
        self._model = model
        self._pool = model.new_pool(num_blocks=num_blocks, block_size=block_size)

    def release(self, streams: Collection[int]) -> None:
        """Does nothing: what a stream leaves in its blocks is overwritten by the next one."""

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Computes one step; raises NotFinite where a draw or a target meets logits that are no numbers."""
        order = attention.order(step.works, self.block_size)
        works = [step.works[i] for i in order]
        counts = [len(work.tokens) for work in works]
        plan = self._plan(works)
        self._pool.clear(_fresh(works, self.block_size))
        active = self.adapters.active([work.adapter for work in works], counts)
        hidden = self._model.forward(plan, self._pool, active)
        ends = dict(zip(order, accumulate(counts), strict=True))
        return StepResult(self._choices(step, hidden, ends), self._scores(step, hidden, ends))

    def _plan(self, works: Sequence[Work]) -> Plan:
        size, shape, device = self.block_size, self._model.shape, self._model.device
        places = [(work, position) for work in works for position in range(work.start, work.start + len(work.tokens))]
        return Plan(
            torch.tensor([token for work in works for token in work.tokens], device=device),
            torch.tensor([position for _, position in places], device=device),
            torch.tensor(
                [work.blocks[position // size] * size + position % size for work, position in places], device=device
            ),
            attention.groups(works, self._pool, device=device, heads=shape.heads, kv_heads=shape.kv_heads),
        )

    def _choices(self, step: Step, hidden: Tensor, ends: dict[int, int]) -> dict[int, Choice]:
        rows = [ends[index] - 1 for draw in step.draws for index in draw.works]
        if not rows:
            return {}
        logits = self._model.logits(_rows(hidden, rows))
        found = choose(logits, step.draws)
        return {draw.sequence: choice for draw, choice in zip(step.draws, found, strict=True)}

    def _scores(self, step: Step, hidden: Tensor, ends: dict[int, int]) -> dict[int, tuple[TokenScore, ...]]:
        asked = [
            (ends[index] - len(work.targets) + place, target, index)
            for index, work in enumerate(step.works)
            for place, target in enumerate(work.targets)
        ]
        scores: dict[int, list[TokenScore]] = {}
        for start in range(0, len(asked), _LOGITS):
            rows, targets, indices = zip(*asked[start : start + _LOGITS], strict=True)
            logits = self._model.logits(_rows(hidden, rows))
            for index, found in zip(indices, score(logits, targets, works=indices), strict=True):
                scores.setdefault(index, []).append(found)
        return {index: tuple(found) for index, found in scores.items()}


def _fresh(works: Sequence[Work], block_size: int) -> list[int]:
    """Returns the blocks whose first position is written in this step."""
    return [
        work.blocks[number]
        for work in works
        for number in range(-(-work.start // block_size), attention.num_blocks(work, block_size))
    ]


def _rows(hidden: Tensor, rows: Sequence[int]) -> Tensor:
    if len(rows) == len(hidden) and list(rows) == list(range(len(rows))):
        return hidden
    return hidden.index_select(0, torch.tensor(rows, device=hidden.device))
