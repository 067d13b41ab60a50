"""Profiles and evidence for tests of the advisor, and strategies that draw them."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from services.router.domain import LabelCondition
from services.router.domain.advice import (
    LEVELS,
    Accuracy,
    ArmEvidence,
    CollectionEvidence,
    Costs,
    Evidence,
    Profile,
)
from services.router.domain.profiles import profile_of
from tandem.errors import TandemError
from tandem.security import Principal

COSTS = Costs(
    per_1000_input_tokens=0.002,
    per_1000_output_tokens=0.006,
    per_search=0.0005,
    per_embedding=0.0001,
    training=120.0,
)
"""A question costs 0.002688 by retrieval and 0.000408 by the adapter where nothing was measured."""


def profile(**changes: Any) -> Profile:
    """Returns a profile on which nothing but the changes speaks for anything special."""
    plain: dict[str, Any] = {
        "data_volatility": "quarterly",
        "domain_specificity": "specialised",
        "compliance": "none",
        "infrastructure_maturity": "gpu-training",
        "explainability": "none",
    }
    costs = changes.pop("costs", None)
    table = {"costs": vars(costs)} if isinstance(costs, Costs) else {"costs": costs}
    return profile_of(plain | changes | table)


def arm(name: str, p95_ms: float | None = None, *, num_answers: int = 100, **measured: Any) -> ArmEvidence:
    """Returns what was measured of a policy."""
    return ArmEvidence(arm=name, num_answers=num_answers, p95_ms=p95_ms, **measured)


def accuracy(value: float, *, within: float = 0.05, metric: str = "F1") -> Accuracy:
    """Returns a measured share with an interval so wide to each side."""
    return Accuracy(value, value - within, value + within, 300, metric)


def changed(num_changed: int, *, of: int = 80, settled: bool = True) -> Evidence:
    """Returns evidence of so many documents changed this week."""
    return Evidence(collection=CollectionEvidence(num_documents=of, num_changed=num_changed, settled=settled))


class FakeDocuments:
    """Implements the Documents port: returns what it holds, or raises it."""

    def __init__(self, held: CollectionEvidence | TandemError) -> None:
        self.held = held
        self.narrowed: tuple[LabelCondition, ...] = ()

    async def changes(
        self, *, window_days: int, documents: Sequence[LabelCondition] = (), timeout_s: float
    ) -> CollectionEvidence:
        """Returns the counts."""
        self.narrowed = tuple(documents)
        if isinstance(self.held, TandemError):
            raise self.held
        return self.held


class FakeEvidence:
    """Implements the EvidenceSource port; remembers what it was asked."""

    def __init__(self, held: Evidence) -> None:
        self.held = held
        self.asked: list[tuple[str, str]] = []

    async def gather(self, *, principal: Principal, domain: str, timeout_s: float) -> Evidence:
        """Returns what it holds."""
        self.asked.append((principal.tenant, domain))
        return self.held


_MONEY = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
COST_TABLES = st.builds(
    Costs,
    per_1000_input_tokens=_MONEY,
    per_1000_output_tokens=_MONEY,
    per_search=_MONEY,
    per_embedding=_MONEY,
    training=_MONEY,
    serving_per_month=_MONEY,
    trainings_per_month=st.none() | st.floats(0, 1000),
)
PROFILES = st.builds(
    Profile,
    **{factor.value: st.sampled_from(list(kind)) for factor, kind in LEVELS.items()},
    latency_limit_ms=st.none() | st.integers(1, 3000).map(float) | st.sampled_from([199.5, 200.0, 200.5, 499.5, 500.0]),
    questions_per_month=st.none() | st.integers(0, 10**7),
    costs=st.none() | COST_TABLES,
)
"""Any profile; levels, figures and prices are independent of each other."""
