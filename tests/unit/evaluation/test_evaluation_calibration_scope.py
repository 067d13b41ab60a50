"""Distances to what an adapter learnt, and the threshold of the scope."""

import base64

import numpy as np
import pytest

from evaluation.calibration.scope import fit_scope, knn, mahalanobis, outside_auroc
from tandem.errors import InvalidInput
from tests.fakes.calibration import EMBEDDER, vectors


def test_knn_is_the_mean_cosine_distance_of_the_nearest():
    space = knn([[2, 0], [0, 3], [-1, 0]], neighbours=2)
    assert space.distances([[5, 0]])[0] == pytest.approx((0 + 1) / 2)
    assert space.distances([[1, 1]])[0] == pytest.approx(1 - 2**-0.5)


def test_mahalanobis_is_the_distance_to_the_nearest_mean_under_one_covariance():
    learnt, groups = vectors(60, seed=4), ["a", "b", "c"] * 20
    space = mahalanobis(learnt, groups)
    units = vectors(5, seed=5)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    direct = [min(np.sqrt((unit - mean) @ space.precision @ (unit - mean)) for mean in space.rows) for unit in units]
    assert space.distances(units) == pytest.approx(direct)
    assert space.rows.shape == (3, 8)
    assert mahalanobis(learnt).rows.shape == (1, 8)


@pytest.mark.parametrize("space", [knn(vectors(80, seed=1)), mahalanobis(vectors(80, seed=1))])
def test_what_lies_elsewhere_is_outside(space):
    fitted = fit_scope(space, vectors(200, seed=2), embedder_sha256=EMBEDDER, outside=vectors(100, seed=3, away=1.0))
    assert (space.distances(vectors(1000, seed=9)) <= fitted.threshold).mean() == pytest.approx(0.95, abs=0.04)
    assert fitted.auroc is not None
    assert fitted.auroc.value > 0.9
    assert fitted.auroc.low < fitted.auroc.value < fitted.auroc.high
    assert fitted.width > 0


def test_the_threshold_is_a_conformal_quantile():
    space = knn([[1, 0]], neighbours=1)
    angles = np.linspace(0.01, 0.99, 99)
    inside = np.stack([1 - angles, np.sqrt(1 - (1 - angles) ** 2)], axis=1)
    fitted = fit_scope(space, inside, embedder_sha256=EMBEDDER)
    assert fitted.threshold == pytest.approx(0.95)  # ceil(100 * 0.95) = 95th of 99
    assert fit_scope(space, inside[:20], embedder_sha256=EMBEDDER, accepted=1.0).threshold == pytest.approx(0.2)
    assert fitted.auroc is None


def test_the_threshold_keeps_its_share_over_random_draws():
    space = knn(vectors(60, seed=1))
    kept = [
        fit_scope(space, vectors(50, seed=seed), embedder_sha256=EMBEDDER).threshold >= distance
        for seed, distance in enumerate(space.distances(vectors(300, seed=5000)), 100)
    ]
    assert np.mean(kept) >= 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5


def test_what_cannot_be_fitted_is_told():
    space = knn(vectors(10))
    with pytest.raises(InvalidInput, match="7 more are needed"):
        fit_scope(space, vectors(13), embedder_sha256=EMBEDDER)
    with pytest.raises(InvalidInput, match="neighbours"):
        knn(vectors(2), neighbours=3)
    with pytest.raises(InvalidInput, match="each with a direction"):
        knn([[0.0, 0.0], [1.0, 0.0]], neighbours=1)
    with pytest.raises(InvalidInput, match="each with a direction"):
        space.distances([[float("nan")] * 8])
    with pytest.raises(InvalidInput, match="use knn"):
        mahalanobis(vectors(3), ["a", "b", "c"])


def test_the_document_holds_32_bit_floats():
    learnt = vectors(6)
    found = fit_scope(knn(learnt), vectors(30), embedder_sha256=EMBEDDER).document()
    rows = np.frombuffer(base64.b64decode(found["rows"]), dtype="<f4").reshape(6, 8)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    assert found["precision"] == ""


def test_auroc_of_one_kind_is_none():
    assert outside_auroc([0.1, 0.2], []) is None
