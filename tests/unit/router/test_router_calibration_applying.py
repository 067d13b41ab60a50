"""The router's confidence is the fitted one, rises and falls as it should, and is withheld where it means nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.calibration.calibrating import Wish, calibrate
from evaluation.calibration.scope import fit_scope, knn, mahalanobis
from services.router.calibration import Calibration, Scope, own_weight, parse
from services.router.domain import Lineage, QueryVector
from services.router.domain.calibration import Blend, Features
from tests.fakes.calibration import ADAPTER, EMBEDDER, MODEL, answers, document, vectors

LINEAGE = Lineage(model="m", model_sha256=MODEL, adapter="answers", adapter_sha256=ADAPTER)
PLAIN, CURVED = (Calibration(parse(json.dumps(document(wish=Wish(isotonic=curve))))) for curve in (False, True))
FEATURES = Features(mean_logprob=-0.05, min_logprob=-0.2, num_tokens=6.0, scope_distance=0.2)
BLEND = Blend(own_prior=0.6, evidence_intercept=-1.0, evidence_slope=3.0)
figures = st.floats(-1e6, 1e6)
shares = st.floats(0, 1)
both = pytest.mark.parametrize("calibration", [PLAIN, CURVED])


@pytest.mark.parametrize("isotonic", [False, True])
def test_the_confidence_is_that_of_the_fitted_model(isotonic):
    rows = [row for row in answers(seed=8) if not row.abstained]
    fitted = calibrate(answers(), Wish(isotonic=isotonic)).model
    matrix = np.array([[row.features[name] for name in fitted.names] for row in rows])
    calibration = CURVED if isotonic else PLAIN
    found = [calibration.of(Features(**row.features), LINEAGE).confidence for row in rows]
    assert found == pytest.approx(fitted.confidence(matrix), abs=1e-12)


@both
@given(name=st.sampled_from(["mean_logprob", "min_logprob", "num_tokens", "scope_distance"]), low=figures, high=figures)
@settings(deadline=None)
def test_confidence_follows_the_sign_of_each_weight(calibration, name, low, high):
    low, high = sorted((low, high))
    weight = next(feature.weight for feature in calibration.artefact.features if feature.name == name)
    first, second = (calibration.of(replace(FEATURES, **{name: value}), LINEAGE).confidence for value in (low, high))
    assert (first <= second + 1e-12) if weight >= 0 else (first >= second - 1e-12)
    assert 0 <= first <= 1


@both
def test_the_weights_say_what_one_would_expect(calibration):
    weights = {feature.name: feature.weight for feature in calibration.artefact.features}
    assert weights["mean_logprob"] > 0 > weights["scope_distance"]


@given(confidences=st.lists(shares, min_size=2, max_size=2), threshold=shares)
def test_more_confidence_is_never_accepted_less(confidences, threshold):
    calibration = Calibration(replace(PLAIN.artefact, threshold=threshold, features=(), intercept=0.0))
    low, high = sorted(confidences)
    accepted = []
    for value in (low, high):
        score = math.log(max(value, 1e-9) / max(1 - value, 1e-9))
        one = Calibration(replace(calibration.artefact, intercept=score))
        accepted.append(one.of(FEATURES, LINEAGE).accepted)
    assert accepted[0] <= accepted[1]


@both
def test_beyond_what_was_fitted_confidence_stands_still(calibration):
    bounds = {feature.name: feature for feature in calibration.artefact.features}
    at, beyond = (replace(FEATURES, mean_logprob=value) for value in (bounds["mean_logprob"].high, 1e9))
    assert calibration.of(at, LINEAGE) == calibration.of(beyond, LINEAGE)


def test_a_sure_draft_is_accepted_and_an_unsure_one_is_not():
    sure = PLAIN.of(Features(mean_logprob=-0.001, min_logprob=-0.003, num_tokens=5, scope_distance=0.1), LINEAGE)
    unsure = PLAIN.of(Features(mean_logprob=-1, min_logprob=-3, num_tokens=5, scope_distance=0.6), LINEAGE)
    assert (sure.accepted, unsure.accepted) == (True, False)
    assert ">= threshold" in sure.reason
    assert "< threshold" in unsure.reason
    assert sure.version == PLAIN.artefact.version


def test_without_a_threshold_nothing_is_accepted_and_it_is_said():
    found = Calibration(replace(PLAIN.artefact, threshold=None)).of(FEATURES, LINEAGE)
    assert not found.accepted
    assert found.confidence is not None
    assert found.reason == "no threshold could be certified for a risk of 10.0% at 95%: everything escalates"


@pytest.mark.parametrize(
    ("features", "lineage", "reason"),
    [
        (replace(FEATURES, min_logprob=None), LINEAGE, "needs min_logprob, which is not known"),
        (replace(FEATURES, min_logprob=math.nan), LINEAGE, "min_logprob is not a number"),
        (replace(FEATURES, mean_logprob=math.inf), LINEAGE, "mean_logprob is not a number"),
        (replace(FEATURES, abstained=True), LINEAGE, "the adapter gave no answer"),
        (FEATURES, replace(LINEAGE, adapter_sha256="f" * 64), "of adapter bbbbbbbbbbbb, the answer of ffffffffffff"),
        (FEATURES, replace(LINEAGE, adapter_sha256=""), "the answer of none"),
        (FEATURES, replace(LINEAGE, model_sha256=""), "of model aaaaaaaaaaaa, the answer of an unnamed one"),
    ],
)
def test_confidence_is_withheld_where_it_means_nothing(features, lineage, reason):
    found = PLAIN.of(features, lineage)
    assert (found.confidence, found.accepted) == (None, False)
    assert reason in found.reason


@pytest.mark.parametrize("method", ["knn", "mahalanobis"])
def test_distances_are_those_that_were_fitted(method):
    learnt = vectors(40, seed=1)
    space = knn(learnt) if method == "knn" else mahalanobis(learnt, [f"g{number % 4}" for number in range(40)])
    fitted = fit_scope(space, vectors(60, seed=2), embedder_sha256=EMBEDDER)
    scope = Scope(parse(json.dumps(document(method=method))).scope)
    asked = np.concatenate([vectors(50, seed=6), vectors(50, seed=7, away=1.0)])
    found = [scope.of(QueryVector(tuple(row), EMBEDDER)) for row in asked]
    assert [one.distance for one in found] == pytest.approx(space.distances(asked), rel=1e-4, abs=1e-6)
    assert sum(one.inside for one in found[:50]) > 40
    assert sum(one.inside for one in found[50:]) < 25
    assert scope.model.threshold == pytest.approx(fitted.threshold)


SCOPE = Scope(parse(json.dumps(document())).scope)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=8, max_size=8), st.floats(0.01, 100))
def test_a_distance_does_not_depend_on_the_length_of_the_vector(values, factor):
    first = SCOPE.of(QueryVector(values, EMBEDDER))
    second = SCOPE.of(QueryVector([value * factor for value in values], EMBEDDER))
    if first.distance is not None and second.distance is not None:
        assert first.distance == pytest.approx(second.distance, abs=1e-4)
        assert -1e-6 <= first.distance <= 2 + 1e-6


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (QueryVector([1.0] * 8, "e" * 64), "fitted with embedder dddddddddddd, the question embedded by eeeeeeeeeeee"),
        (QueryVector([1.0] * 8), "by an unnamed one"),
        (QueryVector([1.0] * 7, EMBEDDER), "has 8 dimensions, the embedding 7"),
        (QueryVector([0.0] * 8, EMBEDDER), "no direction"),
        (QueryVector([math.nan] * 8, EMBEDDER), "no direction"),
    ],
)
def test_vectors_that_cannot_be_compared_are_told(vector, reason):
    found = SCOPE.of(vector)
    assert (found.distance, found.inside) == (None, None)
    assert reason in found.reason


def weight(confidence=0.5, distance=0.1, score=0.5):
    return own_weight(BLEND, confidence=confidence, scope=SCOPE.model, scope_distance=distance, top_score=score)


@given(st.lists(shares, min_size=2, max_size=2), shares, shares)
def test_weight_rises_with_confidence_and_falls_with_distance_and_score(pair, second, third):
    low, high = sorted(pair)
    assert 0 <= weight(low, second, third) <= weight(high, second, third) <= 1
    assert weight(second, low, third) >= weight(second, high, third)
    assert weight(second, third, low) >= weight(second, third, high)


def test_weight_by_hand():
    evidence = 1 / (1 + math.exp(1 - 3 * 0.5))
    assert weight(0.8, 0.0, 0.5) == pytest.approx(0.8 / (0.8 + evidence))
    assert weight(None, None, 0.5) == pytest.approx(0.6 / (0.6 + evidence))
    one_width = SCOPE.model.threshold + SCOPE.model.width
    assert weight(0.8, one_width, 0.5) == pytest.approx(0.8 / math.e / (0.8 / math.e + evidence))
    assert weight(0.8, 0.0, None) == 1
    assert weight(0.0, 0.0, 0.5) == 0
    assert weight(0.8, 1e9, 0.5) == 0
    assert weight(0.8, 0.0, math.nan) == weight(0.8, 0.0, 0.0)
