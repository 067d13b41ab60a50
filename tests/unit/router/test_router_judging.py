"""What becomes known of a question and a draft, and what a domain's artefact makes of it."""

import math
from dataclasses import replace

import pytest

from services.router.domain import Draft, QueryVector, Route
from services.router.domain.calibration import Blend, Features
from services.router.engine.judging import EVEN, Judges, Knowledge, mean_probability
from tests.fakes.router import DOMAIN, EMBEDDER_SHA256, PASSAGES
from tests.fakes.router_calibration import FAR, NEAR, artefact_of
from tests.fakes.router_paths import reading, silent, weights

SCORED = tuple(replace(one, dense_score=score) for one, score in zip(PASSAGES, (0.6, 0.9), strict=True))


def knowledge(*features: str, threshold: float | None = 0.7, blend: Blend | None = None) -> Knowledge:
    artefact = artefact_of(threshold=threshold, features=features, blend=blend)
    return Knowledge(replace(DOMAIN, artefact=artefact), Judges())


def vector(values: tuple[float, float]) -> QueryVector:
    return QueryVector(values, EMBEDDER_SHA256)


def test_without_an_artefact_the_mean_token_probability_is_compared():
    known = Knowledge(DOMAIN, Judges())
    found = known.judge(weights(0.75))
    assert (found.confidence, found.accepted, found.version) == (0.75, True, "")
    assert found.reason == "confidence 0.750 (uncalibrated) >= threshold 0.750"
    assert not known.judge(weights(0.749)).accepted
    assert not known.judge(silent(weights(1.0))).accepted
    assert not known.judge(replace(weights(), confidence=None)).accepted


def test_an_artefact_calibrates_by_all_that_is_known():
    known = knowledge("mean_logprob", "scope_distance")
    draft = replace(weights(), signals=Features(mean_logprob=-0.5))
    assert "needs scope_distance" in known.judge(draft).reason
    known.embedded(vector(NEAR))
    found = known.judge(draft)
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert (found.accepted, found.version) == (False, "af" * 32)
    assert not known.judge(silent(draft)).accepted


def test_a_draft_of_other_weights_is_not_accepted():
    other = replace(weights(), lineage=None)
    assert "calibrate anew" in knowledge().judge(other).reason


def test_what_is_known_goes_with_the_draft():
    known = knowledge()
    known.embedded(vector(FAR))
    known.found(SCORED)
    draft = weights(text="EUR 500")
    assert known.features(draft).agreement is None
    known.wrote(draft)
    known.wrote(reading(text="The excess is EUR 500."))
    found = known.features(draft)
    assert (found.scope_distance, found.top_score) == (1.0, 0.9)
    assert found.score_gap == pytest.approx(0.3)
    assert found.agreement == pytest.approx(2 / 3, abs=0.01)
    assert known.scope is not None
    assert known.scope.inside is False


def test_passages_without_a_dense_score_tell_no_score():
    known = knowledge()
    known.found(PASSAGES)
    assert (known.features(weights()).top_score, known.features(weights()).score_gap) == (None, None)
    assert known.weight(PASSAGES) == EVEN


def test_a_domain_without_a_scope_measures_none():
    known = Knowledge(DOMAIN, Judges())
    known.embedded(vector(NEAR))
    assert known.scope is None
    assert not known.has_scope


def test_the_weight_follows_the_artefact_and_falls_outside_the_scope():
    inside, outside = (knowledge(blend=Blend(own_prior=0.8, evidence_intercept=0.0, evidence_slope=0.0)) for _ in "ab")
    for known, at in ((inside, NEAR), (outside, FAR)):
        known.embedded(vector(at))
        known.found(SCORED)
    assert inside.weight(SCORED) == pytest.approx(0.8 / 1.3)
    assert outside.weight(SCORED) < 0.01
    guessed = Knowledge(DOMAIN, Judges())
    guessed.found(SCORED)
    assert 0.02 < guessed.weight(SCORED) < 0.5


def test_what_applies_artefacts_is_built_once_and_held_within_bounds():
    judges = Judges(max_held=2)
    first, second, third = (artefact_of(threshold=0.5, version=str(number)) for number in range(3))
    held = judges.scope(first)
    assert judges.scope(first) is held
    judges.calibration(second)
    judges.scope(first)
    judges.calibration(third)
    assert judges.scope(first) is held
    assert len(judges._held) == 2


@pytest.mark.parametrize(("logprob", "value"), [(0.0, 1.0), (-math.inf, 0.0), (math.nan, 0.0), (0.1, 1.0)])
def test_a_mean_token_probability_is_always_a_share(logprob: float, value: float):
    assert mean_probability(logprob).value == value
    assert Draft(route=Route.NONE, text="").confidence is None
