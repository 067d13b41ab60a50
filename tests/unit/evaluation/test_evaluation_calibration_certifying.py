"""The certified threshold keeps its promise over random draws, and simpler ways to choose one do not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from evaluation.calibration.certifying import (
    Judged,
    certify,
    hoeffding_bentkus,
    judged,
    sequence,
    upper_bound,
)

RISK, DELTA, NUM_DRAWS = 0.1, 0.05, 1000
shares = st.floats(0.02, 0.5)


class Population:
    """Is what questions are drawn from; the risk of a threshold in it is known exactly."""

    def __init__(self, confidence, wrong, groups):
        self.confidence, self.wrong, self.groups = confidence, wrong, groups
        self.members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
        self._risks = {}

    def risk(self, threshold):
        """Returns the mean, over the groups with an accepted answer, of the share of wrong ones among these."""
        if threshold not in self._risks:
            taken = self.confidence >= threshold
            num = np.bincount(self.groups[taken], minlength=len(self.members))
            bad = np.bincount(self.groups[taken & self.wrong], minlength=len(self.members))
            self._risks[threshold] = float((bad[num > 0] / num[num > 0]).mean()) if taken.any() else 0.0
        return self._risks[threshold]

    def draw(self, random, num_groups):
        """Draws whole groups with replacement, each time as another group."""
        drawn = [self.members[place] for place in random.integers(len(self.members), size=num_groups)]
        rows = np.concatenate(drawn)
        groups = np.repeat(np.arange(num_groups), [len(one) for one in drawn])
        return Judged(np.floor(self.confidence[rows] * 1e6) / 1e6, self.wrong[rows], groups)


def chance_of_error(confidence):
    """One in a hundred above 0.4, more and more below: what may be accepted ends near 0.2."""
    return np.interp(confidence, [0.0, 0.4], [0.8, 0.01])


def single(random, num=20_000):
    confidence = np.floor(random.random(num) * 1e6) / 1e6
    wrong = random.random(num) < chance_of_error(confidence)
    return Population(confidence, wrong, np.arange(num))


def flat(random, num=50_000):
    """A confidence that says nothing, and a risk just above the stated one: every certificate is false."""
    confidence = np.floor(random.random(num) * 1e6) / 1e6
    return Population(confidence, random.random(num) < RISK + 0.004, np.arange(num))


def grouped(random, num=5_000, size=6):
    """Each group's answers are all right or all wrong, but for a few."""
    level = random.random(num)
    bad = random.random(num) < chance_of_error(level)
    groups = np.repeat(np.arange(num), size)
    confidence = np.clip(np.floor((level[groups] + random.normal(0, 0.02, num * size)) * 1e6) / 1e6, 0, 1)
    return Population(confidence, bad[groups] ^ (random.random(num * size) < 0.01), groups)


def by_test(fitted, answers):
    order = sequence(fitted, len(np.unique(answers.groups)), risk=RISK)
    return certify(answers, order, risk=RISK, delta=DELTA).threshold


def naive(fitted, answers):
    """Takes the laxest threshold whose measured risk is low enough."""
    order = sequence(fitted, len(np.unique(answers.groups)), risk=RISK)
    *_, losses = answers.at(order)
    fine = order[losses <= RISK]
    return float(fine[-1]) if len(fine) else None


def any_that_passes(fitted, answers):
    """Tests every threshold by itself, as if only one were tested, and takes the laxest that passes."""
    levels = np.quantile(answers.confidence, np.linspace(0.0, 0.95, 39))
    passed = [at for at in levels if certify(answers, np.array([at]), risk=RISK, delta=DELTA).threshold is not None]
    return float(min(passed)) if passed else None


def deaf_to_groups(fitted, answers):
    alone = Judged(answers.confidence, answers.wrong, np.arange(len(answers.wrong)))
    return by_test(Judged(fitted.confidence, fitted.wrong, np.arange(len(fitted.wrong))), alone)


def exceeding(population, choose, *, num_fitting, num_certifying):
    """Returns how often the population's risk at the chosen threshold exceeds the stated one, and how often none is."""
    random = np.random.default_rng(11)
    exceeded = none = 0
    for _ in range(NUM_DRAWS):
        threshold = choose(population.draw(random, num_fitting), population.draw(random, num_certifying))
        none += threshold is None
        exceeded += threshold is not None and population.risk(threshold) > RISK
    return exceeded, none


def most_allowed():
    """Returns the count that a share of DELTA exceeds once in a thousand."""
    return int(binom.ppf(0.999, NUM_DRAWS, DELTA))


def test_the_guarantee_holds_over_random_draws():
    population = single(np.random.default_rng(3))
    exceeded, none = exceeding(population, by_test, num_fitting=120, num_certifying=180)
    print(f"exceeded {exceeded} of {NUM_DRAWS}, none certified {none}, allowed {most_allowed()}")
    assert exceeded <= most_allowed()
    assert none < NUM_DRAWS / 2, "a test that certifies nothing shows nothing"


def test_the_guarantee_holds_where_every_certificate_is_false():
    population = flat(np.random.default_rng(7))
    exceeded, none = exceeding(population, by_test, num_fitting=120, num_certifying=180)
    print(f"flat: exceeded {exceeded} of {NUM_DRAWS}, none certified {none}, allowed {most_allowed()}")
    assert exceeded <= most_allowed()
    without_order, _ = exceeding(population, any_that_passes, num_fitting=120, num_certifying=180)
    print(f"flat, without an order: exceeded {without_order} of {NUM_DRAWS}")
    assert without_order > exceeded


def test_a_naive_threshold_breaks_the_guarantee():
    population = single(np.random.default_rng(3))
    exceeded, _ = exceeding(population, naive, num_fitting=120, num_certifying=180)
    print(f"naive: exceeded {exceeded} of {NUM_DRAWS}")
    assert exceeded > 5 * most_allowed()


def test_the_guarantee_holds_for_groups_of_questions():
    population = grouped(np.random.default_rng(5))
    exceeded, none = exceeding(population, by_test, num_fitting=80, num_certifying=150)
    print(f"groups: exceeded {exceeded} of {NUM_DRAWS}, none certified {none}")
    assert exceeded <= most_allowed()
    assert none < NUM_DRAWS / 2


def test_counting_grouped_questions_singly_breaks_it():
    population = grouped(np.random.default_rng(5))
    exceeded, _ = exceeding(population, deaf_to_groups, num_fitting=80, num_certifying=150)
    print(f"deaf to groups: exceeded {exceeded} of {NUM_DRAWS}")
    assert exceeded > 2 * most_allowed()


@given(num=st.integers(1, 400), risk=shares, delta=st.floats(0.005, 0.3))
def test_a_p_value_is_low_no_more_often_than_it_says(num, risk, delta):
    """Exactly, for losses of 0 and 1 at the very border: p-values of at most delta have at most that chance."""
    wrong = np.arange(num + 1)
    low = hoeffding_bentkus(wrong / num, num, risk) <= delta
    assert binom.pmf(wrong[low], num, risk).sum() <= delta + 1e-12


@given(num=st.integers(1, 400), risk=shares, first=st.floats(0, 1), second=st.floats(0, 1))
def test_more_loss_is_never_better_evidence(num, risk, first, second):
    low, high = sorted((first, second))
    assert hoeffding_bentkus(low, num, risk) <= hoeffding_bentkus(high, num, risk) + 1e-12


@given(num=st.integers(1, 400), loss=st.floats(0, 1), first=shares, second=shares)
def test_a_laxer_risk_is_never_harder_to_certify(num, loss, first, second):
    low, high = sorted((first, second))
    assert hoeffding_bentkus(loss, num, high) <= hoeffding_bentkus(loss, num, low) + 1e-12


def test_p_values_by_hand():
    # No wrong answer: (1 - a)^n is below e (1 - a)^n. n = 29 is the first with 0.9^n <= 0.05.
    assert float(hoeffding_bentkus(0.0, 28, 0.1)) == pytest.approx(0.9**28)
    assert float(hoeffding_bentkus(0.0, 29, 0.1)) <= 0.05 < float(hoeffding_bentkus(0.0, 28, 0.1))
    divergence = 0.05 * math.log(0.5) + 0.95 * math.log(0.95 / 0.9)
    expected = min(math.exp(-100 * divergence), math.e * float(binom.cdf(5, 100, 0.1)))
    assert float(hoeffding_bentkus(0.05, 100, 0.1)) == pytest.approx(expected)
    assert float(hoeffding_bentkus(0.0, 0, 0.1)) == 1.0
    assert float(hoeffding_bentkus(1.0, 50, 0.1)) == 1.0


def test_the_upper_bound_is_where_the_p_value_meets_delta():
    bound = upper_bound(0.05, 100, 0.025)
    assert float(hoeffding_bentkus(0.05, 100, bound)) == pytest.approx(0.025, abs=1e-6)
    assert upper_bound(0.0, 29, 0.05) < 0.1 < upper_bound(0.0, 28, 0.05)
    assert upper_bound(1.0, 40, 0.025) == 1.0


def test_testing_ends_at_the_first_failure():
    # 40 sure answers right, then 40 wrong, then 400 right: the laxest threshold alone would pass again at 480.
    confidence = np.concatenate([np.full(40, 0.9), np.full(40, 0.5), np.full(400, 0.1)])
    wrong = np.concatenate([np.zeros(40), np.ones(40), np.zeros(400)]).astype(bool)
    answers = judged(confidence, wrong, [str(number) for number in range(480)])
    found = certify(answers, np.array([0.9, 0.5, 0.1]), risk=0.2, delta=0.05)
    assert [step.certified for step in found.steps] == [True, False]
    assert found.threshold == 0.9
    assert certify(answers, np.array([0.1]), risk=0.2, delta=0.05).threshold == 0.1


def test_nothing_to_accept_certifies_nothing():
    nobody = judged(np.empty(0), np.empty(0, dtype=bool), [])
    assert len(sequence(nobody, 10, risk=0.1)) == 0
    assert certify(nobody, np.empty(0), risk=0.1, delta=0.05).threshold is None
    assert certify(nobody, np.array([0.5]), risk=0.1, delta=0.05).threshold is None
    answers = judged(np.array([0.2]), np.array([False]), ["a"])
    assert certify(answers, np.array([0.9]), risk=0.1, delta=0.05).threshold is None


def test_a_group_counts_once():
    answers = judged(np.full(5, 0.9), np.array([True, True, True, True, False]), ["a", "a", "a", "a", "b"])
    accepted, wrong, groups, losses = answers.at(np.array([0.5]))
    assert (accepted[0], wrong[0], groups[0], losses[0]) == (5, 4, 2, 0.5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_the_sequence_runs_from_strict_to_lax(seed):
    random = np.random.default_rng(seed)
    drawn = single(random, 200).draw(random, 120)
    order = sequence(drawn, 180, risk=0.1)
    assert len(order)
    assert (np.diff(order) < 0).all()
    assert order[-1] <= drawn.confidence.min()
