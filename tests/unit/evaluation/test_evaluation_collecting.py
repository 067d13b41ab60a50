"""From labelled questions to rows that calibrate, by fakes of the services; and a scope measured on labelled texts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.answers.answered import Kept
from evaluation.answers.asking import Router
from evaluation.answers.judging import Rule
from evaluation.calibration import rows as labelled
from evaluation.calibration.calibrating import Wish, calibrate
from evaluation.calibration.collecting import cascade_features, collect, of_feedback, weights, write_rows
from evaluation.calibration.rows import Row
from evaluation.calibration.scope import knn, mahalanobis, read_scope
from evaluation.scope.measuring import Text, fitted, halves, measure, read
from evaluation.scope.telling import table, write
from tandem.errors import FailedPrecondition, InvalidInput
from tandem.v1 import feedback_service_pb2 as feedback
from tandem.v1 import router_service_pb2 as router
from tests.fakes.calibration import answers, scope_part, vectors
from tests.fakes.evaluation_answers import ADAPTER, EMBEDDER, MODEL, FakeEmbedder, FakeRouter, questions

TRAINING = [f"static thing {number}" for number in range(30)]


async def collected(rows, path, *, training=TRAINING, client=None):
    with Kept(path / "answers.jsonl") as kept:
        return await collect(
            rows,
            training,
            asking=Router(lambda _: client or FakeRouter(rows), domain="d"),
            embedder=FakeEmbedder(),
            kept=kept,
            rule=Rule(rows),
            concurrency=4,
            on_progress=lambda *_: None,
        )


async def test_rows_hold_what_a_cascade_will_know_and_what_was_right(tmp_path):
    rows = questions(400)
    found = await collected(rows, tmp_path)
    first, second = found.rows[:2]
    assert (first.correct, first.evidence_correct, second.correct, second.evidence_correct) == (
        True,
        False,
        False,
        True,
    )
    assert first.features["top_score"] == pytest.approx(0.8)
    assert first.features["score_gap"] == pytest.approx(0.2)
    assert 0 <= first.features["agreement"] < 1
    assert first.features["scope_distance"] < 0.1 < second.features["scope_distance"]
    assert (found.model_sha256, found.adapter_sha256) == (MODEL, ADAPTER)
    assert found.scope is not None
    assert found.scope.embedder_sha256 == EMBEDDER
    assert found.scope.auroc.value > 0.95
    assert cascade_features(found.rows) == ("mean_logprob", "min_logprob", "scope_distance")
    fit = calibrate(
        labelled.read(write_rows(found.rows, tmp_path / "labelled.jsonl")).rows,
        Wish(features=cascade_features(found.rows)),
    )
    assert fit.certificate.threshold is not None
    assert fit.accepted.value == pytest.approx(0.5, abs=0.05)


async def test_without_training_questions_there_is_no_scope_and_the_note_says_so(tmp_path):
    found = await collected(questions(300), tmp_path, training=[])
    assert found.scope is None
    assert "--scope-data" in found.notes[0]
    assert "scope_distance" not in cascade_features(found.rows)


async def test_without_kinds_inside_is_what_the_adapter_got_right(tmp_path):
    rows = [replace(one, kind="") for one in questions(300)]
    found = await collected(rows, tmp_path, client=FakeRouter(questions(300)))
    assert found.scope is not None
    assert "those that the adapter got right" in found.notes[-1]


async def test_too_few_questions_are_told_before_anything_is_asked(tmp_path):
    client = FakeRouter(questions(299))
    with pytest.raises(InvalidInput, match=r"299 questions .* 1 more"):
        await collected(questions(299), tmp_path, client=client)
    assert client.asked == []


async def test_a_path_that_cannot_be_asked_is_told(tmp_path):
    rows = questions(300)
    client = FakeRouter(rows, refusals={"finetuned": FailedPrecondition("no adapter is loaded")})
    with pytest.raises(FailedPrecondition, match="finetuned cannot be asked: no adapter is loaded"):
        await collected(rows, tmp_path, client=client)


def test_answers_of_two_versions_of_an_adapter_calibrate_nothing():
    one = answered(ADAPTER)
    assert weights([one, replace(one, lineage={})]) == (MODEL, ADAPTER)
    with pytest.raises(FailedPrecondition, match="2 versions"):
        weights([one, answered("f" * 64)])
    with pytest.raises(FailedPrecondition, match="answer_adapter"):
        weights([replace(one, lineage={})])


def answered(adapter):
    from evaluation.answers.answered import Answered

    lineage = {"model_sha256": MODEL, "adapter_sha256": adapter}
    return Answered(arm="finetuned", question_id="q", asked="", lineage=lineage)


def test_feedback_is_fitted_and_never_certifies():
    verdicts = [
        feedback.Feedback(answer_id=f"a{n}", verdict=1 + n % 3, route=router.ROUTE_FINETUNED) for n in range(60)
    ]
    for one in verdicts:
        one.signals.mean_logprob = -0.1 * one.verdict
    verdicts[0].route = router.ROUTE_RAG
    told, unusable = of_feedback(verdicts, names=("mean_logprob",))
    assert (len(told), unusable) == (59, 1)
    assert {row.correct for row in told if row.features["mean_logprob"] > -0.15} == {True}
    assert of_feedback(verdicts, names=("mean_logprob", "scope_distance")) == ([], 60)
    changed = [feedback.Feedback(answer_id="a", verdict=verdict, route=router.ROUTE_FINETUNED) for verdict in (1, 2, 3)]
    (row,), superseded = of_feedback(changed, names=())
    assert (row.correct, superseded) == (True, 2)  # the newest comes first
    rows = [replace(row, features={"mean_logprob": row.features["mean_logprob"]}) for row in answers(400)]
    plain, more = calibrate(rows, Wish()), calibrate(rows, Wish(), fit_too=told)
    assert more.num_certifying == plain.num_certifying
    assert more.num_fitted == plain.num_fitted + 59
    assert more.model.weight != plain.model.weight


@pytest.mark.parametrize("method", ["knn", "mahalanobis"])
def test_a_scope_is_read_back_as_it_was_fitted(method):
    part = scope_part(method)
    space, threshold, embedder = read_scope(part)
    learnt, groups = vectors(40, seed=1), [f"g{number % 4}" for number in range(40)]
    fitted_space = knn(learnt) if method == "knn" else mahalanobis(learnt, groups)
    asked = vectors(9, seed=7)
    assert np.allclose(space.distances(asked), fitted_space.distances(asked))
    assert (threshold, embedder) == (part["threshold"], part["embedder_sha256"])
    with pytest.raises(InvalidInput, match="--scope-data"):
        read_scope(None)
    with pytest.raises(InvalidInput, match="write it anew"):
        read_scope({**part, "rows": "?"})


def test_texts_inside_are_told_from_those_outside_and_the_page_says_so(tmp_path):
    texts = [Text(f"text {n}", n < 60, f"g{n // 2}") for n in range(100)]
    setting, rest = halves(texts, seed=0)
    assert not {one.group for one in setting} & {one.group for one in rest}
    assert all(one.inside for one in setting)
    place = {one.text: n for n, one in enumerate(texts)}
    all_vectors = np.vstack([vectors(60, seed=4), vectors(40, seed=5, away=1.0)])

    def of(chosen):
        return all_vectors[[place[one.text] for one in chosen]]

    space, threshold = fitted(vectors(40, seed=1), of(setting), embedder_sha256=EMBEDDER)
    report = measure(rest, of(rest), space, threshold, name="texts", about={"measured": "today"}, seed=0)
    assert report.auroc.value > 0.9 > report.auroc_of_length.value
    assert report.inside_accepted.value > 0.8
    assert report.num_inside + report.num_outside == len(rest)
    page = write(report, tmp_path).read_text()
    assert "<svg" in page
    assert json.loads((tmp_path / "scope.json").read_text())["num_outside"] == 40
    assert table(report).row_count == 5


def test_a_faulty_text_is_named(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a", "label": "in"}\n{"text": "b", "label": "maybe"}\n')
    with pytest.raises(InvalidInput, match="line 2"):
        read(path)
    path.write_text('{"text": "a", "label": "in"}\n')
    with pytest.raises(InvalidInput, match="both labels"):
        read(path)


def test_a_row_that_was_written_is_read(tmp_path):
    row = Row("q", "g", {"mean_logprob": -0.5}, correct=True, abstained=True, evidence_correct=False)
    assert labelled.read(write_rows([row], tmp_path / "r.jsonl")).rows == (row,)
