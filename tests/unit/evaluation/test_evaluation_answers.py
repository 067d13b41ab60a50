"""Labelled questions, what is asked of them, and what answers are worth."""

import json
from dataclasses import replace

import pytest

from evaluation.answers.answered import Answered, Kept, of_answer
from evaluation.answers.asking import Job, Router, ask_all
from evaluation.answers.judging import Rule
from evaluation.answers.questions import NEAREST, Question, read
from tandem.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, Overloaded, Unavailable
from tests.fakes.evaluation_answers import FakeRouter, questions, written

QUESTION = Question(question_id="q", question="How long?", answers=("14 days",), group="g")
UNANSWERABLE = replace(QUESTION, answers=())


def said(text: str, *, abstained: bool = False, error: str = "") -> Answered:
    return Answered(arm="rag", question_id="q", asked="", text=text, abstained=abstained, error=error)


def test_a_file_is_read_as_it_was_written(tmp_path):
    assert list(read(written(questions(4), tmp_path / "q.jsonl"))) == questions(4)


def test_what_is_left_out_has_a_meaning(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": "a", "question": "Why?", "answers": [], "history": [{"question": "Who?"}]}\n\n')
    (found,) = read(path)
    assert (found.group, found.kind, found.match, found.history) == ("a", "", "words", (("Who?", ""),))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[]", "an object is needed"),
        ("{", "is no JSON"),
        ('{"question_id": "a", "question": " ", "answers": []}', "question has 1 to"),
        ('{"question_id": "a", "question": "Why?"}', "answers is missing"),
        ('{"question_id": "a", "question": "Why?", "answers": [""]}', "answers is a list of strings"),
        ('{"question_id": 3, "question": "Why?", "answers": []}', "question_id is a string"),
        ('{"question_id": "a", "question": "Why?", "answers": [], "kind": "old"}', "kind is one of static, volatile"),
        (
            '{"question_id": "a", "question": "Why?", "answers": [], "history": ["Who?"]}',
            "history is a list of objects",
        ),
        ('{"question_id": "first", "question": "Why?", "answers": []}', "was there before"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, told):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": "first", "question": "Why?", "answers": []}\n' + line + "\n")
    with pytest.raises(InvalidInput, match=f"line 2: .*{told}"):
        read(path)


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (QUESTION, said("14 days."), 1),
        (QUESTION, said("within 14 days"), 1),
        (QUESTION, said("14 days after you have returned from abroad"), 0),
        (QUESTION, said("14 days", abstained=True), 0),
        (QUESTION, said("14 days", error="DEADLINE_EXCEEDED"), 0),
        (UNANSWERABLE, said("14 days"), 0),
        (UNANSWERABLE, said("Nobody knows", abstained=True), 1),
        (UNANSWERABLE, said("The passages do not answer this."), 1),
        (UNANSWERABLE, said("", error="UNAVAILABLE"), 0),
    ],
)
def test_answers_are_judged_by_words_and_abstentions(question, answer, right):
    assert Rule().worth(question, answer).right == right


def test_the_share_of_words_is_a_choice():
    assert Rule(min_f1=0.3).worth(QUESTION, said("14 days after you have returned")).right == 1
    assert "0.3" in Rule(min_f1=0.3).metric


def test_long_answers_are_judged_by_whose_they_are_nearest_to():
    first = replace(QUESTION, match=NEAREST, answers=("Use tildes around the words to strike them.",), group="strike")
    second = replace(first, answers=("Press the cloud button and wait for the upload.",), group="upload")
    rule = Rule([first, second])
    told = said("put tildes around it")
    assert rule.worth(first, told).right == 1
    assert rule.worth(second, told).right == 0
    assert rule.worth(first, said("wholly different")).right == 0
    assert "nearest" in rule.metric


def test_an_answer_of_the_router_keeps_what_is_told_of_it():
    one = questions(2)[1]
    found = of_answer(FakeRouter([one]).answer(one, "rag"))
    row = Answered(arm="rag", question_id="q", asked="", **found)
    assert (row.route, row.num_calls, row.input_tokens, row.cost, row.confidence) == ("rag", 3, 300, None, None)
    assert row.scores == pytest.approx([0.8, 0.6])
    assert row.stages_ms == {"embed": 10, "search": 20}
    assert row.signals.keys() == {"mean_logprob", "min_logprob"}


async def ask(router, rows, path, *, arms=("finetuned",), concurrency=3):
    by = Router(lambda _: router, domain="d").by
    done = []
    with Kept(path) as kept:
        jobs = [Job(arm, one, by(arm)) for arm in arms for one in rows]
        absent = await ask_all(jobs, kept, concurrency=concurrency, told=lambda: done.append(1), pause_s=0)
        assert len(done) == len(jobs)
        return absent, [kept.of(arm, one) for arm in arms for one in rows if arm not in absent]


async def test_a_broken_run_goes_on_where_it_was(tmp_path):
    rows, path = questions(6), tmp_path / "answers.jsonl"
    _, first = await ask(FakeRouter(rows), rows[:4], path)
    with path.open("a") as stream:
        stream.write('{"arm": "finetuned", "quest')  # ended while it wrote
    again = FakeRouter(rows)
    _, second = await ask(again, rows, path)
    assert sorted(name for _, name in again.asked) == ["q4", "q5"]
    assert second[:4] == first
    third = FakeRouter(rows)
    await ask(third, rows, path)
    assert third.asked == []


async def test_a_question_that_was_changed_is_asked_anew(tmp_path):
    rows, path = questions(2), tmp_path / "answers.jsonl"
    await ask(FakeRouter(rows), rows, path)
    changed = [replace(rows[0], question="What is the static sum?"), replace(rows[1], principal="bram")]
    again = FakeRouter(changed)
    await ask(again, changed, path)
    assert len(again.asked) == 2


async def test_overload_is_waited_for_and_another_failure_is_an_answer_that_is_wrong(tmp_path):
    rows, path = questions(2), tmp_path / "answers.jsonl"
    router = FakeRouter(rows)
    router.faults = [Overloaded("full", retry_after_s=0), Unavailable("down"), DeadlineExceeded("late")]
    absent, (first, second) = await ask(router, rows, path, concurrency=1)
    assert absent == {}
    assert (first.error, second.error) == ("DEADLINE_EXCEEDED", "")
    assert json.loads(path.read_text().split("\n")[0])["error"] == "DEADLINE_EXCEEDED"
    _, (first, _) = await ask(router, rows, path)
    assert first.error == ""


async def test_what_stays_down_is_raised(tmp_path):
    router = FakeRouter(questions(1))
    router.faults = [Unavailable("down")] * 6
    with pytest.raises(Unavailable):
        await ask(router, questions(1), tmp_path / "answers.jsonl")


async def test_an_arm_that_cannot_be_asked_is_given_up_with_the_reason(tmp_path):
    rows = questions(20)
    router = FakeRouter(rows, refusals={"dual": FailedPrecondition("no adapter is loaded")})
    absent, _ = await ask(router, rows, tmp_path / "a.jsonl", arms=("finetuned", "dual"), concurrency=1)
    assert absent == {"dual": "no adapter is loaded"}
    assert sum(policy == "dual" for policy, _ in router.asked) == 3
