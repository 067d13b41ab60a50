"""auto: what was measured in the domain, or else its profile, chooses the policy."""

from collections.abc import Callable, Mapping, Sequence

from services.router.domain import Domain, Draft, Paths, Policy, Route, StepKind
from services.router.domain.advice import Compliance, Explainability, Profile
from services.router.domain.domains import ArmResult

LEAST_QUESTIONS = 30
"""Under so many questions a result says too little to choose by."""
_UNADVISED = "cascade"
Pattern = Callable[[Profile], str]
"""Returns the name of the policy that a profile is advised."""


class Auto:
    """Chooses one of the other policies for the domain, and says by which figures."""

    name = "auto"
    description = "What was measured in the domain, or else its profile, chooses one of the other policies."

    def __init__(self, policies: Mapping[str, Policy], *, pattern: Pattern) -> None:
        self._policies = policies
        self._pattern = pattern

    async def decide(self, paths: Paths) -> Draft:
        """Returns the draft of the chosen policy; raises what that raises."""
        name, reason = self._choose(paths.domain)
        await paths.step(StepKind.CHOOSE, Route.NONE, f"{name}: {reason}")
        return await self._policies[name].decide(paths)

    def _choose(self, domain: Domain) -> tuple[str, str]:
        measured = [
            arm for arm in domain.results if arm.policy in self._policies and arm.num_questions >= LEAST_QUESTIONS
        ]
        fitting = [arm for arm in measured if _fits(arm, domain)]
        if fitting:
            return best_of(fitting)
        why = "no policy that was measured meets its limits" if measured else "nothing was measured in this domain"
        if domain.profile is None:
            return _UNADVISED, f"{why}, and it has no profile"
        advised = self._pattern(domain.profile)
        if advised == Route.FINETUNED.value and _needs_passages(domain):
            return Route.RAG.value, f"{why}, and the weights alone that its profile is advised cannot answer here"
        return advised, f"{why}; its profile is advised so"


def best_of(arms: Sequence[ArmResult]) -> tuple[str, str]:
    """Returns the policy of the most accurate arm, or of a cheaper one that may be as accurate, and why.

    An arm may be as accurate where the 95 % interval of their difference, paired by question, does not exclude it, or,
    where that is not known, its own interval reaches the best one's accuracy. What is cheaper is told by the first of
    cost, calls and p95 that is known of all of these.
    """
    best = max(arms, key=lambda arm: arm.accuracy)
    equals = [arm for arm in arms if arm is best or _may_equal(arm, best)]
    chosen, price = best, ""
    for name, unit in (("cost", " an answer"), ("num_calls", " calls an answer"), ("p95_ms", " ms at p95")):
        known = [(float(value), arm) for arm in equals if (value := getattr(arm, name)) is not None]
        if len(known) == len(equals) and len(equals) > 1:
            least, chosen = min(known, key=lambda one: (one[0], -one[1].accuracy))
            price = f"; the cheapest of {len(equals)} at {least:.4g}{unit}"
            break
    interval = f"[{chosen.low:.3f}, {chosen.high:.3f}]"
    figures = f"{chosen.metric} {chosen.accuracy:.3f} {interval} on {chosen.num_questions} questions"
    compared = "" if chosen is best else f", no less than the best shown, {best.policy} at {best.accuracy:.3f}"
    return chosen.policy, figures + compared + price


def _may_equal(arm: ArmResult, best: ArmResult) -> bool:
    least = arm.behind.get(best.policy)
    return arm.high >= best.accuracy if least is None else least <= 0


def _fits(arm: ArmResult, domain: Domain) -> bool:
    """Tells whether an arm meets the limits of a domain; what was not measured is not known to meet them."""
    if arm.policy == Route.FINETUNED.value and _needs_passages(domain):
        return False
    limits = [domain.latency_objective_ms, None if domain.profile is None else domain.profile.latency_limit_ms]
    return all(limit is None or (arm.p95_ms is not None and arm.p95_ms <= limit) for limit in limits)


def _needs_passages(domain: Domain) -> bool:
    """Tells whether weights alone cannot or may not answer."""
    profile = domain.profile
    return not domain.answer_adapter or (
        profile is not None
        and (
            profile.explainability is Explainability.SOURCES_REQUIRED
            or profile.compliance is Compliance.RECORDS_STAY_EXTERNAL
        )
    )
