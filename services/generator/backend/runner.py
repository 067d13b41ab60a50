"""Runs steps on a model of the Llama family whose keys and values lie in blocks."""

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from services.generator.backend import attention
from services.generator.backend.lanes import Lanes, Slab
from services.generator.backend.llama import Llama, Plan, Prefix
from services.generator.backend.lora import AdapterBank, MissingAdapters
from services.generator.backend.sampling import choose, score
from services.generator.domain import Choice, NotLoaded, Step, StepResult, TokenScore, Work

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
        # A GPU gathers at the speed of its memory, and has none to spare.
        lane_positions = num_blocks * block_size // 2 if model.device.type == "cpu" else 0
        self._lanes = Lanes(self._pool, max_positions=lane_positions)

    def release(self, streams: Collection[int]) -> None:
        """Takes the lanes of the streams away; what they leave in their blocks is overwritten by the next ones."""
        self._lanes.forget(streams)

    def run(self, step: Step) -> StepResult:
        """Computes one step; raises NotFinite where a draw or a target meets logits that are no numbers, NotLoaded."""
        try:
            return self._run(step)
        except MissingAdapters as missing:
            self._lanes.forget()
            raise NotLoaded([i for i, work in enumerate(step.works) if work.adapter in missing.keys]) from missing
        except BaseException:
            self._lanes.forget()
            raise

    @torch.inference_mode()
    def _run(self, step: Step) -> StepResult:
        placed = self._lanes.place(_settled(step.works, self.block_size))
        order = [i for _, indices in placed for i in indices]
        order += attention.order(step.works, self.block_size, without=order)
        works = [step.works[i] for i in order]
        counts = [len(work.tokens) for work in works]
        self._pool.clear(_ragged(works, self.block_size))
        plan = self._plan(works, [slab for slab, _ in placed])
        active = self.adapters.active([work.adapter for work in works], counts)
        hidden = self._model.forward(plan, self._pool, active)
        ends = dict(zip(order, accumulate(counts), strict=True))
        return StepResult(self._choices(step, hidden, ends), self._scores(step, hidden, ends))

    def _plan(self, works: Sequence[Work], slabs: Sequence[Slab]) -> Plan:
        size, shape, device = self.block_size, self._model.shape, self._model.device
        places = [(work, position) for work in works for position in range(work.start, work.start + len(work.tokens))]
        return Plan(
            torch.tensor([max(token, 0) for work in works for token in work.tokens], device=device),
            torch.tensor([position for _, position in places], device=device),
            torch.tensor(
                [work.blocks[position // size] * size + position % size for work, position in places], device=device
            ),
            attention.groups(works, slabs, self._pool, heads=shape.heads),
            self._prefix(works),
        )

    def _prefix(self, works: Sequence[Work]) -> Prefix | None:
        """Returns what stands at the tokens below 0; they are the first of a stream, so their positions tell which."""
        rows: list[int] = []
        parts: list[Tensor] = []
        first = 0
        for work in works:
            if work.tokens[0] < 0:
                count = sum(token < 0 for token in work.tokens)
                rows += range(first, first + count)
                parts.append(self.adapters.prefix(work.adapter)[:, work.start : work.start + count])
            first += len(work.tokens)
        if not rows:
            return None
        return Prefix(torch.tensor(rows, device=self._model.device), torch.cat(parts, dim=1))

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


def _settled(works: Sequence[Work], block_size: int) -> dict[int, Work]:
    """Returns the works of one token, by index, before which nothing is written in this very step."""
    written = {
        block
        for work in works
        for block in work.blocks[work.start // block_size : attention.num_blocks(work, block_size)]
    }
    return {
        i: work
        for i, work in enumerate(works)
        if len(work.tokens) == 1 and written.isdisjoint(work.blocks[: work.start // block_size])
    }


def _ragged(works: Sequence[Work], block_size: int) -> list[int]:
    """Returns the blocks that are begun in this step and not filled by it."""
    ends = [(work, work.start + len(work.tokens)) for work in works]
    return [
        work.blocks[end // block_size]
        for work, end in ends
        if end % block_size and work.start <= end - end % block_size
    ]


def _rows(hidden: Tensor, rows: Sequence[int]) -> Tensor:
    if len(rows) == len(hidden) and list(rows) == list(range(len(rows))):
        return hidden
    return hidden.index_select(0, torch.tensor(rows, device=hidden.device))
