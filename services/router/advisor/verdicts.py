"""What people said of the newest answers that they judged, as the accuracy of each policy."""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

from services.router.domain.advice import Accuracy
from services.router.domain.feedback import Feedback, Verdict

METRIC = "feedback"
_NORMAL = 1.959963984540054
"""The quantile of the normal distribution for 95 % between both ends."""


@dataclass(frozen=True)
class _Judged:
    policy: str
    right: bool


class VerdictWindow:
    """Keeps the newest judged answers by tenant and domain, the domain least recently judged in going first.

    An answer counts once, by the newest verdict on it, whoever gave it. Whether a cascade's answer came from its
    draft or from evidence makes no difference: a path is not told by the questions that a policy chose for it.
    Implements services.router.domain.feedback.FeedbackObserver.
    """

    def __init__(self, *, max_answers: int = 512, max_domains: int = 256, min_answers: int = 30) -> None:
        self._max_answers = max_answers
        self._max_domains = max_domains
        self.min_answers = min_answers
        self._kept: OrderedDict[tuple[str, str], OrderedDict[str, _Judged]] = OrderedDict()

    def note(self, feedback: Feedback) -> None:
        """Keeps a verdict in the place of an earlier one on the same answer."""
        key = (feedback.tenant, feedback.domain)
        if key not in self._kept and len(self._kept) >= self._max_domains:
            self._kept.popitem(last=False)
        answers = self._kept.setdefault(key, OrderedDict())
        self._kept.move_to_end(key)
        answers[feedback.answer_id] = _Judged(feedback.policy, feedback.verdict is Verdict.RIGHT)
        answers.move_to_end(feedback.answer_id)
        if len(answers) > self._max_answers:
            answers.popitem(last=False)

    def counts(self, *, tenant: str, domain: str) -> dict[str, int]:
        """Returns how many judged answers are kept of each policy."""
        return dict(Counter(judged.policy for judged in self._of(tenant, domain).values()))

    def accuracy(self, *, tenant: str, domain: str) -> dict[str, Accuracy]:
        """Returns the share of right answers of each policy of which enough were judged."""
        right = Counter(judged.policy for judged in self._of(tenant, domain).values() if judged.right)
        counts = self.counts(tenant=tenant, domain=domain)
        return {policy: _accuracy(right[policy], num) for policy, num in counts.items() if num >= self.min_answers}

    def _of(self, tenant: str, domain: str) -> OrderedDict[str, _Judged]:
        return self._kept.get((tenant, domain), OrderedDict())


def _accuracy(right: int, num: int) -> Accuracy:
    share = right / num
    low, high = wilson(share, num)
    return Accuracy(share, low, high, num, METRIC)


def wilson(share: float, num: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a share of `num`, 1 or more, both ends 0 to 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), pages 209 to 212: with z the normal quantile, the middle is
    (p + z^2 / 2n) / (1 + z^2 / n), and half the width z * sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    """
    square = _NORMAL**2
    stretch = 1 + square / num
    middle = (share + square / (2 * num)) / stretch
    half = _NORMAL * math.sqrt(share * (1 - share) / num + square / (4 * num**2)) / stretch
    return max(0.0, middle - half), min(1.0, middle + half)
