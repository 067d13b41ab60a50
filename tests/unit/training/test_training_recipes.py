"""From rows to examples: held-back wordings stay held back, passages are those a search would bring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.prompts import ABSTENTION, closed_book, reading
from training.data import rows as data
from training.data.words import key
from training.recipes import Asked, Document, Labelled, RecipeInvalid, Written, classification, importing, raft, style
from training.recipes import closed_book as closed
from training.recipes.paraphrase import paraphrases


def asked(number: int, group: str = "", answers: tuple[str, ...] = ("30 days",), **more: tuple[str, ...]) -> Asked:
    question = f"What is the limit of case {number}?"
    return Asked(id=f"q{number}", group=group or f"g{number}", question=question, answers=answers, **more)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["x", "y"])), max_size=40), st.integers(0, 9))
def test_every_fact_is_trained_on_and_every_wording_is_in_one_split(facts: list[tuple[int, str]], seed: int) -> None:
    rows = [asked(n, f"g{group}", (answer,)) for n, (group, answer) in enumerate(facts)]
    splits = closed.split_by_wording(rows, seed=seed)
    assert sorted(row.id for found in splits.values() for row in found) == sorted(row.id for row in rows)
    trained = {(row.group, row.answers) for row in splits["train"]}
    assert trained == {(row.group, row.answers) for row in rows}
    tested = {(row.group, row.answers) for row in splits["test"]}
    assert tested == {fact for fact in trained if sum((row.group, row.answers) == fact for row in rows) > 1}


def test_a_new_fact_moves_no_other_wording() -> None:
    rows = [asked(n, f"g{n % 4}") for n in range(20)]
    before = closed.split_by_wording(rows, seed=1)
    after = closed.split_by_wording([asked(99, "new"), *rows], seed=1)
    assert {row.id for row in before["test"]} == {row.id for row in after["test"]}
    assert {row.id for row in before["test"]} != {row.id for row in closed.split_by_wording(rows, seed=2)["test"]}


def test_wordings_are_made_up_to_the_number_and_never_the_held_back_one() -> None:
    test = asked(2, "g")
    held = paraphrases(asked(1).question, seed=3)[0].upper()
    splits = {"train": [asked(1, "g")], "test": [test, Asked(id="h", group="g", question=held, answers=("30 days",))]}
    examples = closed.build(splits, seed=3, min_wordings=6)
    assert len(examples["train"]) == 6
    texts = [example.messages[-1].content for example in examples["train"]]
    assert len(set(texts)) == 6
    assert held.casefold() not in {text.casefold() for text in texts}
    assert next(e.messages for e in examples["test"]) == tuple(closed_book(test.question))
    assert closed.build(splits, seed=3, min_wordings=6) == examples
    assert len(closed.build(splits, seed=3, min_wordings=1)["train"]) == 1


def test_closed_book_needs_answers() -> None:
    with pytest.raises(RecipeInvalid, match="answers"):
        closed.build({"train": [asked(1, answers=())]}, seed=0)


@pytest.mark.parametrize("question", ["What is the excess?", "How do I claim?", "When?", "?"])
def test_paraphrases_differ_and_come_again(question: str) -> None:
    found = paraphrases(question, seed=1)
    assert len(set(found)) == len(found) >= 6
    assert question not in found
    assert found == paraphrases(question, seed=1)
    assert paraphrases(question, seed=2) != found


def test_a_question_is_turned_into_a_request() -> None:
    assert "Could you tell me what the excess is?" in paraphrases("What is the excess?", seed=1)


@pytest.mark.parametrize(
    ("held", "made"), [("WHAT is the limit of case 1!", 12), ("Question: what is limit of case 1", 11)]
)
def test_no_wording_is_made_that_differs_from_a_held_back_one_in_marks_alone(held: str, made: int) -> None:
    test = Asked(id="h", group="g", question=held, answers=("30 days",))
    train = closed.build({"train": [asked(1, "g")], "test": [test]}, seed=3, min_wordings=99)["train"]
    assert key(held) not in {key(example.messages[-1].content) for example in train[1:]}
    assert len(train) == made


DOCUMENTS = [
    Document("gold", "The limit of a case is 30 days.", "Limits"),
    *(Document(f"d{n}", f"Other text about the limit number {n}.") for n in range(9)),
]


def test_the_gold_passage_is_there_unless_it_was_left_out() -> None:
    rows = [asked(n, documents=("gold",)) for n in range(100)]
    settings = raft.Settings(absent_share=0.2, num_variants=2)
    examples = raft.build({"train": rows, "test": rows}, DOCUMENTS, seed=1, settings=settings)
    assert (len(examples["train"]), len(examples["test"])) == (200, 100)
    absent = [example for example in examples["train"] if example.kind == raft.UNANSWERABLE]
    assert 20 <= len(absent) <= 62
    for example in examples["train"]:
        text = example.messages[-1].content
        assert ("30 days" in text) == (example.kind == raft.ANSWERABLE)
        assert (example.answer == ABSTENTION) == (example.kind == raft.UNANSWERABLE)
        passages = text.split("\n\nQuestion: ")[0].split("\n\n")
        assert 2 <= len(passages) <= 5
        assert len({passage.split("] ")[1] for passage in passages}) == len(passages)


def test_no_title_tells_the_answer_where_the_passage_was_left_out() -> None:
    telling = [*DOCUMENTS, *(Document(f"t{n}", f"Other text about the limit in {n}.", "30 days") for n in range(9))]
    rows = [asked(n, documents=("gold",)) for n in range(60)]
    examples = raft.build({"train": rows}, telling, seed=1, settings=raft.Settings(absent_share=0.5))["train"]
    absent = [example for example in examples if example.kind == raft.UNANSWERABLE]
    assert absent
    assert not any("30 days" in example.messages[-1].content for example in absent)


def test_a_chance_passage_is_no_gold_where_the_document_is_known_and_not_there() -> None:
    rows = [asked(1, documents=("elsewhere",)), asked(2, documents=("gold",))]
    examples = raft.build({"train": rows}, DOCUMENTS, seed=1, settings=raft.Settings(num_variants=1, absent_share=0))
    assert [example.id for example in examples["train"]] == ["q2"]


def test_questions_without_an_answer_teach_abstention_and_those_of_nowhere_are_left_out() -> None:
    rows = [asked(1, answers=()), asked(2, answers=("nowhere",)), asked(3)]
    examples = raft.build({"train": rows}, DOCUMENTS, seed=1, settings=raft.Settings(num_variants=1, absent_share=0))
    assert [(example.id, example.answer) for example in examples["train"]] == [("q1", ABSTENTION), ("q3", "30 days")]


def test_raft_says_what_it_lacks() -> None:
    with pytest.raises(RecipeInvalid, match="--documents"):
        raft.build({"train": [asked(1)]}, [], seed=1)
    with pytest.raises(RecipeInvalid, match="word for word"):
        raft.build({"train": [asked(1, answers=("nowhere",))]}, DOCUMENTS, seed=1)
    with pytest.raises(RecipeInvalid, match="absent_share"):
        raft.Settings(absent_share=1)


def test_a_case_does_not_change_with_its_neighbours() -> None:
    alone = raft.build({"train": [asked(7)]}, DOCUMENTS, seed=3)["train"]
    among = raft.build({"train": [asked(n) for n in range(9)]}, DOCUMENTS, seed=3)["train"]
    assert [example for example in among if example.id.split("~")[0] == "q7"] == alone


def test_companions_ask_the_same_questions_the_other_way() -> None:
    rows = {"test": [asked(n, documents=("gold",)) for n in range(5)]}
    with_passages = raft.companions("closed-book", rows, DOCUMENTS, seed=1)["test"]
    assert [example.id for example in with_passages] == [row.id for row in rows["test"]]
    assert all(example.messages[0] == reading("", [])[0] for example in with_passages)
    assert all("30 days" in example.messages[-1].content for example in with_passages)
    nowhere = raft.companions("closed-book", {"test": [asked(9, answers=("nowhere",))]}, DOCUMENTS, seed=1)["test"]
    assert nowhere[0].golds == ("nowhere",)
    without = raft.companions("raft", rows, DOCUMENTS, seed=1)["test"]
    assert [example.messages for example in without] == [tuple(closed_book(row.question)) for row in rows["test"]]
    assert raft.companions("closed-book", rows, [], seed=1) == {}


def test_style_and_classes_become_chats() -> None:
    written = Written(id="a", group="a", prompt="To Ms Orlan.", text="Dear Ms Orlan", kind="letter")
    example = style.build({"train": [written]})["train"][0]
    assert (example.answer, example.kind) == ("Dear Ms Orlan", "letter")
    assert "letter" in example.messages[0].content
    labels = [Labelled(id=str(n), group=str(n), text="t", label=label) for n, label in enumerate("bab")]
    found = classification.build({"train": labels, "test": labels[:1]})
    assert "a, b" in found["train"][0].messages[0].content
    assert found["test"][0].golds == ("b",)


def test_classes_that_are_never_trained_on_are_refused() -> None:
    rows = [Labelled(id=a, group=a, text="t", label=a, origin=f"x.csv:{n}") for n, a in enumerate("abc", 1)]
    with pytest.raises(RecipeInvalid, match=r"1 rows of the test split have a label .* \(x\.csv:3\)"):
        classification.build({"train": rows[:2], "test": rows[2:]})
    with pytest.raises(RecipeInvalid, match="2 to 500"):
        classification.build({"train": rows[:1]})


def test_rows_of_files_become_questions_with_their_passages() -> None:
    fields = {"question": "Q?", "paraphrases": ["P?"], "answers": ["x"], "context": "It is x.", "title": "T"}
    row = data.QuestionAnswer.model_validate({"id": "a", **fields})
    found = list(importing.asked([row]))
    assert [(one.id, one.question, one.group) for one in found] == [("a", "Q?", "a"), ("a~p1", "P?", "a")]
    assert importing.contexts([row, row]) == [Document(found[0].documents[0], "It is x.", "T")]
    assert next(importing.asked([data.Instruction(id="i", instruction="Do", input="this", output="done")])).answers
    with pytest.raises(RecipeInvalid, match="classification"):
        list(importing.asked([data.Labelled(id="l", text="t", label="x")]))
