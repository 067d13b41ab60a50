"""Scores answers by what they are for: questions, classes, texts in a style; one value for each example."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem import scoring
from tandem.prompts import ABSTENTION
from tandem.scoring import Interval
from training.examples import Example
from training.recipes.passages import WordIndex

Values = dict[str, list[float]]
"""One value for each example, by metric."""
StyleJudge = Callable[[Sequence[str]], list[float]]
"""Says of each text whether it is in the house style, 0 or 1."""
NO_LABEL = "(no class)"


@dataclass(frozen=True)
class Scored:
    """Is what an arm's answers are worth."""

    values: Values
    intervals: dict[str, Interval]


class Scorer:
    """Scores the answers of one recipe; `primary` is the metric that the verdict rests on."""

    primary: str = ""

    def values(self, answers: Sequence[str], examples: Sequence[Example]) -> Values:
        """Returns the metrics that are means over the examples."""
        raise NotImplementedError

    def score(self, answers: Sequence[str], examples: Sequence[Example], *, seed: int) -> Scored:
        """Returns every metric with its interval, drawn over groups."""
        values = self.values(answers, examples)
        groups = [example.group for example in examples]
        return Scored(values, {n: scoring.mean_interval(v, groups=groups, seed=seed) for n, v in values.items()})


class QuestionScorer(Scorer):
    """Scores short answers; where abstaining is right an abstention counts as exact."""

    primary = "f1"

    def __init__(self, *, threads: Sequence[Example] = ()) -> None:
        known = list(dict.fromkeys((gold, example.group) for example in threads for gold in example.golds))
        self._threads = [group for _, group in known]
        self._index = WordIndex([gold for gold, _ in known])
        if threads:
            self.primary = "thread"

    def values(self, answers: Sequence[str], examples: Sequence[Example]) -> Values:
        """Returns em, f1 and abstained; and thread, where threads were given: the nearest gold is of the example's."""
        pairs = list(zip(answers, examples, strict=True))
        found: Values = {
            "em": [_one(answer, example, scoring.exact_match) for answer, example in pairs],
            "f1": [_one(answer, example, scoring.f1) for answer, example in pairs],
            "abstained": [float(scoring.abstains(answer)) for answer in answers],
        }
        if self._threads:
            found["thread"] = [float(self._nearest(answer) == example.group) for answer, example in pairs]
        return found

    def _nearest(self, answer: str) -> str:
        best = self._index.best(answer, 1) if answer.strip() else []
        return self._threads[best[0]] if best else ""


def _one(answer: str, example: Example, metric: Callable[[str, Sequence[str]], float]) -> float:
    if example.golds == (ABSTENTION,):
        return float(scoring.abstains(answer))
    return 0.0 if scoring.abstains(answer) else metric(answer, example.golds)


class ClassScorer(Scorer):
    """Scores classes; an answer that is no class is wrong."""

    primary = "accuracy"

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = frozenset(classes)
        named: dict[str, list[str]] = {}
        for name in classes:
            named.setdefault(scoring.normalise(name), []).append(name)
        # "C" and "C++" are one word to a scorer of prose: only what one class alone is called is read loosely.
        self._loosely = {key: names[0] for key, names in named.items() if key and len(names) == 1}

    def values(self, answers: Sequence[str], examples: Sequence[Example]) -> Values:
        """Returns accuracy."""
        pairs = zip(answers, examples, strict=True)
        return {"accuracy": [float(self.read(answer) == example.golds[0]) for answer, example in pairs]}

    def score(self, answers: Sequence[str], examples: Sequence[Example], *, seed: int) -> Scored:
        """Returns accuracy and macro-F1."""
        found = super().score(answers, examples, seed=seed)
        rows = [(self.read(answer), example.golds[0]) for answer, example in zip(answers, examples, strict=True)]
        groups = [example.group for example in examples]
        found.intervals["macro_f1"] = scoring.bootstrap(rows, scoring.macro_f1, groups=groups, seed=seed)
        return found

    def read(self, answer: str) -> str:
        """Returns the class that an answer names in its first line, or NO_LABEL."""
        line = answer.strip().splitlines()[0].strip() if answer.strip() else ""
        return line if line in self._classes else self._loosely.get(scoring.normalise(line), NO_LABEL)


class StyleScorer(Scorer):
    """Scores texts by ROUGE-L against the reference and, where there is one, by a judge of the style."""

    primary = "rouge_l"

    def __init__(self, judge: StyleJudge | None = None) -> None:
        self._judge = judge

    def values(self, answers: Sequence[str], examples: Sequence[Example]) -> Values:
        """Returns rouge_l, and in_style where there is a judge."""
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]  # takes a second to import

        scorer = RougeScorer(["rougeL"])
        found: Values = {
            "rouge_l": [
                float(scorer.score(example.golds[0], answer)["rougeL"].fmeasure)
                for answer, example in zip(answers, examples, strict=True)
            ]
        }
        if self._judge is not None:
            found["in_style"] = self._judge(answers)
        return found


class StyleClassifier:
    """Tells texts in the house style from others, by their runs of characters (logistic regression)."""

    def __init__(self, in_style: Sequence[str], others: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

        texts, truth = [*in_style, *others], [1] * len(in_style) + [0] * len(others)
        # Accents, case and words matter less than how sentences begin, end and are laid out.
        vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True, max_features=20_000)
        self._model = make_pipeline(vectors, LogisticRegression(max_iter=1000, class_weight="balanced", random_state=0))
        self.accuracy = self._held_out(texts, truth)
        """Share of its own texts that it tells rightly when it has not seen them (leave one in five out)."""
        self._model.fit(texts, truth)

    def _held_out(self, texts: Sequence[str], truth: Sequence[int]) -> float:
        from sklearn.model_selection import StratifiedKFold, cross_val_score  # type: ignore[import-untyped]

        folds = min(5, truth.count(0), truth.count(1))
        if folds < 2:
            return 0.0
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        return float(cross_val_score(self._model, texts, truth, cv=split).mean())

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Returns 1 for each text in the house style, else 0."""
        return [float(label) for label in self._model.predict(list(texts))] if texts else []


def baselines(recipe: str, examples: Sequence[Example], train: Sequence[Example]) -> dict[str, list[str]]:
    """Returns what costs nothing: the answers of each baseline without a model, by its name."""
    if recipe == "classification":
        counts = Counter(example.answer for example in train)
        most = max(sorted(counts), key=counts.__getitem__)
        return {"most frequent class": [most] * len(examples)}
    asked = [example.messages[-1].content.rpartition("Question: ")[2] for example in examples]
    found = {"echo the brief" if recipe == "style" else "echo the question": asked}
    if recipe == "raft":
        found["always abstain"] = [ABSTENTION] * len(examples)
    return found
