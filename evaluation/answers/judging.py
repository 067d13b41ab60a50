"""Says how good an answer is, by the words of the right ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.answers.answered import Answered
from evaluation.answers.questions import NEAREST, Question
from tandem.scoring import abstains, exact_match, f1

MIN_F1 = 0.6


@dataclass(frozen=True)
class Worth:
    """Is how good one answer is; each 0 or 1, but f1, which is 0 to 1."""

    right: float
    em: float
    f1: float
    abstained: float


class Rule:
    """Judges answers: right is exact match, or token F1 of at least `min_f1`; an abstention where that is right.

    A question that says "nearest" is judged by which group's answers the words of the answer are nearest to: cosine of
    TF-IDF vectors (Salton and Buckley 1988) over all answers of such questions.
    """

    def __init__(self, questions: Sequence[Question] = (), *, min_f1: float = MIN_F1) -> None:
        self.min_f1 = min_f1
        pairs = dict.fromkeys((text, one.group) for one in questions if one.match == NEAREST for text in one.answers)
        self._groups = [group for _, group in pairs]
        if pairs:
            from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # takes a second

            self._words = TfidfVectorizer(sublinear_tf=True)
            self._known = self._words.fit_transform([text for text, _ in pairs])

    @property
    def metric(self) -> str:
        """Is the rule in a few words."""
        nearest = ", or nearest to the group's answers" if self._groups else ""
        return f"exact match or F1 >= {self.min_f1:g}{nearest}"

    def worth(self, question: Question, answer: Answered) -> Worth:
        """Returns what an answer is worth; a refusal is worth nothing."""
        if answer.error:
            return Worth(0.0, 0.0, 0.0, 0.0)
        silent = answer.abstained or abstains(answer.text)
        if not question.answers or silent:
            right = float(silent and not question.answers)
            return Worth(right, right, right, float(silent))
        same, close = exact_match(answer.text, question.answers), f1(answer.text, question.answers)
        right = float(bool(same) or close >= self.min_f1)
        if question.match == NEAREST:
            right = float(self._nearest(answer.text) == question.group)
        return Worth(right, same, close, 0.0)

    def _nearest(self, text: str) -> str | None:
        """Returns the group whose answer is nearest; None where no word is shared, or another group's is as near."""
        scores = (self._known @ self._words.transform([text]).T).toarray().ravel()
        best = float(scores.max())
        groups = {group for group, score in zip(self._groups, scores, strict=True) if score >= best - 1e-12}
        return groups.pop() if best > 0 and len(groups) == 1 else None
