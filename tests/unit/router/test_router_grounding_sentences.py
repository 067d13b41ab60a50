"""Every sentence gets its groundedness and the part of a document that supports it, whatever peers do."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain import Passage
from services.router.domain.domains import Depth
from services.router.domain.grounding import Groundedness, GroundingStatus, Signal
from services.router.grounding import SentenceGrounding, reading
from services.router.grounding.asking import MAX_PAIRS, MAX_TEXTS
from services.router.grounding.case import MAX_SENTENCES, case_of
from tandem.errors import FailedPrecondition, Unavailable
from tests.fakes.router import passage
from tests.fakes.router_grounding import WordClassifier, WordEmbedder, WordScorer

TERMS = passage(
    "A single journey is insured for its first 45 days. Business trips are not insured.\n\n"
    "| Service | What we pay |\n| --- | --- |\n| Search and rescue | up to EUR 12,500 |\n| Dental work | EUR 800 |",
    document_id="travel",
)
CLUB = passage("Maria Lindqvist founded the riding club in Oslo in 1998.", document_id="club", start=7)
ASKED = "What is covered?"


def judge(**peers: Any) -> SentenceGrounding:
    fakes = {"embedder": WordEmbedder(), "scorer": WordScorer(), "classifier": WordClassifier()}
    return SentenceGrounding(**(fakes | peers))


async def ground(
    answer: str, *passages: Passage, question: str = ASKED, depth: Depth = Depth.WORDS, **peers: Any
) -> Groundedness:
    return await judge(**peers).ground(question, answer, passages or (TERMS, CLUB), depth=depth, timeout_s=5)


async def value(answer: str, depth: Depth = Depth.WORDS) -> float:
    found = (await ground(answer, depth=depth)).value
    assert found is not None
    return found


@pytest.mark.parametrize("depth", [Depth.WORDS, Depth.VECTORS, Depth.LIKELIHOOD])
@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("A single journey is insured for 45 days.", "A single journey is insured for 54 days."),
        ("A single journey is insured for 45 days.", "A single journey is insured for 45 months."),
        ("Business trips are not insured.", "Business trips are insured."),
        ("Search and rescue is paid up to EUR 12,500.", "Search and rescue is paid up to EUR 800,000."),
        ("Maria Lindqvist founded the riding club.", "Pedro Almodovar founded the riding club."),
        ("The riding club was founded in Oslo.", "The riding club was founded in Bergen by Pedro."),
    ],
)  # fmt: skip
async def test_what_the_passages_say_is_better_grounded_than_what_they_do_not(true: str, false: str, depth: Depth):
    assert await value(true, depth) > await value(false, depth)


async def test_a_false_figure_is_never_grounded_however_much_else_agrees():
    found = await ground("A single journey is insured for its first 46 days.")
    assert found.value is not None
    assert found.value <= 0.4
    assert found.sentences[0].support is None


async def test_a_sentence_of_a_passage_is_supported_by_it_in_the_document_s_offsets():
    (sentence,) = (await ground("Maria Lindqvist founded the riding club in Oslo in 1998.")).sentences
    assert sentence.groundedness > 0.5
    assert sentence.support is not None
    assert (sentence.support.document_id, sentence.support.quote) == ("club", CLUB.text)
    assert (sentence.support.document_span.start, sentence.support.document_span.end) == (7, 7 + len(CLUB.text))


async def test_a_row_of_a_table_supports_a_sentence():
    (sentence,) = (await ground("Search and rescue is up to EUR 12,500.")).sentences
    assert sentence.support is not None
    assert sentence.support.quote == "| Search and rescue | up to EUR 12,500 |"


async def test_the_answer_is_the_product_of_its_sentences_and_chatter_does_not_count():
    found = await ground("It is so. Maria Lindqvist founded the riding club. It may rain in Bergen.")
    chatter, first, second = found.sentences
    assert found.value == pytest.approx(first.groundedness * second.groundedness)
    assert chatter.answer_span.end < first.answer_span.start
    assert first.groundedness > second.groundedness


@pytest.mark.parametrize("answer", ["", "  ", "?!"])
async def test_an_answer_without_words_has_a_status_and_no_figure(answer: str):
    found = await ground(answer)
    assert (found.status, found.value, found.sentences) == (GroundingStatus.NOTHING_SAID, None, ())


async def test_without_passages_there_is_a_status_and_no_figure():
    found = await judge().ground(ASKED, "45 days", (), depth=Depth.LIKELIHOOD, timeout_s=5)
    assert (found.status, found.value) == (GroundingStatus.NO_PASSAGES, None)


async def test_a_depth_asks_the_peers_that_it_names_and_the_result_says_which():
    for depth, used in (
        (Depth.WORDS, (Signal.LEXICAL,)),
        (Depth.VECTORS, (Signal.LEXICAL, Signal.EMBEDDING)),
        (Depth.LIKELIHOOD, (Signal.LEXICAL, Signal.EMBEDDING, Signal.LIKELIHOOD)),
        (Depth.ENTAILMENT, (Signal.ENTAILMENT,)),
    ):
        peers = {"embedder": WordEmbedder(), "scorer": WordScorer(), "classifier": WordClassifier()}
        found = await ground("45 days", depth=depth, **peers)
        assert (found.rests_on, found.status) == (used, GroundingStatus.MEASURED)
        asked = sum(len(peer.calls) for peer in peers.values())
        assert asked == found.num_calls <= judge().calls(depth)


@pytest.mark.parametrize(
    ("peers", "depth", "reason"),
    [
        ({"scorer": WordScorer(failure=Unavailable("down"))}, Depth.LIKELIHOOD, "UNAVAILABLE UNAVAILABLE"),
        ({"scorer": WordScorer(unseen=0.5, failure=TimeoutError())}, Depth.LIKELIHOOD, "no answer within"),
        ({"embedder": WordEmbedder(value=math.nan)}, Depth.VECTORS, "a figure is no number"),
        ({"embedder": WordEmbedder(value=math.inf)}, Depth.VECTORS, "a figure is no number"),
        ({"classifier": WordClassifier(failure=FailedPrecondition("none"))}, Depth.ENTAILMENT, "FAILED_PRECONDITION"),
        ({"classifier": WordClassifier(labels=("a", "b", "c"))}, Depth.ENTAILMENT, "no label of support"),
        ({"classifier": WordClassifier(labels=("Entailment",))}, Depth.ENTAILMENT, "no probabilities"),
        ({"classifier": WordClassifier(value=math.nan)}, Depth.ENTAILMENT, "no probabilities"),
    ],
)
async def test_a_peer_that_fails_is_named_and_the_combination_without_it_is_used(
    peers: dict[str, Any], depth: Depth, reason: str
):
    answer = "Business trips are not insured."
    found = await ground(answer, depth=depth, **peers)
    less = {Depth.VECTORS: Depth.WORDS, Depth.LIKELIHOOD: Depth.VECTORS, Depth.ENTAILMENT: Depth.LIKELIHOOD}[depth]
    assert found.status is GroundingStatus.PARTIAL
    assert reason in found.absent[0].reason
    assert found.rests_on == (await ground(answer, depth=less)).rests_on
    assert found.value == await value(answer, less)
    assert found.num_calls == judge().calls(depth)


async def test_all_peers_down_leaves_the_words():
    down = Unavailable("down")
    peers = {"embedder": WordEmbedder(failure=down), "scorer": WordScorer(failure=down)}
    found = await ground("45 days", depth=Depth.ENTAILMENT, classifier=WordClassifier(failure=down), **peers)
    assert [one.signal for one in found.absent] == [Signal.ENTAILMENT, Signal.EMBEDDING, Signal.LIKELIHOOD]
    assert found.value == await value("45 days")


async def test_a_peer_that_is_late_is_left_out_and_the_time_is_kept():
    slow = judge(scorer=WordScorer(delay_s=30))
    found = await slow.ground(ASKED, "45 days", (TERMS,), depth=Depth.LIKELIHOOD, timeout_s=0.01)
    assert [absent.signal for absent in found.absent] == [Signal.LIKELIHOOD]


async def test_a_classifier_of_entailment_takes_the_place_of_the_combination():
    scorer = WordScorer()
    found = await ground("Business trips are not insured. Cats are.", depth=Depth.ENTAILMENT, scorer=scorer)
    assert [one.groundedness for one in found.sentences] == [0.98, 0.02]
    assert found.sentences[0].support is not None
    assert found.sentences[0].support.quote == "Business trips are not insured."
    assert (found.rests_on, found.version, scorer.calls) == ((Signal.ENTAILMENT,), "c" * 64, [])


async def test_one_call_of_bounded_size_goes_to_each_peer():
    long = passage("Rule number five is here. " * 400, document_id="long")
    answer = " ".join(f"Rule {n} concerns horses and carts." for n in range(100))
    embedder, scorer, classifier = WordEmbedder(), WordScorer(), WordClassifier()
    found = await ground(answer, long, depth=Depth.LIKELIHOOD, embedder=embedder, scorer=scorer)
    assert [len(texts) for texts in embedder.calls] <= [MAX_TEXTS]
    assert [len(items) for items in scorer.calls] == [2]
    assert len(found.sentences) == MAX_SENTENCES
    assert found.sentences[-1].answer_span.end == len(answer)
    await ground(answer, long, depth=Depth.ENTAILMENT, classifier=classifier)
    assert [len(pairs) for pairs in classifier.calls] <= [MAX_PAIRS]


async def test_the_likelihood_is_asked_for_with_and_without_the_passages():
    scorer = WordScorer()
    await ground("45 days", TERMS, depth=Depth.LIKELIHOOD, scorer=scorer)
    told, guessed = scorer.calls[0]
    assert told.text == guessed.text == "45 days"
    assert "Search and rescue" in told.messages[-1].content
    assert "Search and rescue" not in guessed.messages[-1].content


pieces = st.sampled_from(
    [
        "the",
        "limit",
        "is",
        "EUR",
        "500",
        "5,000",
        "not",
        "Maria",
        "two",
        "days",
        ".",
        "|",
        "\n",
        "?",
        "«",
        "🐎",
        "ﬁ",
        "Ü",
    ]
)
texts = st.lists(pieces, max_size=30).map(" ".join) | st.text(max_size=60)


@given(answer=texts, asked=texts, bodies=st.lists(texts, min_size=1, max_size=3), start=st.integers(0, 99))
async def test_figures_are_finite_spans_are_found_again_and_nothing_depends_on_chance(
    answer: str, asked: str, bodies: list[str], start: int
):
    passages = [passage(body, number=n, start=start) for n, body in enumerate(bodies)]
    by_chunk = {one.chunk_id: one for one in passages}
    found = await ground(answer, *passages, question=asked, depth=Depth.LIKELIHOOD)
    assert found == await ground(answer, *passages, question=asked, depth=Depth.LIKELIHOOD)
    assert (found.value is None) == (found.status in (GroundingStatus.NOTHING_SAID, GroundingStatus.NO_PASSAGES))
    assert found.value is None or 0 <= found.value <= 1
    for sentence in found.sentences:
        assert 0 <= sentence.groundedness <= 1
        assert all(map(math.isfinite, sentence.signals.values()))
        assert 0 <= sentence.answer_span.start < sentence.answer_span.end <= len(answer)
        if sentence.support is not None:
            source = by_chunk[sentence.support.chunk_id]
            at = sentence.support.document_span.start - source.span.start
            assert source.text[at : at + len(sentence.support.quote)] == sentence.support.quote
            assert sentence.support.document_span.end <= source.span.end


def readings(answer: str, text: str, question: str = ASKED) -> dict[str, float]:
    (found,) = reading.lexical(case_of(question, answer, [passage(text)]))
    return found


def test_figures_are_new_or_of_something_else_but_not_those_of_the_question():
    text = "Hotels are paid up to EUR 60. The excess is 20 % of every claim."
    assert readings("Up to EUR 75 are paid for hotels.", text)["new_figures"] > 0
    assert readings("Up to EUR 75 are paid for hotels.", text, "Are EUR 75 paid?")["new_figures"] == 0
    assert readings("Hotels are paid up to 60 %.", text)["moved_figures"] > 0
    assert readings("EUR 60", text, "What is the premium for dogs?")["moved_figures"] > 0
    assert readings("EUR 60", text, "What is paid for hotels?")["moved_figures"] == 0


def test_a_negation_counts_where_all_that_is_near_differs_in_it():
    denied, said = "Rented bicycles are not insured abroad.", "Rented bicycles are insured abroad by us."
    assert readings("Rented bicycles are insured abroad.", denied)["negation"] == 1
    assert readings("Rented bicycles are insured abroad.", said)["negation"] == 0
    far = "Bicycles that are rented may not travel by rail abroad."
    assert readings("Rented bicycles of all sorts are insured abroad.", f"{far} {said}")["negation"] == 0
    assert readings("Rented bicycles of all sorts are insured abroad.", f"{denied} Rented cars are.")["negation"] == 1
    farther = "Rented bicycles are insured abroad. They are not insured abroad for 9 days as rented bicycles."
    assert readings("Rented bicycles are insured abroad for 9 days.", farther)["negation"] == 1
