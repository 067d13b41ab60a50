"""The advisor: the advice for a profile, with what was measured beside it."""

from services.router.advisor import comparing, deciding, evidence
from services.router.advisor.framework import Framework
from services.router.advisor.reading import read
from services.router.domain.advice import Advice, Approach, Evidence, Profile


class Advisor:
    """Advises on profiles by one framework; the same profile and evidence give the same advice."""

    def __init__(self, framework: Framework | None = None) -> None:
        self.framework = framework or read()

    def advise(self, profile: Profile, measured: Evidence | None = None) -> Advice:
        """Returns the advice for a profile; what was measured stands beside it and does not decide."""
        framework = self.framework
        found = deciding.decide(framework, profile, measured)
        leaf = found.leaf
        hybrid = leaf.pattern if leaf.approach is Approach.HYBRID else "cascade"
        return Advice(
            approach=leaf.approach,
            pattern=leaf.pattern,
            leaf=leaf.id,
            reason=leaf.reason,
            votes=found.votes,
            tally=found.tally,
            open_weight=sum(vote.weight for vote in found.votes if vote.approach is None),
            lean=deciding.lean(found.tally),
            path=found.path,
            flips=deciding.flips(framework, profile, measured),
            conditions=tuple(self._conditions(profile, found)),
            money=found.money,
            evidence=measured,
            contradictions=evidence.contradictions(framework, profile, measured, pattern=leaf.pattern),
            comparison=comparing.compare(framework, money=found.money, evidence=measured, hybrid=hybrid),
        )

    def _conditions(self, profile: Profile, found: deciding.Decision) -> list[str]:
        return [
            duty.text
            for duty in self.framework.duties
            if duty.rule.holds(deciding.value_of(duty.factor, profile, found.money))
            and (not duty.approaches or found.leaf.approach in duty.approaches)
            and (not duty.patterns or found.leaf.pattern in duty.patterns)
        ]
