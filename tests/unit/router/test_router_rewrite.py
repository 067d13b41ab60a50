"""Follow-up questions become self-contained; the others stay as they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain import Turn
from services.router.engine import rewrite
from tests.fakes.router import history

EXCESS = "What is the collision excess of Halden Motor?"
WAITING = "What is the waiting period for illness in Halden Pet?"
CASH = "How much cash outside a safe is covered by Halden Home?"
DENTAL = "What is the annual limit of the Basic plan in Halden Dental?"
REPORT = "By when must I report an accident to Halden Motor?"

REPLACED = [
    # A phrase takes the place of its counterpart.
    (WAITING, "And for a hip operation?", "What is the waiting period for a hip operation in Halden Pet?"),
    (WAITING, "What about a hip operation?", "What is the waiting period for a hip operation in Halden Pet?"),
    (WAITING, "how about a hip operation", "What is the waiting period for a hip operation in Halden Pet?"),
    (DENTAL, "And in the Comfort plan?", "What is the annual limit of the Comfort plan in Halden Dental?"),
    (DENTAL, "And the Premium plan?", "What is the annual limit of the Premium plan in Halden Dental?"),
    (DENTAL, "The Premium plan?", "What is the annual limit of the Premium plan in Halden Dental?"),
    (
        "What is the excess if my window is replaced?",
        "And if it is only repaired?",
        "What is the excess if it is only repaired?",
    ),
    # The name inside what is replaced is kept.
    (
        "What is the excess if my windscreen is replaced under Halden Motor?",
        "And if it is only repaired?",
        "What is the excess if it is only repaired (Halden Motor)?",
    ),
    # Another product takes the place of the named one.
    (REPORT, "And for my pet insurance?", "By when must I report an accident, for my pet insurance?"),
    (EXCESS, "And for Halden Two-Wheel?", "What is the collision excess of Halden Two-Wheel?"),
    ("What is paid per day for a compact car?", "And for a large one?", "What is paid per day for a large car?"),
    ("When does cover for illness start?", "And for a hip operation?", "When does cover for a hip operation start?"),
    # A name does not take the place of what is none.
    ("What does cover in class 4 cost?", "And in Port Selwick?", "What does cover in class 4 cost, in Port Selwick?"),
    # What has no counterpart is added.
    (EXCESS, "And for motorcycles?", "What is the collision excess of Halden Motor, for motorcycles?"),
    (EXCESS, "For motorcycles?", "What is the collision excess of Halden Motor, for motorcycles?"),
    (EXCESS, "Motorcycles?", "What is the collision excess of Halden Motor, for motorcycles?"),
    (EXCESS, "What about motorcycles?", "What is the collision excess of Halden Motor, for motorcycles?"),
    (EXCESS, "And what about motorcycles?", "What is the collision excess of Halden Motor, for motorcycles?"),
    (EXCESS, "And if the car is stolen?", "What is the collision excess of Halden Motor, if the car is stolen?"),
    (EXCESS, "What if the car is stolen?", "What is the collision excess of Halden Motor, if the car is stolen?"),
    (EXCESS, "but during the night?", "What is the collision excess of Halden Motor, during the night?"),
    (CASH, "And for jewellery?", "How much cash outside a safe is covered by Halden Home, for jewellery?"),
    ("What is the notice period of Halden Shop?", "And its excess?", "What is the excess of Halden Shop?"),
]
AFTER = [
    (DENTAL, "And what share of each bill does it pay?"),
    (EXCESS, "How much comes on top if the driver was 20 years old?"),
    (REPORT, "Is it the same for a motorcycle, or how many days are there?"),
    ("How long must I keep a wallet that I found?", "By when must it be opened?"),
    ("What waiting period has Halden Shop?", "And how long is the indemnity period?"),
    ("When is the first reminder sent?", "And the second one?"),
    ("When is the first reminder sent?", "How long then?"),
    ("What does a failure of the grid cost us?", "How long must the failure last?"),
    (EXCESS, "Why?"),
    (EXCESS, "How much?"),
    (EXCESS, "And?"),
    (EXCESS, "Does that apply abroad?"),
    ("When must a claim be paid?", "And if there is a storm, by how much is it extended?"),
    (EXCESS, "Who decides this?"),
    (CASH, "Is there anything else?"),
]
ALONE = [
    (EXCESS, "How do I reset my password?"),
    (EXCESS, "My car was stolen. When must I report it?"),
    (EXCESS, "What is the limit for jewellery under Halden Home?"),
    (EXCESS, "Which documents must an employee hand in before a business trip is refunded?"),
    (EXCESS, "Is it possible to work abroad for more than two weeks a year?"),
    (CASH, "How many days of annual leave do new employees have?"),
    (CASH, "Does the travel policy of Halden Travel insure my luggage if the airline loses it?"),
    (CASH, "annual leave carry over"),
    (CASH, "Is it cheaper to lease or to buy a car?"),
    (CASH, "What does it cost now when a network workshop collects and returns a car?"),
    (CASH, "By law, how many working days does an insurer have to confirm that a claim was received?"),
    (CASH, "Up to when does mould count as part of the same tap water claim?"),
    (CASH, ""),
]


@pytest.mark.parametrize(("before", "asked", "expected"), REPLACED)
def test_a_replacement_takes_its_place(before: str, asked: str, expected: str):
    assert rewrite(asked, history(before)) == expected


@pytest.mark.parametrize(("before", "asked"), AFTER)
def test_a_question_with_a_gap_follows_the_earlier_one(before: str, asked: str):
    made = rewrite(asked, history(before))
    assert before in made
    assert made.rstrip("?").endswith(asked.removeprefix("And ").rstrip("?"))


@pytest.mark.parametrize(("before", "asked"), ALONE)
def test_a_question_of_its_own_stays_as_it_is(before: str, asked: str):
    assert rewrite(asked, history(before)) == asked


def test_without_a_conversation_nothing_changes():
    assert rewrite("And for motorcycles?", ()) == "And for motorcycles?"


def test_a_complete_question_loses_only_its_and():
    assert rewrite("And what is the excess of Halden Home?", history(CASH)) == "What is the excess of Halden Home?"


def test_a_follow_up_leans_on_the_self_contained_form_of_the_one_before():
    made = rewrite("And at night?", history(EXCESS, "And for motorcycles?"))
    assert made == "What is the collision excess of Halden Motor, for motorcycles, at night?"


def test_the_latest_topic_counts():
    turns = history(CASH, "How do I reset my password?", WAITING)
    assert "Halden Pet" in rewrite("And for a hip operation?", turns)
    assert "Halden Home" not in rewrite("And for a hip operation?", turns)


def test_answers_are_not_read():
    one = rewrite("And for cats?", [Turn(WAITING, "30 days")])
    assert one == rewrite("And for cats?", [Turn(WAITING, "Ignore this and that.")])


@given(st.lists(st.text(max_size=60), max_size=6), st.text(max_size=80))
def test_any_text_gives_the_same_bounded_text_again(turns: list[str], asked: str):
    made = rewrite(asked, history(*turns))
    assert made == rewrite(asked, history(*turns))
    assert len(made) <= 4096


@given(
    st.lists(
        st.sampled_from(
            [
                "and",
                "for",
                "what",
                "it",
                "the",
                "Halden",
                "Motor",
                "plan",
                "if",
                ",",
                ".",
                "?",
                "|",
                "is",
                "under",
                "12",
            ]
        ),
        max_size=24,
    )
)
def test_any_mixture_of_telling_words_gives_a_text(words: list[str]):
    assert rewrite(" ".join(words), history(EXCESS, " ".join(reversed(words)))) is not None


@pytest.mark.parametrize("filler", ["for ", "and ", "the plan ", " ", "a,", "if ", '"', 'About "', "Aa "])
def test_long_hostile_questions_end(filler: str):
    long = (filler * 4096)[:4096]
    for asked in (long, f"And for {long}", f"And {long}?", "And for cats?"):
        assert len(rewrite(asked, history(long, f"What about {long}?"))) <= 4097
