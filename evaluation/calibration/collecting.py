"""Collects labelled answers from the running services: by the adapter alone, by passages alone, and where they lie."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.answers.answered import Answered, Kept
from evaluation.answers.asking import Job, Progress, Router, ask_all
from evaluation.answers.embedding import embed
from evaluation.answers.judging import Rule
from evaluation.answers.questions import Question
from evaluation.calibration.calibrating import MIN_QUESTIONS
from evaluation.calibration.rows import FEATURES, Row
from evaluation.calibration.scope import MIN_INSIDE, ScopeFit, fit_scope, knn
from tandem.errors import FailedPrecondition, InvalidInput
from tandem.scoring import f1
from tandem.v1 import feedback_service_pb2 as feedback_service
from tandem.v1 import router_service_pb2 as router

OWN, EVIDENCE = "finetuned", "rag"
LATER = ("top_score", "score_gap", "agreement")
"""Features that a cascade does not have when it decides: they come with a search, and with the other path's answer."""
AT_ONCE = tuple(name for name in FEATURES if name not in LATER)
_OF_DRAFT = frozenset(FEATURES) - {"scope_distance", *LATER}


@dataclass(frozen=True)
class Collected:
    """Is what was collected: a row for each question, the scope, whose weights these are, and what to know of it."""

    rows: list[Row]
    scope: ScopeFit | None
    model_sha256: str
    adapter_sha256: str
    notes: list[str] = field(default_factory=list)


async def collect(
    questions: Sequence[Question],
    training: Sequence[str],
    *,
    asking: Router,
    embedder: Any,
    kept: Kept,
    rule: Rule,
    concurrency: int,
    on_progress: Progress,
    seed: int = 0,
) -> Collected:
    """Asks every question by either path and embeds it; `training` are the questions that the adapter learnt.

    Raises InvalidInput where there are too few questions, before anything is asked, and FailedPrecondition where a path
    cannot be asked or the adapter was changed meanwhile.
    """
    if (missing := MIN_QUESTIONS - len(questions)) > 0:
        raise InvalidInput(f"{len(questions)} questions are too few to calibrate; {missing} more are needed")
    jobs = [Job(arm, one, asking.by(arm)) for one in questions for arm in (OWN, EVIDENCE)]
    absent = await ask_all(jobs, kept, concurrency=concurrency, told=_counting("asking", len(jobs), on_progress))
    if absent:
        arm, reason = next(iter(absent.items()))
        raise FailedPrecondition(f"the policy {arm} cannot be asked: {reason}")
    own, evidence = (_of(arm, questions, kept) for arm in (OWN, EVIDENCE))
    model, adapter = weights(list(own.values()))
    notes = [
        f"{len(failed)} questions are left out, for {arm} was refused ({', '.join(sorted(set(failed)))})"
        for arm, answers in ((OWN, own), (EVIDENCE, evidence))
        if (failed := [one.error for one in answers.values() if one.error])
    ]
    usable = [one for one in questions if not own[one.question_id].error and not evidence[one.question_id].error]
    rows = [row_of(one, own[one.question_id], evidence[one.question_id], rule) for one in usable]
    scope = None
    if training:
        texts = [own[one.question_id].rewritten or one.question for one in usable]
        learnt = list(dict.fromkeys(training))
        tell = lambda done: on_progress("embedding", done, len(learnt) + len(texts))  # noqa: E731
        found = await embed(embedder, [*learnt, *texts], tell)
        scope, told = _scope(
            usable, rows, found.vectors[: len(learnt)], found.vectors[len(learnt) :], found.model_sha256, seed
        )
        notes.append(told)
    else:
        notes.append("no scope: name the adapter's training questions with --scope-data to have one")
    return Collected(rows, scope, model, adapter, notes)


def row_of(question: Question, own: Answered, evidence: Answered, rule: Rule) -> Row:
    """Returns what is known of a question's answers, and whether each is right."""
    features = {name: value for name, value in own.signals.items() if name in _OF_DRAFT and math.isfinite(value)}
    if evidence.scores:
        features["top_score"] = evidence.scores[0]
    if len(evidence.scores) > 1:
        features["score_gap"] = evidence.scores[0] - evidence.scores[1]
    if not own.abstained and not evidence.abstained:
        features["agreement"] = f1(own.text, [evidence.text])
    return Row(
        question.question_id,
        question.group,
        features,
        correct=bool(rule.worth(question, own).right),
        abstained=own.abstained,
        evidence_correct=bool(rule.worth(question, evidence).right),
    )


def weights(answers: Sequence[Answered]) -> tuple[str, str]:
    """Returns the SHA-256 of the base model and the adapter that wrote the answers; raises where they are not one."""
    lineages = [one.lineage for one in answers if one.lineage.get("adapter_sha256")]
    found = {(one.get("model_sha256", ""), one["adapter_sha256"]) for one in lineages}
    if len(found) == 1:
        return found.pop()
    if not found:
        raise FailedPrecondition("no answer names the adapter that wrote it; does the domain have an answer_adapter?")
    raise FailedPrecondition(f"{len(found)} versions of the adapter answered; calibrate one: start anew with --fresh")


def cascade_features(rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the features that every answer has and that a cascade has when it decides."""
    given = [row.features.keys() for row in rows if not row.abstained]
    return tuple(name for name in AT_ONCE if given and all(name in known for known in given))


def of_feedback(feedback: Sequence[feedback_service.Feedback], *, names: Sequence[str]) -> tuple[list[Row], int]:
    """Returns rows of the adapter's answers that tell all these features, and how many verdicts were of no use.

    An answer counts once, by the newest verdict on it: the list begins with the newest, as the router gives it.
    """
    rows = []
    newest: dict[str, feedback_service.Feedback] = {}
    for one in feedback:
        newest.setdefault(one.answer_id, one)
    for one in newest.values():
        known = {name.name: float(value) for name, value in one.signals.ListFields()}
        if one.route == router.ROUTE_FINETUNED and known.keys() >= set(names):
            right = one.verdict == feedback_service.VERDICT_RIGHT
            features = {name: known[name] for name in names}
            rows.append(Row(f"feedback {one.answer_id}", f"feedback {one.answer_id}", features, correct=right))
    return rows, len(feedback) - len(rows)


def write_rows(rows: Sequence[Row], path: Path) -> Path:
    """Writes rows as evaluation.calibration.rows reads them; the artefact names the file by its hash."""
    told = [
        {
            "question_id": row.question_id,
            "group": row.group,
            "features": {**row.features, "abstained": row.abstained},
            "correct": row.correct,
            "evidence_correct": row.evidence_correct,
        }
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in told), encoding="utf-8")
    return path


def _of(arm: str, questions: Sequence[Question], kept: Kept) -> dict[str, Answered]:
    return {one.question_id: kept.of(arm, one) for one in questions}


def _scope(
    questions: Sequence[Question], rows: Sequence[Row], learnt: Any, vectors: Any, model: str, seed: int
) -> tuple[ScopeFit | None, str]:
    """Fits the scope, gives every row its distance, and says how.

    Inside are the static questions that have an answer; where no question says what it is, those that the adapter got
    right.
    """
    labelled = any(one.kind for one in questions)
    inside = [
        place
        for place, (one, row) in enumerate(zip(questions, rows, strict=True))
        if (one.kind == "static" and one.answers if labelled else row.correct)
    ]
    which = "the static ones" if labelled else "those that the adapter got right"
    if len(inside) < MIN_INSIDE:
        return None, f"no scope: {len(inside)} questions lie inside it ({which}), {MIN_INSIDE} are needed"
    outside = sorted(set(range(len(rows))) - set(inside))
    space = knn(learnt, neighbours=min(3, len(learnt)))
    groups = [questions[place].group for place in inside]
    fitted = fit_scope(
        space,
        vectors[inside],
        embedder_sha256=model,
        outside=vectors[outside] if outside else None,
        inside_groups=groups,
        seed=seed,
    )
    for row, distance in zip(rows, space.distances(vectors), strict=True):
        row.features["scope_distance"] = float(distance)
    return fitted, f"scope: {len(learnt)} training questions; {len(inside)} questions lie inside ({which})"


def _counting(what: str, total: int, on_progress: Progress) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_progress(what, done, total)

    return tell
