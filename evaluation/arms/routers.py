"""Arms that are computed from the answers of the two pure paths, without asking again.

A router is the share, for each question, of the fine-tuned path: 1 takes its answer, 0 that from passages.
"""

from collections.abc import Sequence

import numpy as np

from evaluation.answers.questions import Question

RANDOM, SOURCE, ORACLE = "random router", "source-only router", "oracle router"
COMPUTED = (RANDOM, SOURCE, ORACLE)
_NUM_FOLDS = 5


def at_random(num: int) -> list[float]:
    """Returns the shares of a router that throws a coin: the mean of both paths, which no draw makes luckier."""
    return [0.5] * num


def oracle(own: Sequence[float], evidence: Sequence[float], prices: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the shares of a router that knows which answer is better; of equals it takes the cheaper."""
    rows = zip(own, evidence, prices, strict=True)
    return [float(mine > theirs or (mine == theirs and price[0] <= price[1])) for mine, theirs, price in rows]


def by_source(
    questions: Sequence[Question], own: Sequence[float], evidence: Sequence[float], *, seed: int
) -> list[float]:
    """Returns the shares of a router that sees nothing but the source of a question.

    It takes the path that is better on the questions of the source in the other folds (whole groups are in a fold); of
    all other questions where a source has none there.
    """
    groups = sorted({one.group for one in questions})
    places = np.random.default_rng(seed).permutation(len(groups)) % _NUM_FOLDS
    fold = dict(zip(groups, places.tolist(), strict=True))
    gains = [mine - theirs for mine, theirs in zip(own, evidence, strict=True)]
    found = []
    for question in questions:
        others = [
            (gain, one.source)
            for gain, one in zip(gains, questions, strict=True)
            if fold[one.group] != fold[question.group]
        ]
        alike = [gain for gain, source in others if source == question.source]
        found.append(float(sum(alike or [gain for gain, _ in others]) > 0))
    return found
