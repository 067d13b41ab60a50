"""Every policy among parts that go on, fail or hang turn by turn, while callers come, leave and run out of time.

Whatever the order: one answer or one status, one opened and one closed record, nothing left running, no more calls
than allowed, and the text that the caller heard last is the answer.
"""

import asyncio
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.router.domain import Allowance, Answer, Below, Depth, Domain, Passage
from tandem import errors
from tandem.prompts import ABSTENTION
from tests.fakes.router import DOMAIN, PASSAGES, World, question
from tests.fakes.router_calibration import artefact_of
from tests.fakes.router_gates import (
    Gate,
    GatedEmbedder,
    GatedGrounding,
    GatedRetriever,
    GatedWritten,
    VirtualLoop,
    gated_audit,
)
from tests.fakes.router_worlds import calls_of, check_end

NAMES = ("answers", "reading")
FAULTS = st.sampled_from(
    [
        errors.Unavailable("down"),
        errors.Overloaded("full", retry_after_s=1.0),
        errors.InvalidInput("too long", reason="PROMPT_TOO_LONG"),
        errors.NotFound("gone"),
        errors.DeadlineExceeded("late"),
    ]
)
TEXTS = st.sampled_from(["The excess for collision is EUR 500."] * 3 + ["Something else.", ABSTENTION, ""])
DOMAINS = st.builds(
    lambda threshold, below, depth, limit, artefact: replace(
        DOMAIN, threshold=threshold, below=below, depth=depth, min_groundedness=limit, artefact=artefact
    ),
    st.sampled_from([0.5, 0.99]),
    st.sampled_from(list(Below)),
    st.sampled_from([Depth.WORDS, Depth.VECTORS]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from(
        [
            None,
            artefact_of(threshold=0.5, features=("scope_distance",), version="a" * 64),
            artefact_of(threshold=0.5, features=("mean_logprob",), version="b" * 64, scope=None),
            artefact_of(threshold=None, version="c" * 64),
        ]
    ),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Is a question, and how the parts take it that let it go on."""

    policy: str
    domain: Domain
    max_calls: int | None
    timeout_s: float
    texts: tuple[str, str, str]
    passages: tuple[Passage, ...]
    loaded: frozenset[str]
    stream_drafts: bool


CASES = st.builds(
    Case,
    policy=st.sampled_from(["auto", "cascade", "dual", "dual", "dual", "ensemble", "finetuned", "rag"]),
    domain=DOMAINS,
    max_calls=st.none() | st.integers(1, 6),
    timeout_s=st.sampled_from([1.0, 10.0]),
    texts=st.tuples(TEXTS, TEXTS, TEXTS),
    passages=st.sampled_from([PASSAGES, (), tuple(replace(one, dense_score=0.8) for one in PASSAGES)]),
    loaded=st.sampled_from([frozenset(names) for names in (NAMES, NAMES, {"answers"}, set[str]())]),
    stream_drafts=st.booleans(),
)


@dataclass
class Asking:
    """Is one caller, and all that its answer is made with."""

    world: World
    gate: Gate
    max_calls: int | None
    task: "asyncio.Task[Answer]" = field(init=False)


class Answers(RuleBasedStateMachine):
    """Drives up to three answers at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.asking: list[Asking] = []

    @initialize(case=CASES)
    def begin(self, case: Case) -> None:
        """Has the loop be that of this run, and begins the first answer."""
        asyncio.set_event_loop(self.loop)
        self._begin(case)

    @precondition(lambda self: len(self.asking) < 3)
    @rule(case=CASES)
    def ask(self, case: Case) -> None:
        """Begins another answer."""
        self._begin(case)

    @precondition(lambda self: self.gates)
    @rule(places=st.lists(st.integers(0, 7), min_size=1, max_size=30))
    def go_on(self, places: list[int]) -> None:
        """Lets parts go on by a turn each."""
        for place in places:
            if self.gates:
                self.gates[place % len(self.gates)].let(place, None)
                self.loop.turn()

    @precondition(lambda self: self.gates)
    @rule(num_rounds=st.integers(1, 12))
    def go_on_together(self, num_rounds: int) -> None:
        """Lets all parts go on by some turns each."""
        for _ in range(num_rounds):
            for gate in self.gates:
                gate.open()
            self.loop.turn()

    @precondition(lambda self: self.gates)
    @rule(place=st.integers(0, 7), error=FAULTS, num_turns=st.integers(0, 30))
    def fail(self, place: int, error: errors.TandemError, num_turns: int) -> None:
        """Lets a part fail."""
        self.gates[place % len(self.gates)].let(place, error)
        self.loop.turn(num_turns)

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 5.0]))
    def let_time_pass(self, seconds: float) -> None:
        """Moves the clock."""
        self.loop.now += seconds
        self.loop.turn()

    @precondition(lambda self: self.asking)
    @rule(place=st.integers(0, 2), num_turns=st.integers(0, 10))
    def leave(self, place: int, num_turns: int) -> None:
        """Has a caller hang up."""
        self.asking[place % len(self.asking)].task.cancel()
        self.loop.turn(num_turns)

    @invariant()
    def no_answer_takes_more_calls_than_allowed(self) -> None:
        """Checks the budget while answers are made."""
        for asking in self.asking:
            assert asking.max_calls is None or _calls(asking.world) <= asking.max_calls

    @invariant()
    def who_has_ended_left_nothing_running(self) -> None:
        """Checks that work ends with its answer, not by its own time; a record that was begun goes on."""
        for asking in self.asking:
            if asking.task.done():
                assert asking.world.generator.num_running == 0
                assert {part for part, _ in asking.gate.waiting} <= {"audit"}

    @property
    def gates(self) -> list[Gate]:
        """Are those before which somebody waits."""
        return [asking.gate for asking in self.asking if asking.gate.waiting]

    def teardown(self) -> None:
        """Lets the time of all run out, and checks how each ended."""
        for _ in range(8):
            self.loop.now += 100.0
            self.loop.turn()
            # The log is durable in its own time: nobody's deadline ends a record that was begun.
            for gate in self.gates:
                gate.open("audit")
            self.loop.turn()
        try:
            assert asyncio.all_tasks(self.loop) == set()
            assert self.gates == []
            for asking in self.asking:
                check_end(asking.world, asking.task)
                if not asking.task.cancelled() and asking.task.exception() is None:
                    assert asking.task.result().cost.num_calls == _calls(asking.world)
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _begin(self, case: Case) -> None:
        gate = Gate()
        world = World(
            embedder=GatedEmbedder(gate=gate),
            retriever=GatedRetriever(gate=gate, passages=case.passages),
            audit=gated_audit(gate),
            grounding=GatedGrounding(gate),
            domain=case.domain,
            stream_drafts=case.stream_drafts,
            clock=self.loop.time,
        )
        world.generator.loaded = case.loaded
        world.generator.sequences = {
            name: GatedWritten(gate=gate, text=text) for name, text in zip(("", *NAMES), case.texts, strict=True)
        }
        asking = Asking(world, gate, case.max_calls)
        allowance = Allowance(max_calls=case.max_calls)
        asked = question(policy=case.policy, timeout_s=case.timeout_s, allowance=allowance)
        asking.task = self.loop.create_task(world.ask(asked))
        self.asking.append(asking)
        self.loop.turn()


def _calls(world: World) -> int:
    assert isinstance(world.grounding, GatedGrounding)
    return calls_of(world) + world.grounding.num_calls


Answers.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAnswers = Answers.TestCase
