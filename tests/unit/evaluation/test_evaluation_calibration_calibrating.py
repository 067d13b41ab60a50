"""From labelled answers to a calibration, its file of answers and its report."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.calibration.blending import fit_blend
from evaluation.calibration.calibrating import MIN_QUESTIONS, Wish, calibrate, split
from evaluation.calibration.certifying import certify, judged, sequence
from evaluation.calibration.measures import auroc, ece, reliability, wilson
from evaluation.calibration.model import fit
from evaluation.calibration.rows import Row, read
from evaluation.calibration.telling import table, verdict, write
from tandem.errors import InvalidInput
from tests.fakes.calibration import answers, document, lines

GOOD = '{"question_id": "a", "group": "g", "features": {"mean_logprob": -0.1}, "correct": true}'


def test_a_good_adapter_is_certified_and_the_share_accepted_is_told():
    found = calibrate(answers(), Wish())
    assert found.certificate.threshold is not None
    assert 0.3 < found.accepted.low < found.accepted.value < found.accepted.high < 0.8
    assert found.risk is not None
    assert found.risk.low <= found.risk.value <= found.risk.high
    assert found.risk.value < 0.1
    assert found.auroc is not None
    assert found.auroc.value > 0.75
    assert found.ece_before is not None
    assert found.ece_after < found.ece_before
    assert f"{found.accepted.value:.1%}" in verdict(found)


def test_a_hopeless_adapter_is_not_certified_and_accepts_nothing():
    found = calibrate(answers(error=0.4), Wish())
    assert found.certificate.threshold is None
    assert found.accepted.value == 0
    assert found.risk is None
    assert found.document()["threshold"] is None
    assert "0.0% is accepted" in verdict(found)
    assert "escalates everything" in verdict(found)


def test_too_few_questions_say_how_many_are_missing():
    with pytest.raises(InvalidInput, match=f"299 labelled questions are too few .* 1 more are needed, {MIN_QUESTIONS}"):
        calibrate(answers(299), Wish())
    calibrate(answers(300), Wish())


@pytest.mark.parametrize("wish", [Wish(risk=0), Wish(risk=1), Wish(level=1), Wish(fitting_share=float("nan"))])
def test_shares_that_are_none_are_refused(wish):
    with pytest.raises(InvalidInput, match="more than 0 and less than 1"):
        calibrate(answers(300), wish)


def test_too_few_groups_are_told():
    found = calibrate(answers(300, group_size=10), Wish())
    assert found.certificate.threshold is None
    assert "18 groups certify; 29 are needed even if no answer is wrong: add questions" in found.notes
    with pytest.raises(InvalidInput, match="all questions are of one group"):
        calibrate(answers(300, group_size=300), Wish())


def test_groups_stay_whole():
    first, second = split(answers(group_size=5), share=0.4, seed=3)
    assert not {row.group for row in first} & {row.group for row in second}
    assert len({row.group for row in first}) == 40
    assert split(answers(group_size=5), share=0.4, seed=3) == (first, second)


def test_abstentions_are_accepted_at_no_threshold():
    rows = [replace(row, abstained=number % 2 == 0) for number, row in enumerate(answers(1000, error=0.0))]
    found = calibrate(rows, Wish(risk=0.3))
    assert found.certificate.threshold is not None
    assert found.accepted.value < 0.56
    with pytest.raises(InvalidInput, match="the adapter abstains"):
        calibrate([replace(row, abstained=True) for row in rows], Wish())


def test_features_that_some_answers_lack_are_left_out_and_told():
    rows = answers()
    rows[5] = replace(rows[5], abstained=False, features={"mean_logprob": -0.1, "num_tokens": 4.0})
    found = calibrate(rows, Wish())
    assert found.model.names == ("mean_logprob", "num_tokens")
    assert any("min_logprob is left out: 1 of" in note and "'q5'" in note for note in found.notes)
    with pytest.raises(InvalidInput, match=r"min_logprob is missing in 1 answers, such as 'q5'"):
        calibrate(rows, Wish(features=("mean_logprob", "min_logprob")))
    with pytest.raises(InvalidInput, match="there is no feature 'mood'"):
        calibrate(rows, Wish(features=("mood",)))


def test_a_feature_that_never_differs_is_left_out():
    rows = [replace(row, features={**row.features, "agreement": 1.0}) for row in answers()]
    found = calibrate(rows, Wish())
    assert "agreement" not in found.model.names
    assert "agreement is left out: it is the same in all answers" in found.notes


def test_one_kind_of_answers_cannot_be_fitted():
    with pytest.raises(InvalidInput, match="are right; calibration needs answers of both kinds"):
        calibrate([replace(row, correct=True) for row in answers()], Wish())


@pytest.mark.parametrize("isotonic", [False, True])
def test_the_guarantee_holds_for_the_whole_path_from_answers_to_threshold(isotonic):
    """Fits and certifies anew on each draw; the risk is that of 5,000 other answers."""
    others = [row for row in answers(5_000, seed=99, error=0.05) if not row.abstained]
    wrong = np.array([not row.correct for row in others])
    exceeded = none = 0
    for seed in range(30):
        first, second = split([r for r in answers(300, seed=seed, error=0.05) if not r.abstained], share=0.4, seed=seed)
        names = tuple(first[0].features)
        table_of = lambda rows, names=names: np.array([[row.features[name] for name in names] for row in rows])  # noqa: E731
        groups = [row.group for row in first]
        model, unseen = fit(
            table_of(first), [row.correct for row in first], groups, names, isotonic=isotonic, seed=seed
        )
        given = judged(unseen, np.array([not row.correct for row in first]), groups)
        held = judged(
            model.confidence(table_of(second)),
            np.array([not row.correct for row in second]),
            [row.group for row in second],
        )
        threshold = certify(held, sequence(given, len(second), risk=0.15), risk=0.15, delta=0.1).threshold
        none += threshold is None
        if threshold is not None:
            taken = model.confidence(table_of(others)) >= threshold
            exceeded += wrong[taken].mean() > 0.15
    print(f"isotonic {isotonic}: exceeded {exceeded} of 30, none certified {none}")
    assert exceeded <= 9  # binomial of 30 and 0.1: 99.9 %
    assert none < 15


def test_rows_are_read_back(tmp_path):
    rows = answers(20)
    path = tmp_path / "answers.jsonl"
    path.write_text(lines(rows) + "\n", encoding="utf-8")
    found = read(path)
    assert list(found.rows) == rows
    assert len(found.data_sha256) == 64


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1]", "an object with question_id"),
        ("{", "no JSON object"),
        (GOOD.replace('"correct": true', '"correct": 1'), "correct is true or false"),
        (GOOD.replace("-0.1", "NaN"), "mean_logprob is nan, not a number"),
        (GOOD.replace("-0.1", "1e999"), "not a number"),
        (GOOD.replace("-0.1", "true"), "not a number"),
        (GOOD.replace("mean_logprob", "mood"), "there is no feature 'mood'"),
        (GOOD.replace('"g"', '""'), "strings that are not empty"),
        (GOOD.replace('"group"', '"groups"'), "at most"),
        (GOOD + "\n" + GOOD, "line 2: question_id is that of line 1"),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_line(tmp_path, line, fault):
    path = tmp_path / "answers.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InvalidInput, match=fault) as told:
        read(path)
    assert "answers.jsonl, line" in str(told.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(tmp_path / "none.jsonl")


def test_measures_by_hand():
    assert ece([0.95, 0.95, 0.05], [1, 0, 0]) == pytest.approx((2 * 0.45 + 0.05) / 3)
    assert [(one.num, one.correct) for one in reliability([1.0, 0.0, 0.05], [1, 0, 1])] == [(2, 0.5), (1, 1.0)]
    random = np.random.default_rng(1)
    scores, right = random.integers(0, 9, 200), random.random(200) < 0.4
    assert auroc(scores, right) == pytest.approx(roc_auc_score(right, scores))
    assert auroc([1.0], [True]) is None
    low, high = wilson(0.5, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)


def test_the_blend_is_fitted_where_labels_allow_it_and_never_falls():
    random = np.random.default_rng(2)
    scores = random.random(200)
    rows = [
        Row(f"q{place}", f"q{place}", {"top_score": float(score)}, True, evidence_correct=bool(random.random() < score))
        for place, score in enumerate(scores)
    ]
    part, note = fit_blend(rows)
    assert part["evidence_slope"] > 2
    assert part["own_prior"] == pytest.approx(201 / 202)
    assert "fitted on 200" in note
    falling = [replace(row, evidence_correct=not row.evidence_correct) for row in rows]
    assert fit_blend(falling)[0]["evidence_slope"] == 0
    unlabelled, note = fit_blend(answers(10))
    assert (unlabelled["evidence_intercept"], unlabelled["evidence_slope"]) == (0, 0)
    assert "alike" in note


@pytest.mark.parametrize("error", [0.01, 0.4])
def test_the_report_tells_verdict_and_figures(tmp_path, error):
    rows = answers(error=error)
    found = calibrate(rows, Wish())
    page = write(found, document(rows), tmp_path / "out", scope_note="<b>mine</b>")
    text = page.read_text(encoding="utf-8")
    assert ("No threshold could be certified" in text) == (error == 0.4)
    assert text.count("<svg") == 3
    assert "&lt;b&gt;mine" in text
    kept = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    assert kept["measured"]["num_questions"] == 500
    assert kept["steps"]
    assert kept["scope"]["rows"] == ""
    assert table(found).row_count == 8
