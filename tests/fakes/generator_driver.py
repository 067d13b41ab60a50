"""Plans steps at random for a runner: chunks, arrivals, shared blocks and preemptions in any order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.generator.domain import Choice, Draw, Runner, Sampling, Step, StepResult, Work


@dataclass(eq=False)
class Job:
    """Is one greedy sequence to be generated, and what has become of it."""

    prompt: Sequence[int]
    num_tokens: int
    adapter: str | None = None
    choices: list[Choice] = field(default_factory=list)
    arrives: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    stream: int = -1

    @property
    def tokens(self) -> list[int]:
        """The prompt and the output so far."""
        return [*self.prompt, *self.output]

    @property
    def output(self) -> list[int]:
        """The tokens that were generated so far."""
        return [choice.token_id for choice in self.choices]


class Chaos:
    """Runs jobs to their end; every decision that a scheduler is free to take is left to chance."""

    def __init__(self, runner: Runner, *, seed: int, share: bool = True, preempt: float = 0.05) -> None:
        self.runner = runner
        self.num_shared = self.num_preempted = self.num_steps = 0
        self._random = random.Random(seed)
        self._share = share
        self._preempt = preempt
        self._free = list(range(runner.num_blocks))
        self._random.shuffle(self._free)
        self._users: dict[int, int] = {}
        self._filled: dict[tuple[str | None, tuple[int, ...]], int] = {}
        self._streams = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Generates all jobs."""
        while waiting := [job for job in jobs if len(job.output) < job.num_tokens]:
            self._one([job for job in waiting if job.arrives <= self.num_steps])
            self.num_steps += 1
        assert not self._users
        assert len(self._free) == self.runner.num_blocks

    def _one(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.computed and self._random.random() < self._preempt:
                self._drop(job)
                self.num_preempted += 1
        picked = [job for job in jobs if self._random.random() < 0.8]
        if not picked:
            return
        works = [(job, self._work(job)) for job in picked]
        self._random.shuffle(works)
        drawing = [(i, job) for i, (job, _) in enumerate(works) if job.computed == len(job.tokens)]
        self._random.shuffle(drawing)
        draws = [
            Draw(sequence=i, works=(i,), sampling=Sampling(seed=0), history=(), position=len(job.output))
            for i, job in drawing
        ]
        result: StepResult = self.runner.run(Step(tuple(work for _, work in works), tuple(draws)))
        assert set(result.choices) == {i for i, _ in drawing}
        for i, job in drawing:
            job.choices.append(result.choices[i])
            if len(job.output) == job.num_tokens:
                self._drop(job)

    def _work(self, job: Job) -> Work:
        tokens, size = job.tokens, self.runner.block_size
        if not job.blocks:
            self._streams += 1
            job.stream = self._streams
            self._take_shared(job)
        start = job.computed
        end = start + self._random.choice((1, 2, 5, 1000))
        end = min(end, len(tokens))
        while len(job.blocks) * size < end:
            block = self._free.pop()
            self._users[block] = 1
            job.blocks.append(block)
        job.computed = end
        for number in range(end // size if self._share else 0):
            self._filled.setdefault((job.adapter, tuple(tokens[: (number + 1) * size])), job.blocks[number])
        return Work(
            stream=job.stream, tokens=tokens[start:end], start=start, blocks=list(job.blocks), adapter=job.adapter
        )

    def _take_shared(self, job: Job) -> None:
        tokens, size = job.tokens, self.runner.block_size
        while (len(job.blocks) + 1) * size < len(tokens):
            block = self._filled.get((job.adapter, tuple(tokens[: (len(job.blocks) + 1) * size])))
            if block is None:
                break
            self._users[block] += 1
            job.blocks.append(block)
            self.num_shared += 1
        job.computed = len(job.blocks) * size

    def _drop(self, job: Job) -> None:
        self.runner.release([job.stream])
        for block in job.blocks:
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._free.append(block)
                self._filled = {key: other for key, other in self._filled.items() if other != block}
        self._random.shuffle(self._free)
        job.blocks, job.computed = [], 0
