"""Which answers say the same, how far they disagree, and how several are drawn."""

import asyncio
import json
import math
import sys
from collections.abc import AsyncGenerator, Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.domain import (
    Adapter,
    Confidence,
    Delta,
    Event,
    Feature,
    Finished,
    FinishReason,
    GenerateInput,
    Lineage,
    ModelInfo,
    Pin,
    Sampling,
    Score,
    ScoreInput,
    Started,
    StreamInput,
    Token,
    Usage,
)
from services.generator.engine.meaning import cluster, sample, say_the_same, semantic_entropy
from tandem.errors import DeadlineExceeded, Overloaded

QUESTIONS = Path(__file__).parents[3] / "examples" / "company" / "questions"
SAME = [
    ("25 days", "The 25 Days."),
    ("two weeks", "2 weeks"),
    ("fourteen days", "14 days"),
    ("ninety km", "90 kilometres"),
    ("€1,000", "1000.00 euros"),
    ("25%", "25 per cent"),
    ("25 percent", "25 %"),
    ("It isn't covered", "it is not covered!"),
    ("That can’t be claimed", "That cannot be claimed"),
    ("The excess for storm damage is 500 euro", "500 euro is the excess for storm damage"),
    ("Report it to the police within 24 hours", "Report it to the police in 24 hours"),
    ("", "..."),
    ("München", "münchen"),
    ("-5 degrees", "−5 degrees"),
    ("0.5", "0.50"),
    ("m²", "m2"),
    ("保険", "保険"),
]
DIFFERENT = [
    ("25 days", "30 days"),
    ("3 days", "3 working days"),
    ("2 years", "every 2 years"),
    ("Claims must be reported to the insurer within 25 days", "Claims must be reported to the insurer within 30 days"),
    ("You must tell the insurer in two days from the loss", "You must tell the insurer in three days from the loss"),
    ("You must tell the insurer within 25 days of the loss", "You must tell the insurer within 25 months of the loss"),
    ("Theft of the bicycle is covered by it", "Theft of the bicycle is not covered by it"),
    ("We will pay for the loss of the keys", "We won't pay for the loss of the keys"),
    ("You can claim for the loss of the keys", "You cannot claim for the loss of the keys"),
    ("3.5 percent", "35 percent"),
    ("-5", "5"),
    ("-0.5", "0.5"),
    ("$500", "€500"),
    ("1.2.2024", "12.2024"),
    ("500", "500.01"),
    ("1" * 5000, "1" * 5001),
    ("Yes", "No"),
    ("", "Paris"),
    ("the home policy", "the motor policy"),
]  # fmt: skip


class TestSayingTheSame:
    @pytest.mark.parametrize(("one", "other"), SAME)
    def test_case_spelling_and_order_make_no_difference(self, one: str, other: str) -> None:
        assert say_the_same(one, other)
        assert say_the_same(other, one)

    @pytest.mark.parametrize(("one", "other"), DIFFERENT)
    def test_numbers_units_and_negations_do(self, one: str, other: str) -> None:
        assert not say_the_same(one, other)
        assert not say_the_same(other, one)

    @given(st.text(), st.text())
    def test_it_holds_of_any_text_itself_and_both_ways(self, one: str, other: str) -> None:
        assert say_the_same(one, one)
        assert say_the_same(one, other) == say_the_same(other, one)

    @given(st.integers(0, 10**9), st.integers(0, 10**9))
    def test_other_numbers_never_say_the_same(self, one: int, other: int) -> None:
        words = "the excess for all damage by storm and hail is {} for each single claim that is made"
        assert say_the_same(words.format(one), words.format(other)) == (one == other)


def test_of_all_answers_of_the_sample_company_no_two_that_differ_are_taken_for_the_same() -> None:
    lines = [line for path in sorted(QUESTIONS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    questions = [question for question in map(json.loads, lines) if "superseded_answers" in question]
    answers = sorted({question["answers"][0] for question in questions if question["answers"]})
    assert len(answers) > 200
    assert [pair for pair in combinations(answers, 2) if say_the_same(*pair)] == []
    for question in questions:
        outdated = [*question["superseded_answers"], *question["forbidden_answers"]]
        assert not any(say_the_same(new, old) for new in question["answers"] for old in outdated)


class TestClusters:
    def test_they_are_numbered_in_the_order_of_first_appearance(self) -> None:
        assert cluster(["30 days", "25 days", "The 30 days", "never", "25 Days!"]) == [0, 1, 0, 2, 1]

    def test_a_chain_of_likenesses_is_cut_at_the_first_member(self) -> None:
        chain = ["a1 b c d e f g h".replace("a1", "x"), "c d e f g h i x", "d e f g h i j x"]
        assert say_the_same(chain[0], chain[1])
        assert say_the_same(chain[1], chain[2])
        assert not say_the_same(chain[0], chain[2])
        assert cluster(chain) == [0, 0, 1]
        assert cluster([chain[1], chain[0], chain[2]]) == [0, 0, 0]

    @given(st.lists(st.sampled_from(["25 days", "30 days", "it is covered", "it is not covered", ""]), min_size=1))
    def test_equal_texts_share_a_number_and_numbers_leave_no_gap(self, texts: list[str]) -> None:
        numbers = cluster(texts)
        assert sorted(set(numbers)) == list(range(len(set(texts))))
        assert all((numbers[i] == numbers[j]) == (a == b) for i, a in enumerate(texts) for j, b in enumerate(texts))
        assert [number for i, number in enumerate(numbers) if number not in numbers[:i]] == sorted(set(numbers))


class TestSemanticEntropy:
    @pytest.mark.parametrize(
        ("clusters", "entropy"),
        [
            ([0], 0.0),
            ([0, 0, 0, 0], 0.0),
            ([0, 1], math.log(2)),
            ([0, 1, 2, 3, 4], math.log(5)),
            ([0, 0, 0, 1], -0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        ],
    )
    def test_each_answer_counts_the_same(self, clusters: list[int], entropy: float) -> None:
        assert semantic_entropy(clusters) == pytest.approx(entropy)

    @given(st.lists(st.integers(0, 15), min_size=1, max_size=16))
    def test_it_lies_between_agreement_and_no_two_alike(self, clusters: list[int]) -> None:
        assert 0 <= semantic_entropy(clusters) <= math.log(len(clusters)) + 1e-12


class Replies:
    """Is a backend that answers by seed, one event for each turn of the loop, and keeps what became of its calls."""

    model = ModelInfo(name="toy", sha256="", max_context_tokens=64, precision="fp32")
    features: frozenset[Feature] = frozenset()

    def __init__(self, reply: Callable[[int], str | BaseException | None], *, refuse: int | None = None) -> None:
        """Takes the answer to each seed: a text, a failure, or None for one that never comes."""
        self.reply = reply
        self.refuse = refuse
        self.running = 0
        self.most_running = 0
        self.ended: list[int] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def score(self, request: ScoreInput) -> tuple[list[Score], Usage]:
        raise NotImplementedError

    def generate(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        if request.sampling.seed == self.refuse:
            for pin in request.pins:
                pin.release()
            raise Overloaded("full", retry_after_s=1)
        return self._events(request)

    async def _events(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
        seed = request.sampling.seed or 0
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            lineage = Lineage(model="toy", model_sha256="ff")
            yield Started(lineage, 3)
            reply = self.reply(seed)
            await asyncio.sleep(0)
            if isinstance(reply, BaseException):
                raise reply
            if reply is None:
                await asyncio.Event().wait()
            for letter in str(reply)[:-1]:
                yield Delta(letter, Token(0, letter, -0.1))
            yield Finished(
                reason=FinishReason.LENGTH if seed == 1 else FinishReason.STOP,
                tail=str(reply)[-1:],
                lineage=lineage,
                usage=Usage(input_tokens=3, output_tokens=2, cached_tokens=1, computed_tokens=4 + seed),
                confidence=Confidence(mean_logprob=-seed / 10, min_logprob=-1),
                queue_seconds=0,
                prefill_seconds=0,
                decode_seconds=0,
            )
        finally:
            self.running -= 1
            self.ended.append(seed)
            for pin in request.pins:
                pin.release()


def requests(count: int, *, released: list[int] | None = None) -> list[GenerateInput]:
    return [
        GenerateInput(
            streams=(StreamInput(prompt="How long?", pin=None if released is None else pin(seed, released)),),
            tenant="halden",
            sampling=Sampling(temperature=1.0, seed=seed),
        )
        for seed in range(count)
    ]


def pin(number: int, released: list[int]) -> Pin:
    adapter = Adapter.__new__(Adapter)
    return Pin(adapter, lambda: released.append(number))


class TestSampling:
    async def test_answers_come_in_the_order_of_their_requests_with_all_that_they_cost(self) -> None:
        backend = Replies(lambda seed: ["25 days", "30 days", "The 25 days.", ""][seed])
        drawn = await sample(backend, requests(4))
        assert [(answer.text, answer.cluster) for answer in drawn.answers] == [
            ("25 days", 0), ("30 days", 1), ("The 25 days.", 0), ("", 2),
        ]  # fmt: skip
        assert [answer.mean_logprob for answer in drawn.answers] == pytest.approx([0, -0.1, -0.2, -0.3])
        assert [answer.reason for answer in drawn.answers].count(FinishReason.LENGTH) == 1
        assert drawn.num_clusters == 3
        assert drawn.semantic_entropy == pytest.approx(semantic_entropy([0, 1, 0, 2]))
        assert drawn.usage == Usage(input_tokens=12, output_tokens=8, cached_tokens=4, computed_tokens=22)
        assert drawn.lineage.model_sha256 == "ff"

    async def test_they_run_side_by_side(self) -> None:
        backend = Replies(lambda seed: "Paris")
        await sample(backend, requests(8))
        assert backend.most_running == 8
        assert backend.running == 0

    async def test_a_failure_ends_the_others_and_is_raised_as_it_is(self) -> None:
        released: list[int] = []
        backend = Replies(lambda seed: DeadlineExceeded("too late") if seed == 2 else None)
        with pytest.raises(DeadlineExceeded, match="too late"):
            await sample(backend, requests(5, released=released))
        assert (backend.running, sorted(backend.ended), sorted(released)) == (0, list(range(5)), list(range(5)))

    async def test_a_caller_that_leaves_ends_all(self) -> None:
        released: list[int] = []
        backend = Replies(lambda seed: None)
        task = asyncio.create_task(sample(backend, requests(5, released=released)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert backend.running == 5
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (backend.running, sorted(released)) == (0, list(range(5)))

    async def test_a_request_that_is_refused_at_once_leaves_no_pin_behind(self) -> None:
        released: list[int] = []
        backend = Replies(lambda seed: "Paris", refuse=2)
        wanted = requests(5, released=released)
        before = [one for one in wanted[:2] for one in one.pins]
        with pytest.raises(Overloaded):
            await sample(backend, wanted)
        for one in before:
            one.release()  # what this backend never began to run: the engine's own generators do so when closed
        assert sorted(released) == list(range(5))

    async def test_a_sequence_without_an_end_is_an_error(self) -> None:
        class Cut(Replies):
            async def _events(self, request: GenerateInput) -> AsyncGenerator[Event, None]:
                yield Started(Lineage(model="toy", model_sha256=""), 1)

        with pytest.raises(Exception, match="without an end"):
            await sample(Cut(lambda seed: ""), requests(2))

    async def test_nothing_is_left_to_the_garbage_collector(self) -> None:
        unclosed: list[object] = []
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=unclosed.append)
        try:
            backend = Replies(lambda seed: Overloaded("full", retry_after_s=1) if seed else None)
            with pytest.raises(Overloaded):
                await sample(backend, requests(4))
            await sample(Replies(lambda seed: "Paris"), requests(4))
        finally:
            sys.set_asyncgen_hooks(*before)
        assert unclosed == []
