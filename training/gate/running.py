"""Runs all arms on the test split and puts together what is known about a candidate.

The arms are baselines without a model, the base model with its best prompt,
the candidate, and what is in use; each without and with passages, where the
dataset has both. All arms answer the same questions.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from tandem.scoring import mean, paired_interval
from training.examples import Dataset, Example
from training.gate import prompting, scores
from training.gate.answering import Answerer
from training.gate.evaluation import Arm, Evaluation, EvaluationInvalid
from training.gate.forms import forms_of, own_suffix, sample
from training.gate.verdict import GateSettings, decide

Open = Callable[[], Answerer]
OnProgress = Callable[[str, int, int], None]


def evaluate(
    dataset: Dataset,
    *,
    base: Open,
    candidate: Open,
    incumbent: Open | None = None,
    settings: GateSettings | None = None,
    about: Mapping[str, Any] | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Evaluation:
    """Measures the candidate against the base model and what is in use, and decides.

    Each model is opened when it is its turn, and only one is held at a time. Raises EvaluationInvalid where the test
    split is empty.
    """
    settings = settings or GateSettings()
    run = _Run(dataset, settings, on_progress)
    started = time.monotonic()
    run.base(base())
    run.baselines()
    run.tuned("fine-tuned", candidate())
    if incumbent is not None:
        run.tuned("incumbent", incumbent())
    return run.conclude(minutes=(time.monotonic() - started) / 60, about=dict(about or {}))


class _Run:
    def __init__(self, dataset: Dataset, settings: GateSettings, on_progress: OnProgress) -> None:
        if not dataset.test:
            raise EvaluationInvalid(f"{dataset.folder} has no test split; prepare it again with --test-share above 0")
        self._dataset, self._settings, self._on_progress = dataset, settings, on_progress
        self._recipe = dataset.recipe
        self._forms = forms_of(dataset, settings)
        self._arms: dict[str, Arm] = {}
        self._perplexity: dict[str, float] = {}
        self._notes: list[str] = []
        self._max_tokens = 0
        threads = (*dataset.train, *dataset.test) if settings.threads else ()
        self._scorer: scores.Scorer = scores.QuestionScorer(threads=threads)
        if self._recipe == "classification":
            self._scorer = scores.ClassScorer(sorted({example.answer for example in dataset.train}))
        elif self._recipe == "style":
            self._scorer = scores.StyleScorer()

    def baselines(self) -> None:
        """Measures what needs no model; comes after the base model, from which the judge of a style learns."""
        own = self._forms[own_suffix(self._recipe)]
        for name, answers in scores.baselines(self._recipe, own["test"], self._dataset.train).items():
            self._arms[name] = self._scored("no model", answers, own["test"])

    def base(self, answerer: Answerer) -> None:
        """Finds the base model's best prompt for each form and measures it."""
        longest = sorted(answerer.num_tokens(example.answer) for example in self._dataset.train)
        self._max_tokens = min(256, max(32, longest[int(0.98 * (len(longest) - 1))] + 8))
        if self._recipe == "style":
            self._train_judge(answerer)
        for suffix, splits in self._forms.items():
            best = self._best_prompt(answerer, suffix, splits)
            self._measure(f"base{suffix}", answerer, best, splits["test"])
        self._read_general("base", answerer)

    def tuned(self, name: str, answerer: Answerer) -> None:
        """Measures a trained model with the prompt that it was trained on."""
        for suffix, splits in self._forms.items():
            self._measure(f"{name}{suffix}", answerer, prompting.as_trained(), splits["test"])
        self._read_general(name, answerer)

    def conclude(self, *, minutes: float, about: dict[str, Any]) -> Evaluation:
        """Compares the arms and decides."""
        suffix = own_suffix(self._recipe)
        chosen, metric = f"fine-tuned{suffix}", self._scorer.primary
        tests = self._forms[suffix]["test"]
        groups = [example.group for example in tests]
        values = self._arms[chosen].values[metric]
        gains = {
            name: paired_interval(values, arm.values[metric], groups=groups, seed=self._settings.seed)
            for name, arm in self._arms.items()
            if name != chosen
        }
        required = [f"{name}{suffix}" for name in ("incumbent", "base") if f"{name}{suffix}" in self._arms]
        required += [name for name, arm in self._arms.items() if arm.prompt == "no model"]
        forgetting = self._perplexity["fine-tuned"] / self._perplexity["base"]
        verdict = decide(
            metric=metric,
            num_questions=len(tests),
            num_groups=len(set(groups)),
            gains=gains,
            required=required,
            forgetting=forgetting,
            settings=self._settings,
        )
        return Evaluation(
            recipe=self._recipe,
            metric=metric,
            candidate=chosen,
            num_questions=len(tests),
            num_groups=len(set(groups)),
            arms=self._arms,
            gains=gains,
            perplexity={name: value if math.isfinite(value) else None for name, value in self._perplexity.items()},
            forgetting=forgetting if math.isfinite(forgetting) else None,
            notes=tuple(self._notes),
            settings=self._settings,
            verdict=verdict,
            minutes=round(minutes, 2),
            questions=tuple((example.id, example.golds) for example in tests),
            about=about,
        )

    def _train_judge(self, answerer: Answerer) -> None:
        held = self._dataset.validation
        if len(held) < 4:
            self._notes.append("fewer than 4 validation texts: no classifier of the style was trained")
            return
        said = self._ask("base, for the style classifier", answerer, prompting.as_trained(), held)
        judge = scores.StyleClassifier([e.answer for e in held], [text or "-" for text in said])
        self._scorer = scores.StyleScorer(judge)
        self._notes.append(
            f"the style classifier was trained on {len(held)} validation texts and as many of the base model, and "
            f"tells {judge.accuracy:.0%} of them rightly when it has not seen them"
        )

    def _best_prompt(
        self, answerer: Answerer, suffix: str, splits: Mapping[str, Sequence[Example]]
    ) -> prompting.Candidate:
        form = "raft" if suffix else "closed-book" if self._recipe in ("closed-book", "raft") else self._recipe
        shots = prompting.chosen_shots(splits["train"])
        trials = [e for e in splits["validation"] or splits["train"] if e not in shots]
        trials = sample(trials, self._settings.max_prompt_trials, self._settings.seed)
        found = prompting.candidates(form, shots)
        if not trials:
            self._notes.append(f"no question to try prompts on: base{suffix} was asked as trained")
            return found[0]
        if not splits["validation"]:
            self._notes.append(f"no validation split: the prompt of base{suffix} was chosen on the train split")
        means = []
        for candidate in found:
            said = self._ask(f"base{suffix}, {candidate.name}", answerer, candidate, trials)
            means.append(mean(self._scorer.values(said, trials)[self._scorer.primary]))
        told = ", ".join(f"{c.name} {value:.3f}" for c, value in zip(found, means, strict=True))
        self._notes.append(f"prompts of base{suffix} on {len(trials)} validation questions: {told}")
        return found[means.index(max(means))]

    def _measure(
        self, name: str, answerer: Answerer, candidate: prompting.Candidate, examples: Sequence[Example]
    ) -> None:
        answers = self._ask(name, answerer, candidate, examples)
        self._arms[name] = self._scored(candidate.name, answers, examples)

    def _ask(
        self, what: str, answerer: Answerer, candidate: prompting.Candidate, examples: Sequence[Example]
    ) -> list[str]:
        self._on_progress(what, 0, len(examples))
        return answerer.answers(
            [candidate.render(example.messages) for example in examples],
            max_tokens=self._max_tokens,
            on_batch=lambda done: self._on_progress(what, done, len(examples)),
        )

    def _scored(self, prompt: str, answers: list[str], examples: Sequence[Example]) -> Arm:
        found = self._scorer.score(answers, examples, seed=self._settings.seed)
        by_kind: dict[str, dict[str, float]] = {}
        for kind in sorted({example.kind for example in examples}):
            places = [place for place, example in enumerate(examples) if example.kind == kind]
            row = {name: round(mean([values[place] for place in places]), 4) for name, values in found.values.items()}
            by_kind[kind] = {**row, "count": len(places)}
        return Arm(prompt=prompt, metrics=found.intervals, by_kind=by_kind, values=found.values, answers=list(answers))

    def _read_general(self, name: str, answerer: Answerer) -> None:
        texts = general_texts()
        self._on_progress(f"{name}, general text", 0, 1)
        self._perplexity[name] = answerer.perplexity(texts)
        self._on_progress(f"{name}, general text", 1, 1)


def general_texts() -> list[str]:
    """Returns the paragraphs on which forgetting is measured: prose of our own about nothing in particular."""
    return files("training.gate").joinpath("general.txt").read_text(encoding="utf-8").strip().split("\n\n")
