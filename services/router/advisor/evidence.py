"""Holds what was measured against what a profile declares."""

from collections.abc import Iterator

from services.router.advisor.deciding import decide, told, with_level
from services.router.advisor.framework import Framework
from services.router.domain.advice import (
    PATTERNS,
    Accuracy,
    ArmEvidence,
    CollectionEvidence,
    Compliance,
    Contradiction,
    DataVolatility,
    Evidence,
    Explainability,
    Factor,
    Profile,
)

_APPROACHES = {pattern: approach for approach, patterns in PATTERNS.items() for pattern in patterns}


def contradictions(
    framework: Framework, profile: Profile, evidence: Evidence | None, *, pattern: str
) -> tuple[Contradiction, ...]:
    """Returns what was measured against the profile, or against the pattern that is advised for it."""
    if evidence is None:
        return ()
    return (
        *_volatility(framework, profile, evidence),
        *_latency(framework, profile, evidence, pattern),
        *_sources(framework, profile, evidence, pattern),
        *_encryption(profile, evidence),
        *_accuracy(evidence, pattern),
        *_drift(evidence),
    )


def measured_volatility(framework: Framework, collection: CollectionEvidence) -> DataVolatility:
    """Returns the slowest level between whose updates no more documents change than may be out of date."""
    a_day = collection.num_changed / collection.num_documents / collection.window_days
    slow_enough = [level for level in DataVolatility if a_day * framework.days[level] <= framework.limits.stale_share]
    return max(slow_enough, key=framework.days.__getitem__, default=DataVolatility.REALTIME)


def _volatility(framework: Framework, profile: Profile, evidence: Evidence) -> Iterator[Contradiction]:
    found = evidence.collection
    if found is None or not found.settled or found.num_documents == 0:
        return
    declared = profile.data_volatility
    days, window = framework.days[declared], found.window_days
    if found.num_changed == 0 and days <= window:
        measured = f"no document of {found.num_documents:,} changed in {window} days"
        text = f"declared {declared}, {measured}"
        yield Contradiction(factor=Factor.DATA_VOLATILITY, declared=declared, measured=measured, text=text)
        return
    level = measured_volatility(framework, found)
    if found.num_changed < framework.limits.min_changed or framework.days[level] >= days:
        return
    this_week = "this week" if window == 7 else f"in {window} days"
    stale = min(1.0, found.num_changed / found.num_documents * days / window)
    leaf = decide(framework, with_level(profile, Factor.DATA_VOLATILITY, level), evidence).leaf
    yield Contradiction(
        factor=Factor.DATA_VOLATILITY,
        declared=declared,
        measured=f"{found.num_changed:,} of {found.num_documents:,} documents changed {this_week}",
        text=f"declared {declared}, {found.num_changed:,} documents changed {this_week}: at this rate {stale:.0%} of "
        f"{found.num_documents:,} change before the next update that was declared; what was measured is {level}",
        approach=leaf.approach,
        pattern=leaf.pattern,
    )


def _latency(framework: Framework, profile: Profile, evidence: Evidence, pattern: str) -> Iterator[Contradiction]:
    limit, arm = profile.latency_limit_ms, _enough(framework, evidence.arm(pattern))
    if limit is None or arm is None or arm.p95_ms is None or arm.p95_ms <= limit:
        return
    measured = f"p95 {arm.p95_ms:.0f} ms over {arm.num_answers:,} answers by {pattern}"
    yield Contradiction(
        factor=Factor.LATENCY,
        declared=told(Factor.LATENCY, profile, None),
        measured=measured,
        text=f"declared a limit of {limit:g} ms, measured {measured}; {_in_time(framework, evidence, limit)}",
    )


def _in_time(framework: Framework, evidence: Evidence, limit: float) -> str:
    """Says which policies kept the limit."""
    known = [arm for arm in evidence.arms if _enough(framework, arm) and arm.p95_ms is not None]
    kept = [f"{arm.arm} ({arm.p95_ms:.0f} ms)" for arm in known if arm.p95_ms is not None and arm.p95_ms <= limit]
    return f"within it: {', '.join(kept)}" if kept else "no policy that was measured kept it"


def _sources(framework: Framework, profile: Profile, evidence: Evidence, pattern: str) -> Iterator[Contradiction]:
    arm = _enough(framework, evidence.arm(pattern))
    if profile.explainability is not Explainability.SOURCES_REQUIRED or arm is None or arm.cited_share is None:
        return
    if arm.cited_share < framework.limits.cited_share:
        measured = f"{1 - arm.cited_share:.0%} of {arm.num_answers:,} answers by {pattern} cited nothing"
        yield Contradiction(
            factor=Factor.EXPLAINABILITY,
            declared=profile.explainability,
            measured=measured,
            text=f"sources are required, {measured}",
        )


def _encryption(profile: Profile, evidence: Evidence) -> Iterator[Contradiction]:
    if profile.compliance is Compliance.NONE or not evidence.unencrypted_adapters:
        return
    names = ", ".join(evidence.unencrypted_adapters)
    yield Contradiction(
        factor=Factor.COMPLIANCE,
        declared=profile.compliance,
        measured=f"not encrypted: {names}",
        text=f"declared {profile.compliance}, but answers came from adapters that are not encrypted at rest: {names}",
    )


def _accuracy(evidence: Evidence, pattern: str) -> Iterator[Contradiction]:
    """Yields the arm that beats the advised one beyond both intervals, the best by evaluation and by feedback."""
    for measured in (
        {arm.arm: arm.accuracy for arm in evidence.arms if arm.accuracy is not None},
        {arm.arm: arm.feedback for arm in evidence.arms if arm.feedback is not None},
    ):
        if pattern in measured:
            yield from _better(measured, pattern)


def _better(measured: dict[str, Accuracy], pattern: str) -> Iterator[Contradiction]:
    ours = measured[pattern]
    better = [
        (found, name)
        for name, found in measured.items()
        if name in _APPROACHES and found.metric == ours.metric and found.low > ours.high
    ]
    if better:
        best, name = max(better, key=lambda one: (one[0].value, one[1]))
        said = f"{ours.metric} {best.value:.2f} [{best.low:.2f}, {best.high:.2f}] by {name}"
        yield Contradiction(
            factor=None,
            declared=f"{pattern} is advised",
            measured=said,
            text=f"{pattern} is advised and reached {ours.metric} {ours.value:.2f} [{ours.low:.2f}, {ours.high:.2f}], "
            f"but {said} is better beyond the intervals",
            approach=_APPROACHES[name],
            pattern=name,
        )


def _drift(evidence: Evidence) -> Iterator[Contradiction]:
    """Yields the arms that people find right less often than their evaluation did, beyond both intervals."""
    for arm in evidence.arms:
        then, now = arm.accuracy, arm.feedback
        if then is None or now is None or now.high >= then.low:
            continue
        measured = f"people found {now.value:.2f} [{now.low:.2f}, {now.high:.2f}] of {now.num_questions:,} right"
        yield Contradiction(
            factor=None,
            declared=f"{arm.arm} reached {then.metric} {then.value:.2f} when it was evaluated",
            measured=measured,
            text=f"{arm.arm} reached {then.metric} {then.value:.2f} [{then.low:.2f}, {then.high:.2f}] when it was "
            f"evaluated, of its newest judged answers {measured}: questions or documents may have changed since, so "
            "evaluate and calibrate anew (people do not judge at random)",
        )


def _enough(framework: Framework, arm: ArmEvidence | None) -> ArmEvidence | None:
    return arm if arm is not None and arm.num_answers >= framework.limits.min_answers else None
