"""Citations rest on what was retrieved, word for word and figure for figure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain import Citation, Passage, Span
from services.router.grounding.case import case_of
from services.router.grounding.lexical import MAX_EXTRACT, extract
from services.router.grounding.windows import citation_of
from tests.fakes.router import passage

TRAVEL = passage(
    "A single journey is insured for its first **45 days**. "
    "A stay counts as a journey only at least 30 km from home.\n\n"
    "## 2 Cancellation\n\nThe limit is EUR 6,000 for each person. "
    "Your share of each claim is 20%, though at least EUR 25.\n\n"
    "| Service | What we pay |\n| --- | --- |\n| Emergency dental treatment | up to EUR 800 |\n"
    "| Search and rescue | up to EUR 12,500 |\n\nBusiness trips are not insured.",
    document_id="travel",
)
PET = passage(
    "The waiting period is 30 days for illness and nine months for hip dysplasia.", document_id="pet", start=7
)

ASKED = "How long is a journey, what share of a claim is mine, what of rescue, trips and hip dysplasia?"


def cite(answer: str, question: str = ASKED, *passages: Passage) -> tuple[Citation, ...]:
    case = case_of(question, answer, passages or (TRAVEL, PET))
    tied = [(claim, case.windows[at]) for claim, at in zip(case.claims, case.tied, strict=True) if at is not None]
    return tuple(citation_of(Span(claim.start, claim.end), window.passage, window.span) for claim, window in tied)


@pytest.mark.parametrize(
    ("answer", "quote"),
    [
        ("45 days", "A single journey is insured for its first **45 days**."),
        ("EUR 12,500", "| Search and rescue | up to EUR 12,500 |"),
        ("€12500", "| Search and rescue | up to EUR 12,500 |"),
        ("20 %", "Your share of each claim is 20%, though at least EUR 25."),
        ("9 months", PET.text),
        ("A single journey is insured for 45 days.", "A single journey is insured for its first **45 days**."),
        ("The limit for cancellation is EUR 6,000 for each person.", "The limit is EUR 6,000 for each person."),
        ("Emergency dental treatment is paid up to EUR 800.", "| Emergency dental treatment | up to EUR 800 |"),
        ("Business trips are not insured.", "Business trips are not insured."),
    ],
)
def test_a_supported_answer_is_cited(answer: str, quote: str):
    (citation,) = cite(answer)
    assert citation.quote == quote


@pytest.mark.parametrize(
    "answer",
    [
        "46 days",
        "EUR 12,50",
        "EUR 12.500",
        "45 months",
        "A single journey is insured for 54 days.",
        "The limit is EUR 60,000 for each person.",
        "Business trips are insured.",
        "A journey is not insured for its first 45 days.",
        "The moon is made of green cheese.",
        "Yes.",
        "the",
        "",
        "?!",
    ],
)
def test_an_unsupported_answer_is_not_cited(answer: str):
    assert cite(answer) == ()


def test_a_short_answer_is_tied_to_the_sentence_that_speaks_of_the_question():
    one = passage("Report a theft within 14 days. Send invoices within 14 days.", document_id="a")
    (citation,) = cite("14 days", "How long do I have to send invoices?", one)
    assert citation.quote == "Send invoices within 14 days."


def test_each_sentence_is_tied_to_its_own_passage():
    answer = "A single journey is insured for 45 days. The waiting period for illness is 30 days. It may rain tomorrow."
    first, second = cite(answer)
    assert (first.document_id, second.document_id) == ("travel", "pet")
    assert answer[first.answer_span.start : first.answer_span.end] == "A single journey is insured for 45 days."
    assert answer[second.answer_span.start : second.answer_span.end] == "The waiting period for illness is 30 days."


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            "The excess for each claim is EUR 60.",
            "The excess for each claim is EUR 30. Batteries count below 60% of capacity.",
        ),
        (
            "Dogs and cats can be insured from the age of 1 week.",
            "Dogs and cats can be insured from the age of 8 weeks.",
        ),
        (
            "Flat roofs are inspected every 6 years.",
            "Flat roofs are inspected every 3 years, within 6 weeks of a storm.",
        ),
    ],
)
def test_a_figure_counts_with_its_unit(answer: str, text: str):
    one = Passage(
        document_id="x", chunk_id="x-0", title="X", text=text, span=Span(0, len(text)), headings=("1 Ages", "6 Roofs")
    )
    assert cite(answer, "?", one) == ()


def test_the_title_and_the_head_of_a_table_need_not_be_repeated():
    text = "| Work | EUR per hour |\n| --- | --- |\n| Paint | 112 |\n| Body | 106 |"
    one = Passage(document_id="x", chunk_id="x-0", title="Rates 2026/03", text=text, span=Span(0, len(text)))
    (citation,) = cite("Under Rates 2026/03 paint work costs EUR 112 per hour, as paint.", "?", one)
    assert citation.quote == "| Paint | 112 |"


def test_a_year_needs_no_unit_but_a_sum_does():
    text = "In April 1994 the riding club of Oslo moved to Bergen; it cost EUR 1900."
    assert cite("The riding club moved to Bergen in 1994, in spring.", "?", passage(text))
    assert not cite("The riding club moved 1900 km to Bergen.", "?", passage(text))


@pytest.mark.parametrize(
    "text",
    [
        "If you cannot ride on, the cycle is collected at home.",
        "The cycle is collected at home without giving a reason.",
        "The no-claims cycle is collected at home.",
        "The cycle is collected at home, no more than 9 times.",
    ],
)
def test_a_no_beside_the_statement_does_not_deny_it(text: str):
    assert cite("The whole cycle is collected at home by our van.", "?", passage(text))
    assert not cite("The whole cycle is not collected at home by our van.", "?", passage(text))


def test_a_short_answer_about_something_else_is_not_cited():
    assert cite("2%", "How far does the sales team want to grow?", passage("| Garage | minus 2% |")) == ()


def test_an_answer_may_draw_on_two_neighbouring_sentences():
    text = "Motor covers collision with wild animals. The excess is EUR 300. Nothing else follows here."
    (citation,) = cite("Collision with wild animals has an excess of EUR 300.", "?", passage(text))
    assert citation.quote == "Motor covers collision with wild animals. The excess is EUR 300."


def test_figures_are_not_ends_of_sentences():
    (citation,) = cite("EUR 1,500.50", "?", passage("Clothing is paid up to EUR 1,500.50 per event. Helmets not."))
    assert citation.quote == "Clothing is paid up to EUR 1,500.50 per event."


def test_a_passage_whose_offsets_do_not_fit_its_text_is_not_cited():
    broken = Passage(document_id="x", chunk_id="x-0", title="X", text=PET.text + "!", span=PET.span)
    assert cite("30 days", "?", broken) == ()


def test_offsets_count_code_points():
    document = "Überschrift 🐎\n\nDer Tarif 🐎 zahlt EUR 300. Ende."
    start = document.index("Der")
    one = passage(document[start:], start=start)
    (citation,) = cite("EUR 300", "?", one)
    assert document[citation.document_span.start : citation.document_span.end] == citation.quote


def test_a_long_passage_is_quoted_around_what_was_asked():
    one = passage("Nothing of note. " * 60 + "The excess for hail is EUR 150. " + "More of the same. " * 60)
    text, citation = extract("What is the excess for hail?", one)
    assert text.startswith("The excess for hail is EUR 150.")
    assert len(text) <= MAX_EXTRACT
    assert citation.quote == text


def test_a_long_passage_without_sentences_is_cut():
    text, _ = extract("What?", passage("word " * 500))
    assert 0 < len(text) <= MAX_EXTRACT


words = st.sampled_from(
    [
        "the",
        "limit",
        "is",
        "EUR",
        "500",
        "5,000",
        "not",
        "for",
        "each",
        "person",
        "excess",
        "two",
        "days",
        ".",
        "|",
        "\n",
        "?",
        "20%",
        "«",
        "🐎",
        "ﬁ",
    ]
)
texts = st.lists(words, max_size=40).map(" ".join) | st.text(max_size=80)


@given(
    answer=texts,
    asked=texts,
    bodies=st.lists(texts.filter(str.strip), min_size=1, max_size=4),
    start=st.integers(0, 99),
)
def test_every_citation_is_found_again(answer: str, asked: str, bodies: list[str], start: int):
    passages = [passage(body, number=n, start=start) for n, body in enumerate(bodies)]
    by_chunk = {one.chunk_id: one for one in passages}
    made = cite(answer, asked, *passages)
    text, citation = extract(asked, passages[0])
    assert text == citation.quote
    for found in (*made, citation):
        source = by_chunk[found.chunk_id]
        at = found.document_span.start - source.span.start
        assert at >= 0
        assert source.text[at : at + len(found.quote)] == found.quote
        assert found.document_span.end <= source.span.end
    for found in made:
        assert 0 <= found.answer_span.start < found.answer_span.end <= len(answer)


def test_the_numbers_of_a_list_are_not_cited():
    section = passage("1 Scope\n\nThe cover is for cars.\n\n2 Excesses\n\nThe excess is EUR 80.")
    cited = cite("1. The excess is EUR 90.\n2. The excess is EUR 70.", "What is the excess?", section)
    assert cited == ()
