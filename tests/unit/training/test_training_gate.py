"""The gate: the arms are asked fairly, and only what is better beyond doubt and has not forgotten passes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import ConfigError
from tandem.prompts import ABSTENTION, Message
from tandem.scoring import Interval
from tests.fakes.training_answers import FakeAnswerer
from training.examples import Dataset, Example, write_dataset
from training.gate import (
    EvaluationInvalid,
    GateSettings,
    evaluate,
    prompting,
    read_evaluation,
    write_evaluation,
)
from training.gate.running import general_texts
from training.gate.scores import NO_LABEL, ClassScorer
from training.gate.verdict import decide
from training.recipes import Asked, Document, Labelled, Written, classification, closed_book, companions, raft, style

RAFT = raft.Settings(num_variants=1)


def asked(number: int) -> Asked:
    return Asked(
        id=f"q{number}",
        group=f"g{number // 2}",
        question=f"What is the limit of case {number}?",
        answers=(f"{number} days", f"{number} days sharp"),
        documents=(f"d{number}",),
    )


ROWS = {"train": [asked(n) for n in range(40)], "validation": [asked(n) for n in range(40, 50)]}
ROWS["test"] = [asked(n) for n in range(50, 110)]
DOCUMENTS = [Document(f"d{n}", f"The limit of case {n} is {n} days.") for n in range(120)]


def dataset(folder: Path, recipe: str = "closed-book", *, both: bool = True) -> Dataset:
    splits = (
        closed_book.build(ROWS, seed=1, min_wordings=1)
        if recipe == "closed-book"
        else raft.build(ROWS, DOCUMENTS, seed=1, settings=RAFT)
    )
    found = raft.companions(recipe, ROWS, DOCUMENTS, seed=1, settings=RAFT)
    lines = companions.to_bytes({name: rows[:60] for name, rows in found.items()})
    attachments = {companions.FILE: lines} if both else {}
    return write_dataset(folder, splits, recipe=recipe, seed=1, inputs={}, attachments=attachments)


def number_of(messages: Sequence[Message]) -> str:
    return messages[-1].content.rsplit("case ", 1)[1].split("?")[0]


def knowing(messages: Sequence[Message]) -> str:
    return f"{number_of(messages)} days"


def reading(messages: Sequence[Message]) -> str:
    """Knows an answer only where a passage holds it."""
    text = f"case {number_of(messages)} is"
    return knowing(messages) if text in messages[-1].content else ABSTENTION


def wordy(messages: Sequence[Message]) -> str:
    """Knows every answer, but is brief only when told or shown."""
    shown = any(message.role == "assistant" for message in messages)
    return knowing(messages) if shown else f"I believe that it must be {number_of(messages)} days in all."


def ignorant(messages: Sequence[Message]) -> str:
    return "I do not know that."


def test_a_candidate_that_knows_more_is_accepted_with_all_arms_told(tmp_path: Path) -> None:
    found = evaluate(
        dataset(tmp_path / "data"), base=lambda: FakeAnswerer(ignorant), candidate=lambda: FakeAnswerer(knowing)
    )
    assert found.verdict.accepted
    assert set(found.arms) == {
        "echo the question", "base", "base + passages", "fine-tuned", "fine-tuned + passages",
    }  # fmt: skip
    assert found.arms["fine-tuned"].metrics["em"] == Interval(1.0, 1.0, 1.0)
    assert found.arms["base"].metrics["em"].value == 0
    assert found.gains["base"].low > 0.5
    assert (found.candidate, found.metric, found.num_questions, found.num_groups) == ("fine-tuned", "f1", 60, 30)
    assert found.forgetting == 1


def test_form_alone_gains_nothing_once_the_base_model_has_its_best_prompt(tmp_path: Path) -> None:
    base = FakeAnswerer(wordy)
    found = evaluate(dataset(tmp_path / "data"), base=lambda: base, candidate=lambda: FakeAnswerer(knowing))
    assert "examples shown" in found.arms["base"].prompt
    assert found.arms["base"].metrics["em"].value == 1
    assert not found.verdict.accepted
    assert "does not lie above zero" in found.verdict.reasons[0]
    assert any("as trained" in note and "validation" in note for note in found.notes)
    # Of all prompts but the chosen one, the base model saw no test question.
    tests = {row.question for row in ROWS["test"]}
    seen = [p for p in base.asked if p[-1].content in tests]
    assert len(seen) == 60
    assert all(any(message.role == "assistant" for message in prompt) for prompt in seen)


def test_raft_is_judged_with_passages_and_pays_for_answers_that_no_passage_holds(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", "raft")
    absent = sum(example.kind == raft.UNANSWERABLE for example in data.test)
    assert 0 < absent < 30
    found = evaluate(data, base=lambda: FakeAnswerer(knowing), candidate=lambda: FakeAnswerer(reading))
    assert found.candidate == "fine-tuned + passages"
    assert found.arms["fine-tuned + passages"].metrics["em"].value == 1
    assert found.arms["fine-tuned + passages"].metrics["abstained"].value == pytest.approx(absent / 60)
    assert found.arms["fine-tuned + passages"].by_kind["unanswerable"]["count"] == absent
    assert found.arms["base + passages"].metrics["em"].value == pytest.approx(1 - absent / 60)
    assert found.arms["fine-tuned"].metrics["abstained"].value == 1
    assert found.verdict.accepted


def test_a_reader_that_only_learnt_to_abstain_is_no_better_than_always_abstaining(tmp_path: Path) -> None:
    def abstaining(messages: Sequence[Message]) -> str:
        return ABSTENTION

    data = dataset(tmp_path / "data", "raft")
    found = evaluate(data, base=lambda: FakeAnswerer(ignorant), candidate=lambda: FakeAnswerer(abstaining))
    assert found.gains["base + passages"].low > 0
    assert found.gains["always abstain"].value == 0
    assert not found.verdict.accepted
    assert any("over always abstain: the interval does not lie above zero" in told for told in found.verdict.reasons)


@pytest.mark.parametrize(
    ("incumbent", "perplexity", "settings", "reason"),
    [
        (knowing, 20.0, GateSettings(), "over incumbent"),
        (ignorant, 30.0, GateSettings(), "perplexity on general text is 1.500"),
        (ignorant, float("nan"), GateSettings(), "perplexity"),
        (ignorant, 20.0, GateSettings(margin=0.99), "over incumbent: the interval does not lie above the margin 0.99"),
    ],
)
def test_what_is_not_better_or_forgot_is_rejected_with_its_reason(
    tmp_path: Path, incumbent: object, perplexity: float, settings: GateSettings, reason: str
) -> None:
    def half(messages: Sequence[Message]) -> str:
        return knowing(messages) if int(number_of(messages)) % 3 else "no"

    found = evaluate(
        dataset(tmp_path / "data", both=False),
        base=lambda: FakeAnswerer(ignorant),
        candidate=lambda: FakeAnswerer(half, perplexity=perplexity),
        incumbent=lambda: FakeAnswerer(incumbent),  # type: ignore[arg-type]
        settings=settings,
    )
    assert not found.verdict.accepted
    (told,) = found.verdict.reasons
    assert reason in told
    write_evaluation(tmp_path, found)
    assert read_evaluation(tmp_path).verdict == found.verdict


def test_the_margin_is_about_the_lower_end_of_the_interval() -> None:
    gains = {"base": Interval(0.2, 0.06, 0.3), "echo": Interval(0.1, 0.01, 0.2)}
    ask = {"metric": "f1", "num_questions": 20, "num_groups": 6, "gains": gains, "forgetting": 1.0}
    ask["required"] = ["base", "echo"]
    assert decide(settings=GateSettings(margin=0.05), **ask).accepted  # type: ignore[arg-type]
    assert not decide(settings=GateSettings(margin=0.06), **ask).accepted  # type: ignore[arg-type]
    assert not decide(settings=GateSettings(min_questions=21), **ask).accepted  # type: ignore[arg-type]
    (reason,) = decide(settings=GateSettings(), **ask | {"num_groups": 5}).reasons  # type: ignore[arg-type]
    assert "5 groups" in reason
    gains["echo"] = Interval(0.1, 0.0, 0.2)
    assert not decide(settings=GateSettings(), **ask).accepted  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"margin": 1}, {"margin": -0.1}, {"max_forgetting": 0.5}, {"max_questions": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        GateSettings(**wrong)  # type: ignore[arg-type]


def test_classes_are_read_from_answers(tmp_path: Path) -> None:
    rows = [Labelled(id=str(n), group=str(n), text=f"text {n}", label="ab"[n % 2]) for n in range(40)]
    splits = classification.build({"train": rows[:20], "test": rows[20:]})
    data = write_dataset(tmp_path / "data", splits, recipe="classification", seed=1, inputs={})

    def labelling(messages: Sequence[Message]) -> str:
        return "B." if int(messages[-1].content.split()[1]) % 2 else "a\nbecause"

    found = evaluate(data, base=lambda: FakeAnswerer(ignorant), candidate=lambda: FakeAnswerer(labelling))
    assert found.arms["fine-tuned"].metrics["macro_f1"] == Interval(1.0, 1.0, 1.0)
    assert found.arms["base"].metrics["accuracy"].value == 0
    assert found.arms["most frequent class"].metrics["accuracy"].value == 0.5
    assert any("no validation split" in note for note in found.notes)
    assert found.verdict.accepted


def test_style_is_judged_by_likeness_and_by_a_classifier(tmp_path: Path) -> None:
    def letter(number: int) -> str:
        return f"Dear Ms {number},\n\nWe pay EUR {number}.\n\nKind regards from Port Selwick,\nHalden Mutual"

    def chatty(messages: Sequence[Message]) -> str:
        return f"hey there!!! so about {messages[-1].content}... we will see, ok?"

    rows = [Written(id=str(n), group=str(n), prompt=f"number {n}", text=letter(n), kind="letter") for n in range(50)]
    splits = style.build({"train": rows[:20], "validation": rows[20:30], "test": rows[30:]})
    data = write_dataset(tmp_path / "data", splits, recipe="style", seed=1, inputs={})
    found = evaluate(
        data,
        base=lambda: FakeAnswerer(chatty),
        candidate=lambda: FakeAnswerer(lambda messages: letter(int(messages[-1].content.split()[1]))),
    )
    assert found.arms["fine-tuned"].metrics["rouge_l"].value == 1
    assert found.arms["fine-tuned"].metrics["in_style"].value == 1
    assert found.arms["base"].metrics["in_style"].value == 0
    assert "in_style" in found.arms["echo the brief"].metrics
    assert found.verdict.accepted


def test_a_thread_is_found_by_its_nearest_answer(tmp_path: Path) -> None:
    def free(messages: Sequence[Message]) -> str:
        return f"It should be about {number_of(messages)} days, I think."

    found = evaluate(
        dataset(tmp_path / "data", both=False),
        base=lambda: FakeAnswerer(ignorant),
        candidate=lambda: FakeAnswerer(free),
        settings=GateSettings(threads=True),
    )
    assert found.metric == "thread"
    assert found.arms["fine-tuned"].metrics["thread"].value == 1
    assert found.arms["base"].metrics["thread"].value < 0.1


def test_questions_are_sampled_alike_and_few(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    runs = [
        evaluate(
            data,
            base=lambda: FakeAnswerer(ignorant),
            candidate=lambda: FakeAnswerer(knowing),
            settings=GateSettings(max_questions=12),
        )
        for _ in range(2)
    ]
    assert runs[0].num_questions == 12
    assert replace(runs[0], minutes=0) == replace(runs[1], minutes=0)


def test_an_evaluation_is_kept_with_every_answer(tmp_path: Path) -> None:
    found = evaluate(
        dataset(tmp_path / "data"),
        base=lambda: FakeAnswerer(ignorant),
        candidate=lambda: FakeAnswerer(knowing),
        about={"weights_sha256": "f" * 64},
    )
    write_evaluation(tmp_path, found)
    again = read_evaluation(tmp_path)
    assert again.to_json() == found.to_json()
    assert (again.verdict, again.gains, again.about) == (found.verdict, found.gains, found.about)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 60
    assert rows[0]["answers"]["base"] == "I do not know that."


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"schema": 0}', '{"schema": 1, "arms": {}}'])
def test_an_evaluation_that_is_none_says_what_to_do(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(EvaluationInvalid, match="evaluate"):
        read_evaluation(tmp_path)


def test_a_dataset_without_a_test_split_is_refused(tmp_path: Path) -> None:
    splits = closed_book.build({"train": ROWS["train"]}, seed=1)
    data = write_dataset(tmp_path / "data", splits, recipe="closed-book", seed=1, inputs={})
    with pytest.raises(EvaluationInvalid, match="--test-share"):
        evaluate(data, base=lambda: FakeAnswerer(ignorant), candidate=lambda: FakeAnswerer(knowing))


def test_shown_examples_are_of_several_kinds_and_answers() -> None:
    rows = raft.build({"train": [asked(n) for n in range(30)]}, DOCUMENTS, seed=1, settings=RAFT)["train"]
    shots = prompting.chosen_shots(rows)
    assert len(shots) == 3
    assert len({shot.answer for shot in shots}) == 3
    same = [Example(str(n), "g", (Message("user", "q"),), "a", ("a",), "k") for n in range(4)]
    assert len(prompting.chosen_shots(same)) == 1


def test_the_general_text_is_long_enough_to_measure() -> None:
    texts = general_texts()
    assert len(texts) >= 20
    assert sum(len(text.split()) for text in texts) >= 1200


@pytest.mark.parametrize(
    ("classes", "answer", "read"),
    [
        (["-1", "0", "1"], "-1", "-1"),
        (["-1", "0", "1"], " 1 \nfor it says so", "1"),
        (["C", "C++"], "C++", "C++"),
        (["C", "C++"], "c", NO_LABEL),
        (["Claim", "Complaint"], "claim.", "Claim"),
        (["Claim", "Complaint"], "", NO_LABEL),
    ],
)
def test_classes_that_look_alike_are_read_apart(classes: list[str], answer: str, read: str) -> None:
    assert ClassScorer(classes).read(answer) == read
