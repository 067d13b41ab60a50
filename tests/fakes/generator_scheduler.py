"""A scheduler on the toy model, whose every step is checked."""

from collections.abc import Iterable

from services.generator.domain import Choice, Limits, Priority, Sampling, Step
from services.generator.engine.blocks import BlockPool
from services.generator.engine.pace import Pace
from services.generator.engine.scheduler import Scheduler
from services.generator.engine.sequence import Sequence, Stream
from tests.fakes.generator import END, ToyRunner, alone


class Steady(Pace):
    """Allows a fixed number of prompt tokens beside decoding rows."""

    def __init__(self, *, alone: int, beside: int) -> None:
        super().__init__(max_tokens=alone, min_tokens=1, max_stretch=1.0)
        self._beside = beside

    def budget(self, rows: int, *, waiting: Iterable[int] = ()) -> int:
        """Returns the fixed number, or all there is where no row decodes."""
        return super().budget(0) if not rows else self._beside


class Bench:
    """Runs a scheduler's steps and checks each of them."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        sharing: bool = True,
        beside: int | None = None,
        **limits: int,
    ) -> None:
        self.limits = Limits(**limits)
        self.runner = ToyRunner(num_blocks=num_blocks, block_size=block_size, shares_blocks=sharing)
        self.pool = BlockPool(num_blocks, block_size, sharing=sharing)
        most = self.limits.max_prefill_tokens
        self.pace = Steady(alone=most, beside=most if beside is None else beside)
        self.scheduler = Scheduler(limits=self.limits, pool=self.pool, pace=self.pace)
        self.drawn: dict[int, list[Choice]] = {}
        self.started: list[int] = []
        self.ended: list[Sequence] = []
        self.preempted = 0
        self.hits = 0
        self.now = 0.0
        self._ids = 0
        self._written: dict[int, tuple[str, str | None]] = {}

    def add(
        self,
        *prompts: bytes,
        tenant: str = "t",
        adapters: tuple[str | None, ...] | None = None,
        priority: Priority = Priority.INTERACTIVE,
        max_tokens: int = 8,
        targets: bytes = b"",
        deadline: float | None = None,
        weights: tuple[float, ...] | None = None,
        ends: bool = True,
    ) -> Sequence:
        """Queues a sequence; with targets it is scored, several prompts are a blend."""
        adapters = adapters or (None,) * len(prompts)
        sequence = Sequence(
            id=self._ids,
            tenant=tenant,
            priority=priority,
            streams=tuple(
                Stream([*prompt, *targets[:-1]], tenant=tenant, adapter=adapter)
                for prompt, adapter in zip(prompts, adapters, strict=True)
            ),
            arrived=self.now,
            deadline=deadline,
            sampling=None if targets else Sampling(max_tokens=max_tokens, seed=self._ids, temperature=1.0),
            max_tokens=max_tokens,
            end_tokens={END} if ends else (),
            weights=weights or (1.0,) * len(prompts),
            targets=tuple(targets),
        )
        self._ids += 1
        self.scheduler.add(sequence)
        return sequence

    def plan(self) -> Step | None:
        """Returns the next step after checking it; a second passes."""
        self.now += 1
        step = self.scheduler.plan(self.now)
        if step is not None:
            self._check(step)
        self._collect()
        return step

    def step(self, *, seconds: float = 1.0) -> bool:
        """Plans a step and computes it; False where there is none."""
        step = self.plan()
        if step is None:
            return False
        self.land(step, seconds=seconds)
        return True

    def land(self, step: Step, *, seconds: float = 1.0) -> None:
        """Computes a step, and tells the scheduler what came of it."""
        try:
            result = self.runner.run(step)
        except RuntimeError:
            self.scheduler.fail(now=self.now)
        else:
            self.scheduler.apply(result, now=self.now, seconds=seconds)
        self._collect()

    def drain(self, *, most: int = 10_000) -> None:
        """Steps until there is nothing left to do, and checks that nothing is left of anyone."""
        for _ in range(most):
            if not self.step():
                break
        assert self.scheduler.num_waiting == self.scheduler.num_running == 0
        self.clean()

    def clean(self) -> None:
        """Checks that no block and no stream is held, and that nobody ended twice."""
        assert self.runner.complaints == []
        assert self.runner.streams == set()
        assert self.pool.used == 0
        assert len({sequence.id for sequence in self.ended}) == len(self.ended)

    def tokens(self, sequence: Sequence) -> list[int]:
        """Returns the tokens that a sequence drew so far."""
        return [choice.token_id for choice in self.drawn.get(sequence.id, [])]

    def expected(self, sequence: Sequence) -> list[Choice]:
        """Returns what the toy model draws for a sequence that has it to itself."""
        assert sequence.sampling is not None
        return alone(
            [stream.tokens[: stream.num_prompt] for stream in sequence.streams],
            sequence.sampling,
            adapters=[stream.root[1] for stream in sequence.streams],
            weights=sequence.weights,
            mixing=sequence.mixing,
            max_tokens=sequence.max_tokens,
        )

    def _collect(self) -> None:
        news = self.scheduler.collect()
        self.runner.release(news.released)
        self.started += [sequence.id for sequence in news.started]
        for sequence, choice in news.drawn:
            self.drawn.setdefault(sequence.id, []).append(choice)
        self.ended += news.ended
        self.preempted += news.preempted
        self.hits += news.hits

    def _check(self, step: Step) -> None:
        flight = self.scheduler.flight
        assert flight is not None
        widest = max(sequence.width for sequence in flight.members.values())
        assert flight.tokens <= max(min(self.limits.max_prefill_tokens, self.pace.budget(flight.rows)), widest)
        assert flight.rows <= max(self.limits.max_running, widest)
        assert flight.rows + flight.tokens == sum(len(work.tokens) for work in step.works)
        size = self.pool.block_size
        roots = {stream.id: stream.root for s in flight.members.values() for stream in s.streams}
        for work in step.works:
            for position in range(work.start, work.start + len(work.tokens)):
                self._written[work.blocks[position // size]] = roots[work.stream]
        for work in step.works:
            for block in work.blocks[: -(-work.start // size)]:
                assert self._written[block] == roots[work.stream], "a block went across tenants or adapters"
