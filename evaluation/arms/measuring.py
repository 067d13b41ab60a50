"""From a folder to figures: asks every question by every arm, keeps the answers, and compares the arms."""

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from evaluation.answers.answered import Answered, Kept
from evaluation.answers.asking import Ask, Job, Progress, ask_all
from evaluation.answers.judging import Rule
from evaluation.answers.questions import Question
from evaluation.arms.curve import Point, sweep
from evaluation.arms.figures import (
    Arm,
    Column,
    Comparison,
    column,
    compare,
    gain_of_oracle,
    measured,
    mixed,
    share_of_oracle,
)
from evaluation.arms.paths import ARMS, EVIDENCE, NEEDS, OWN, POLICIES
from evaluation.arms.routers import ORACLE, RANDOM, SOURCE, at_random, by_source, oracle
from tandem.errors import InvalidInput
from tandem.scoring import Interval, mean, paired_interval

ROUTED = ("dual", "cascade", "ensemble", "auto")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Is what to measure."""

    arms: Sequence[str] = ARMS
    concurrency: int = 4
    num_timed: int = 40
    """Questions asked one at a time by every arm, in turn, for its latency."""
    seed: int = 0


@dataclass
class Report:
    """Is everything that was found."""

    name: str
    metric: str
    about: dict[str, Any]
    arms: dict[str, Arm] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why an arm was not measured."""
    comparisons: list[Comparison] = field(default_factory=list)
    behind: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """By how much a policy's accuracy lies below that of another, by both names."""
    oracle_shares: dict[str, Interval] = field(default_factory=dict)
    """Of the oracle's gain over the better pure path, by arm; empty where it is not shown to gain."""
    oracle_gain: Interval | None = None
    both: dict[str, float | None] = field(default_factory=dict)
    """Tokens, calls and cost of an answer where both pure paths are always asked."""
    curve: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_questions: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data; "arms" is as a domain's file may point to by `results`."""
        found = asdict(self)
        found["comparisons"] = [{**asdict(one), "verdict": one.verdict} for one in self.comparisons]
        found["curve"] = [
            {**asdict(one), "threshold": None if math.isinf(one.threshold) else one.threshold} for one in self.curve
        ]
        found["arms"] = [self._row(name, arm) for name, arm in self.arms.items()]
        del found["behind"]  # each arm has its own
        return found

    def _row(self, name: str, arm: Arm) -> dict[str, Any]:
        accuracy = arm.metrics["accuracy"]
        return {
            "policy": name,
            # The bounds of fewer than two groups are the widest that a difference can have.
            "accuracy": accuracy.value,
            "low": max(0.0, accuracy.low),
            "high": min(1.0, accuracy.high),
            "num_questions": self.num_questions,
            "metric": self.metric,
            "p95_ms": arm.p95_ms if arm.num_timed else None,
            "cost": arm.cost,
            "num_calls": arm.calls,
            "behind": {other: asdict(gap) for other, gap in self.behind.get(name, {}).items()},
            **{key: value for key, value in asdict(arm).items() if key not in ("cost", "p95_ms")},
        }


async def ask_arms(
    questions: Sequence[Question], by: Callable[[str], Ask], kept: Kept, wish: Wish, on_progress: Progress
) -> dict[str, str]:
    """Asks every question by every arm; returns the arms that cannot be asked, with the reason.

    The first `num_timed` questions are asked one at a time, and each of them begins with another arm, so that what the
    services still know from the arm before helps them all alike. Raises InvalidInput for an unknown arm.
    """
    if unknown := [arm for arm in wish.arms if arm not in ARMS]:
        raise InvalidInput.of("--arms", f"takes {', '.join(ARMS)}, not {', '.join(unknown)}")
    policies = [arm for arm in wish.arms if arm in POLICIES]
    policies += [need for arm in wish.arms if (need := NEEDS.get(arm)) and need not in policies]
    absent: dict[str, str] = {}
    for arms in (policies, [arm for arm in wish.arms if arm not in POLICIES]):
        jobs = [
            Job(arm, one, by(arm))
            for place, one in enumerate(questions)
            for arm in _turned(arms, place)
            if NEEDS.get(arm) not in absent
        ]
        num_alone = min(len(jobs), wish.num_timed * len(arms))
        told = _counting("asking the policies" if arms is policies else "asking the base model", len(jobs), on_progress)
        absent |= await ask_all(jobs[:num_alone], kept, concurrency=1, told=told)
        rest = [job for job in jobs[num_alone:] if job.arm not in absent]
        absent |= await ask_all(rest, kept, concurrency=wish.concurrency, told=told)
    absent |= {
        arm: f"reads what {need} found, which is not there" for arm in wish.arms if (need := NEEDS.get(arm)) in absent
    }
    return absent


def report_of(
    name: str,
    questions: Sequence[Question],
    kept: Kept,
    rule: Rule,
    wish: Wish,
    absent: dict[str, str],
) -> Report:
    """Returns the figures of what was asked."""
    asked = {arm: [kept.of(arm, one) for one in questions] for arm in ARMS if arm in wish.arms and arm not in absent}
    report = Report(name, rule.metric, _about(questions, wish), absent=dict(absent), num_questions=len(questions))
    columns = {arm: column(questions, answers, rule) for arm, answers in asked.items()}
    for arm, answers in asked.items():
        routes = [one.route for one in answers]
        report.arms[arm] = measured(questions, columns[arm], seed=wish.seed, routes=routes)
    report.behind = _behind(questions, {arm: found for arm, found in columns.items() if arm in POLICIES}, wish)
    if OWN in columns and EVIDENCE in columns:
        _computed(report, questions, columns, wish)
        report.curve = sweep(asked[OWN], columns[OWN], columns[EVIDENCE])
    report.notes += _notes(asked, report)
    return report


def _computed(report: Report, questions: Sequence[Question], columns: dict[str, Column], wish: Wish) -> None:
    """Adds the routers that are computed, the comparisons and the shares of the oracle's gain."""
    own, evidence = columns[OWN], columns[EVIDENCE]
    groups = [one.group for one in questions]
    right = own.values["accuracy"], evidence.values["accuracy"]
    prices = list(zip(own.values["tokens"], evidence.values["tokens"], strict=True))
    columns[RANDOM] = mixed(own, evidence, at_random(len(questions)))
    if len({one.source for one in questions}) > 1 or questions[0].source:
        columns[SOURCE] = mixed(own, evidence, by_source(questions, *right, seed=wish.seed))
    else:
        report.absent[SOURCE] = "the questions name no source"
    columns[ORACLE] = mixed(own, evidence, oracle(*right, prices))
    for name in (RANDOM, SOURCE, ORACLE):
        if name in columns:
            report.arms[name] = measured(questions, columns[name], seed=wish.seed)
    for name in ("tokens", "calls", "cost"):
        known = own.values[name] and evidence.values[name]
        report.both[name] = mean(own.values[name]) + mean(evidence.values[name]) if known else None
    for arm in ROUTED:
        for other in (OWN, EVIDENCE, RANDOM, SOURCE):
            if arm in columns and other in columns:
                report.comparisons.append(compare(arm, other, columns, groups, seed=wish.seed))
    for arm in (*ROUTED, RANDOM, SOURCE):
        if arm not in columns:
            continue
        share = share_of_oracle(columns[arm], own, evidence, columns[ORACLE], groups, seed=wish.seed)
        if share is not None:
            report.oracle_shares[arm] = share
    report.oracle_gain = gain_of_oracle(own, evidence, columns[ORACLE], groups, seed=wish.seed)


def _behind(questions: Sequence[Question], columns: dict[str, Column], wish: Wish) -> dict[str, dict[str, Interval]]:
    groups = [one.group for one in questions]
    right = {arm: found.values["accuracy"] for arm, found in columns.items()}
    return {
        arm: {
            other: paired_interval(right[other], right[arm], groups=groups, seed=wish.seed)
            for other in right
            if other != arm
        }
        for arm in right
    }


def _notes(asked: dict[str, list[Answered]], report: Report) -> list[str]:
    found = [
        f"{arm}: {done.num_failed} questions were refused and count as wrong"
        for arm, done in report.arms.items()
        if done.num_failed
    ]
    for arm, answers in asked.items():
        written = {
            (one.lineage.get("adapter", ""), one.lineage["adapter_sha256"])
            for one in answers
            if one.lineage.get("adapter_sha256")
        }
        names = [adapter for adapter, _ in written]
        if len(names) != len(set(names)):
            found.append(f"{arm}: more than one version of an adapter answered; ask anew with --fresh")
        missing = [part for one in answers for part in one.degraded]
        found += [f"{arm}: {missing.count(part)} answers lacked {part}" for part in sorted(set(missing))]
        calibrations = sorted({one.calibration[:12] for one in answers if one.calibration})
        if len(calibrations) > 1:
            found.append(f"{arm}: answers of {len(calibrations)} calibrations ({', '.join(calibrations)}); use --fresh")
    drafts = [one for one in asked.get(OWN, []) if not one.abstained and not one.error]
    if drafts and report.curve:
        calibrated = sum(bool(one.calibration) and one.confidence is not None for one in drafts)
        found.append(f"the curve sweeps the confidence of {len(drafts)} drafts, {calibrated} of them calibrated")
    return found


def _turned(arms: Sequence[str], place: int) -> list[str]:
    turn = place % len(arms) if arms else 0
    return [*arms[turn:], *arms[:turn]]


def _about(questions: Sequence[Question], wish: Wish) -> dict[str, Any]:
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "questions": len(questions),
        "groups": len({one.group for one in questions}),
        "without an answer": sum(not one.answers for one in questions),
        "kinds": {
            kind: sum(one.kind == kind for one in questions)
            for kind in sorted({one.kind for one in questions if one.kind})
        },
        "sources": sorted({one.source for one in questions if one.source}),
        "questions asked one at a time": min(wish.num_timed, len(questions)),
        "questions at once, the others": wish.concurrency,
        "seed": wish.seed,
        "machine of the caller": platform.platform(),
    }


def _counting(what: str, total: int, on_progress: Progress) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_progress(what, done, total)

    return tell
