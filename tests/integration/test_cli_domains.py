"""`tandem domains`, and the domain that `tandem ask` tells."""

import asyncio

from google.protobuf.message import Message
from typer.testing import CliRunner, Result

from tandem.cli import app as root
from tandem.v1 import domains_pb2
from tandem.v1 import router_service_pb2 as router
from tests.fakes.rpc_canned import Canned
from tests.fakes.rpc_hosting import hosted

CALIBRATED = domains_pb2.Domain(
    name="claims",
    description="Motor claims",
    policy="cascade",
    answer_adapter="answers",
    min_groundedness=0.4,
    below_groundedness="abstain",
    calibration=domains_pb2.DomainCalibration(
        version="ab" * 32, threshold=0.8125, risk=0.1, level=0.95, accepted_share=0.42
    ),
)


async def typed(*words: str, **answers: Message | list[Message]) -> Result:
    async with hosted(Canned(**answers).app()) as address:
        environment = {"TANDEM_ROUTER": address, "TANDEM_TOKEN": "alice-token"}
        return await asyncio.to_thread(CliRunner().invoke, root.app, words, env=environment)


async def domains(*rows: domains_pb2.Domain) -> str:
    result = await typed("domains", ListDomains=domains_pb2.ListDomainsResponse(domains=rows))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


async def test_domains_tell_their_models_rules_and_calibration() -> None:
    said = await domains(CALIBRATED, domains_pb2.Domain(name="travel", policy="rag", reading_adapter="reading"))
    assert "claims cascade answers the base model abababababab: accepted from 0.812, at most 10% wrong at 95%" in said
    assert "(42% accepted)" in said
    assert "0.4, else abstain" in said
    assert "travel rag - reading uncalibrated" in said
    assert "claims: Motor claims" in said


async def test_without_a_certified_threshold_everything_escalates() -> None:
    row = domains_pb2.Domain()
    row.CopyFrom(CALIBRATED)
    row.calibration.ClearField("threshold")
    assert "no threshold certified, everything escalates" in await domains(row)


async def test_a_fault_is_told_with_what_is_served_instead() -> None:
    kept = domains_pb2.Domain(name="claims", policy="rag", fault="claims.toml: policy is no word")
    never = domains_pb2.Domain(name="travel", fault="travel.toml: polcy is not known")
    said = await domains(kept, never)
    assert "claims.toml: policy is no word (its last good version stays in use)" in said
    assert "travel not served, see below" in said
    assert said.endswith("travel.toml: polcy is not known")


async def test_an_answer_tells_its_domain() -> None:
    decision = router.Decision(policy="rag", route=router.ROUTE_RAG)
    answer = router.Answer(answer_id="a", text="EUR 500.", domain="claims", decision=decision)
    events = [router.StreamAskResponse(finished=router.AnswerFinished(answer=answer))]
    result = await typed("ask", "What is the excess?", StreamAsk=events)
    assert result.exit_code == 0, result.output
    assert "rag → retrieved evidence, domain claims" in result.output
