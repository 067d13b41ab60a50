"""Advise on the wire: what a request must be, and that nothing of an advice is lost on its way out."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from services.router.advisor import Advisor
from services.router.domain import Domain
from services.router.domain.advice import Evidence
from services.router.domain.domains import DEFAULT_DOMAIN
from services.router.domains import OneDomain
from services.router.servicer.advise import Adviser, checked
from tandem.errors import InvalidInput, NotFound, PermissionDenied
from tandem.rpc import call
from tandem.security import Principal
from tandem.v1 import advice_pb2
from tests.fakes.advice import COSTS, FakeEvidence, accuracy, arm, changed, profile
from tests.fakes.router import ALICE

WORDS = {
    "data_volatility": "quarterly",
    "domain_specificity": "specialised",
    "compliance": "audit",
    "infrastructure_maturity": "gpu-training",
    "explainability": "useful",
}
MUTE = Principal("mute", "halden", frozenset(), frozenset())


def wire(**changes: object) -> advice_pb2.DomainProfile:
    return advice_pb2.DomainProfile(**(WORDS | changes))


def limit(milliseconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(milliseconds=milliseconds))
    return message


CLAIMS = Domain(name="claims", profile=profile(explainability="sources-required", latency_limit_ms=400, costs=COSTS))


def adviser(evidence: Evidence | None = None, domain: Domain = DEFAULT_DOMAIN) -> Adviser:
    source = FakeEvidence(evidence or Evidence())
    return Adviser(Advisor(), evidence=source, domains=OneDomain(domain), default_timeout_s=1)


async def advise(made: Adviser, *, caller: Principal = ALICE, **request: object) -> advice_pb2.AdviseResponse:
    with call.bind(principal=caller):
        return await made.answer(advice_pb2.AdviseRequest(**request))


def test_a_request_is_read_whole() -> None:
    one = checked(wire(latency_limit=limit(180.5), questions_per_month=0, costs=advice_pb2.ProfileCosts(training=5)))
    assert (one.latency_limit_ms, one.questions_per_month, one.compliance) == (180.5, 0, "audit")
    assert one.costs is not None
    assert (one.costs.currency, one.costs.training, one.costs.trainings_per_month) == ("EUR", 5, None)
    plain = checked(wire())
    assert (plain.latency_limit_ms, plain.questions_per_month, plain.costs) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data_volatility": ""}, "profile.data_volatility"),
        ({"compliance": "Audit"}, "profile.compliance"),
        ({"explainability": "x" * 5000}, "profile.explainability"),
        ({"latency_limit": limit(0.5)}, "profile.latency_limit"),
        ({"latency_limit": Duration(seconds=10**11)}, "profile.latency_limit"),
        ({"latency_limit": Duration(seconds=-1)}, "profile.latency_limit"),
        ({"questions_per_month": -1}, "profile.questions_per_month"),
        ({"costs": {"training": float("nan")}}, "profile.costs.training"),
        ({"costs": {"per_search": -0.1}}, "profile.costs.per_search"),
        ({"costs": {"per_search": float("inf")}}, "profile.costs.per_search"),
        ({"costs": {"trainings_per_month": 1001}}, "profile.costs.trainings_per_month"),
        ({"costs": {"currency": "<b>"}}, "profile.costs.currency"),
    ],
)
def test_a_fault_is_named_by_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(wire(**changes))
    assert [fault.field for fault in caught.value.violations] == [field]
    assert len(caught.value.message) < 500


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(advice_pb2.DomainProfile(questions_per_month=-1))
    assert len(caught.value.violations) == 6


async def test_an_advice_arrives_with_all_its_parts() -> None:
    arms = (arm("finetuned", 640.0, accuracy=accuracy(0.4), mean_input_tokens=80.0, cited_share=0.0), arm("rag"))
    measured = Evidence(
        arms=arms, collection=changed(14).collection, escalated_share=0.25, unencrypted_adapters=("answers",),
        missing=("something",),
    )  # fmt: skip
    request = wire(latency_limit=limit(180), questions_per_month=20_000, costs=vars(COSTS))
    made = adviser(measured)
    response = await advise(made, domain="default", profile=request, include_tree=True)
    advice = response.advice
    assert response.tree_svg.startswith("<svg")
    assert (advice.approach, advice.pattern, advice.leaf_id) == ("fine-tune", "finetuned", "finetuned-stable")
    assert (len(advice.votes), advice.lean) == (7, "fine-tune")
    cast = {one.approach: one.weight for one in advice.tally}
    assert (cast, advice.open_weight) == ({"rag": 0, "fine-tune": 7, "hybrid": 4}, 4)
    assert [step.yes for step in advice.path] == [False] * 4 + [True] * 2
    assert (advice.path[0].factor, advice.path[-1].factor) == ("compliance", "")
    assert {flip.factor for flip in advice.flips} >= {"data_volatility", "latency", "compliance"}
    assert {one.factor for one in advice.contradictions} == {"data_volatility", "latency", "compliance"}
    assert advice.contradictions[0].text.startswith("declared quarterly, 14 documents changed this week")
    assert advice.money.HasField("break_even")
    assert advice.money.cheaper == "fine-tune"
    first, second = advice.evidence.arms
    assert (first.arm, first.p95_duration.ToTimedelta()) == ("finetuned", timedelta(milliseconds=640))
    assert (first.accuracy.value, first.HasField("cited_share"), second.HasField("cited_share")) == (0.4, True, False)
    assert advice.evidence.collection.window_duration.ToTimedelta() == timedelta(days=7)
    assert (advice.evidence.escalated_share, list(advice.evidence.missing)) == (0.25, ["something"])
    assert len(advice.comparison) == 12
    assert advice.conditions
    assert checked(advice.profile) == checked(request)


async def test_without_a_domain_nothing_is_measured() -> None:
    made = adviser(changed(14))
    response = await advise(made, profile=wire())
    assert not response.advice.HasField("evidence")
    assert not response.advice.HasField("money")
    assert (response.tree_svg, list(response.advice.contradictions)) == ("", [])


async def test_a_domain_gives_its_profile_and_a_request_changes_it() -> None:
    made = adviser(domain=CLAIMS)
    own = (await advise(made, domain="claims")).advice
    assert (own.leaf_id, own.profile.latency_limit) == ("rag-sources", limit(400))
    what_if = (await advise(made, domain="claims", profile={"explainability": "none"})).advice
    assert what_if.leaf_id == "cascade-stable"
    assert what_if.profile.costs.training == 120


async def test_an_unknown_domain_and_a_caller_without_the_role_are_refused() -> None:
    with pytest.raises(NotFound, match="claims"):
        await advise(adviser(), domain="claims", profile=wire())
    with pytest.raises(PermissionDenied):
        await advise(adviser(), profile=wire(), caller=MUTE)
