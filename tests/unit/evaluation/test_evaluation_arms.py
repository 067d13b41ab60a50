"""Arms from a folder to a report, by fakes of the services."""

import json
from dataclasses import replace

import pytest

from evaluation.answers.answered import Answered, Kept
from evaluation.answers.asking import Router
from evaluation.answers.judging import Rule
from evaluation.arms.curve import confidence_of, sweep
from evaluation.arms.figures import column, share_of_oracle, weighted_percentile
from evaluation.arms.folder import read_folder
from evaluation.arms.measuring import Wish, ask_arms, report_of
from evaluation.arms.paths import ARMS, Base, asker
from evaluation.arms.routers import ORACLE, RANDOM, SOURCE, by_source, oracle
from evaluation.arms.telling import findings, table, write
from tandem.errors import FailedPrecondition, InvalidInput
from tests.fakes.evaluation_answers import FakeGenerator, FakeRouter, questions, written

ROWS = questions(80)


async def measured(path, rows=ROWS, *, router=None, generator=None, **wish):
    chosen = Wish(**{"num_timed": 6, **wish})
    with Kept(path / "answers.jsonl") as kept:
        by = asker(
            Router(lambda _: router or FakeRouter(rows), domain="d").by, Base(generator or FakeGenerator(), kept)
        )
        absent = await ask_arms(rows, by, kept, chosen, lambda *_: None)
        return report_of("sample", rows, kept, Rule(rows), chosen, absent)


async def test_every_arm_has_its_figures_and_a_good_router_is_found_better(tmp_path):
    report = await measured(tmp_path)
    assert list(report.arms) == [*ARMS, RANDOM, SOURCE, ORACLE]
    assert report.absent == {}
    right = {name: arm.metrics["accuracy"].value for name, arm in report.arms.items()}
    assert right == {
        "base": 0.0, "finetuned": 0.5, "rag-base": 1.0, "rag": 0.5, "dual": 1.0, "cascade": 1.0, "ensemble": 0.0,
        "auto": 1.0, RANDOM: 0.5, SOURCE: 1.0, ORACLE: 1.0,
    }  # fmt: skip
    verdicts = {(one.arm, one.other): one.verdict for one in report.comparisons}
    assert verdicts["cascade", "rag"] == verdicts["cascade", "finetuned"] == verdicts["auto", RANDOM] == "better"
    assert verdicts["ensemble", "rag"] == "worse"
    assert verdicts["cascade", SOURCE] == "no difference shown"
    assert report.oracle_shares["cascade"].value == 1
    assert report.oracle_shares["ensemble"].value == -1
    assert report.arms["finetuned"].kinds["static"].value == 1
    assert report.arms["finetuned"].kinds["volatile"].value == 0
    assert report.arms["rag"].metrics["gold found"].value == 1
    assert report.arms["rag"].metrics["groundedness"].value == pytest.approx(0.9)
    assert "groundedness" not in report.arms["finetuned"].metrics


async def test_prices_are_those_of_what_was_asked(tmp_path):
    report = await measured(tmp_path)
    tokens = {name: arm.tokens for name, arm in report.arms.items()}
    assert (tokens["finetuned"], tokens["rag"], tokens["cascade"]) == (30, 300, 180)
    assert (tokens[RANDOM], tokens[ORACLE]) == (165, 165)
    assert report.both == {"tokens": 330, "calls": 4, "cost": None}
    assert report.arms["cascade"].routes == {"finetuned": 0.5, "rag": 0.5}
    assert report.arms["rag-base"].calls == 3
    assert report.arms["rag-base"].p50_ms > 30  # it counts the finding of the arm that did it
    assert report.arms["finetuned"].num_timed == 6


async def test_the_json_is_what_a_domain_reads(tmp_path):
    from services.router.domains.results import read_results

    write(await measured(tmp_path), tmp_path)
    policies = ("finetuned", "rag", "cascade", "dual", "ensemble", "auto")
    found = {arm.policy: arm for arm in read_results(tmp_path / "arms.json", policies)}
    assert set(found) == set(policies)
    assert (found["cascade"].accuracy, found["cascade"].num_questions) == (1.0, 80)
    assert found["cascade"].num_calls == 2.5
    assert found["cascade"].p95_ms is not None
    assert found["rag"].behind["cascade"] > 0
    assert found["cascade"].behind["rag"] < 0
    assert "cascade" not in found["cascade"].behind


async def test_the_page_says_what_is_worse_and_what_was_not_measured(tmp_path):
    router = FakeRouter(ROWS, refusals={"dual": FailedPrecondition("<b>no adapter</b>")})
    report = await measured(tmp_path, router=router)
    page = write(report, tmp_path).read_text()
    assert "ensemble against rag: worse" in " ".join(findings(report))
    assert "not measured: &lt;b&gt;no adapter" in page
    assert page.count("<svg") == 3
    assert report.curve[0].accepted == 0
    assert table(report).row_count == len(ARMS) - 1 + 3 + 1
    told = json.loads((tmp_path / "arms.json").read_text())
    assert told["absent"] == {"dual": "<b>no adapter</b>"}
    assert told["curve"][0]["threshold"] is None


async def test_what_needs_passages_of_an_arm_that_is_absent_is_absent_too(tmp_path):
    router = FakeRouter(ROWS, refusals={"rag": FailedPrecondition("nothing to read")})
    report = await measured(tmp_path, router=router, arms=("finetuned", "rag-base"))
    assert "reads what rag found" in report.absent["rag-base"]
    assert list(report.arms) == ["finetuned"]


async def test_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"takes base, .* not magic"):
        await measured(tmp_path, arms=("rag", "magic"))


async def test_each_timed_question_begins_with_another_arm(tmp_path):
    router = FakeRouter(ROWS)
    await measured(tmp_path, router=router, arms=("finetuned", "rag", "cascade"), num_timed=3)
    assert [policy for policy, _ in router.asked[:9:3]] == ["finetuned", "rag", "cascade"]
    assert len({name for _, name in router.asked[:9]}) == 3


async def test_a_second_run_asks_nothing_and_finds_the_same(tmp_path):
    first, router = await measured(tmp_path), FakeRouter(ROWS)
    second = await measured(tmp_path, router=router)
    assert router.asked == []
    assert second.arms == first.arms


async def test_a_refused_question_is_wrong_and_told(tmp_path):
    rows = [*ROWS[:10], replace(ROWS[10], question="x", question_id="q10")]

    class Refusing(FakeRouter):
        def answer(self, one, policy):
            if one.question == "x":
                raise InvalidInput("the question is too long")
            return super().answer(one, policy)

    report = await measured(tmp_path, rows, router=Refusing(rows), arms=("finetuned",))
    assert report.arms["finetuned"].num_failed == 1
    assert report.arms["finetuned"].metrics["accuracy"].value == pytest.approx(5 / 11)
    assert "1 questions were refused" in report.notes[0]


def row(place, *, right=True, **rest):
    return Answered(
        arm="finetuned", question_id=f"q{place}", asked="", text=ROWS[place].answers[0] if right else "x", **rest
    )


def test_a_source_that_tells_nothing_routes_no_better_than_a_pure_path():
    alike = [replace(one, source="all") for one in ROWS]
    own, evidence = [float(n % 4 > 0) for n in range(80)], [float(n % 4 == 0) for n in range(80)]
    assert set(by_source(alike, own, evidence, seed=0)) == {1.0}
    told = [replace(one, source=str(n % 4 > 0)) for n, one in enumerate(ROWS)]
    assert by_source(told, own, evidence, seed=0) == own


def test_a_source_is_learnt_on_other_groups_alone():
    lone = [replace(one, source=one.group) for one in ROWS]
    own, evidence = [float(n < 8) for n in range(80)], [1 - float(n < 8) for n in range(80)]
    assert set(by_source(lone, own, evidence, seed=0)) == {0.0}


def test_the_oracle_takes_the_cheaper_of_two_right_answers():
    assert oracle([1, 0, 1, 0], [1, 1, 0, 0], [(9, 5), (1, 9), (9, 1), (1, 2)]) == [0, 0, 1, 1]


def test_the_share_of_the_oracles_gain_is_none_where_it_is_not_shown_to_gain():
    groups = [one.group for one in ROWS]
    good, bad = (column(ROWS, [row(n, right=right) for n in range(80)], Rule()) for right in (True, False))
    assert share_of_oracle(bad, good, bad, good, groups, seed=0) is None
    mix = column(ROWS, [row(n, right=n % 2 == 0) for n in range(80)], Rule())
    other = column(ROWS, [row(n, right=n % 2 == 1) for n in range(80)], Rule())
    assert share_of_oracle(good, mix, other, good, groups, seed=0).value == 1
    # A single question that only the other path gets right may be missing from the next sample.
    most = column(ROWS, [row(n, right=n > 0) for n in range(80)], Rule())
    one = column(ROWS, [row(n, right=n == 0) for n in range(80)], Rule())
    assert share_of_oracle(good, most, one, good, groups, seed=0) is None


async def test_a_set_on_which_one_path_is_enough_says_so(tmp_path):
    report = await measured(tmp_path, [one for one in ROWS if one.kind == "volatile"])
    assert report.oracle_shares == {}
    assert any(line.startswith("Not even the oracle is shown to be right more often") for line in findings(report))


def test_a_sweep_goes_from_passages_alone_to_the_adapter_alone():
    drafts = [row(n, right=n % 2 == 0, confidence=0.9 if n % 2 == 0 else 0.2, input_tokens=10.0) for n in range(80)]
    own = column(ROWS, drafts, Rule())
    evidence = column(ROWS, [row(n, right=n % 4 != 0, input_tokens=100.0) for n in range(80)], Rule())
    points = sweep(drafts, own, evidence)
    assert (points[0].accepted, points[0].accuracy, points[0].tokens) == (0, 0.75, 110)
    assert (points[-1].accepted, points[-1].accuracy, points[-1].tokens) == (1, 0.5, 10)
    assert max(point.accuracy for point in points) == 1
    assert sweep([replace(drafts[0], abstained=True)], own, evidence) == []


def test_an_abstention_has_no_confidence_and_an_uncalibrated_draft_that_of_its_tokens():
    assert confidence_of(row(0, abstained=True, confidence=0.9)) is None
    assert confidence_of(row(0, signals={"mean_logprob": 0.0})) == 1
    assert confidence_of(row(0)) is None


def test_a_percentile_of_weighted_values():
    assert weighted_percentile([(1, 1), (2, 1), (3, 1)], 0.5) == 2
    assert weighted_percentile([(1, 3), (9, 1)], 0.5) == 1
    assert weighted_percentile([(1, 3), (9, 1)], 0.95) == 9
    assert weighted_percentile([], 0.5) == 0


def folder(tmp_path):
    written(ROWS[:4], tmp_path / "questions.jsonl")
    (tmp_path / "documents.jsonl").write_text('{"document_id": "d1", "title": "A  b", "text": "c"}\n')
    return tmp_path


def test_a_folder_is_read_with_its_documents(tmp_path):
    found = read_folder(folder(tmp_path))
    (upload,) = found.uploads()
    assert (len(found.questions), found.has_documents) == (4, True)
    assert (upload.document_id, upload.title, upload.data) == ("d1", "A b", b"c")
    (tmp_path / "documents.jsonl").write_text('{"document_id": "d1", "text": " "}\n')
    with pytest.raises(InvalidInput, match=r"documents\.jsonl, line 1"):
        list(found.uploads())


@pytest.mark.parametrize("name", ["train.jsonl", "calibration.jsonl"])
def test_splits_that_overlap_are_refused(tmp_path, name):
    same = replace(ROWS[2], question=f"  {ROWS[2].question.upper()}")
    written([ROWS[9], same], folder(tmp_path) / name)
    with pytest.raises(InvalidInput, match=f"{name}, line 2: .* split first"):
        read_folder(tmp_path)


def test_a_folder_without_questions_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no questions\.jsonl"):
        read_folder(tmp_path)
