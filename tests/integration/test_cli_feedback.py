"""`tandem feedback` against a real router: what it records, lists and refuses, and who learns of it."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli import app as root
from tandem.client import AsyncFeedbackClient, AsyncRouterClient
from tandem.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied
from tandem.v1 import advice_pb2
from tandem.v1 import feedback_service_pb2 as feedback
from tests.fakes.router import World
from tests.fakes.router_peers import stack

PROFILE = advice_pb2.DomainProfile(
    data_volatility="quarterly",
    domain_specificity="specialised",
    compliance="audit",
    infrastructure_maturity="gpu-training",
    explainability="none",
)


async def typed(address: str, *words: str, token: str = "alice") -> Result:
    """Runs a command in a thread, as its own process would."""
    environment = {"TANDEM_ROUTER": address, "TANDEM_TOKEN": token}
    return await asyncio.to_thread(CliRunner().invoke, root.app, list(words), env=environment)


async def ask(address: str, *, num: int = 1, token: str = "alice") -> list[str]:
    async with AsyncRouterClient(address, token=token, timeout=30) as client:
        answers = [await client.ask("What is the excess for collision?", policy="rag") for _ in range(num)]
    return [answer.answer_id for answer in answers]


async def test_a_verdict_is_recorded_listed_and_part_of_the_verified_chain(tmp_path: Path) -> None:
    async with stack(World(), tmp_path) as address:
        one, two, three = await ask(address, num=3)
        said = await typed(address, "feedback", one, "--right", "--deflected")
        assert (said.exit_code, said.output.strip()) == (
            0, "recorded: right, on an answer by rag in the domain default",
        )  # fmt: skip
        await typed(address, "feedback", two, "--edited", "Within [b]14[/b] days.", "--not-deflected")
        await typed(address, "feedback", "submit", three, "--wrong", "--correction", "31 days", token="alice")
        again = await typed(address, "feedback", three, "--wrong", "--correction", "31 days", "--json")
        assert json.loads(again.output)["verdict"] == "VERDICT_WRONG"
        listed = await typed(address, "feedback", "list", token="erin")
        assert listed.exit_code == 0, listed.output
        rows = [line.split() for line in listed.output.splitlines() if " rag: " in line]
        assert [(row[2], row[3]) for row in rows] == [("wrong", three), ("edited", two), ("right", one)]
        assert "Within [b]14[/b] days." in listed.output
        verified = await typed(address, "audit", "verify", "--json", token="erin")
        (chain,) = json.loads(verified.output)
        assert int(chain["num_records"]) == 9
        assert "feedback" in (await typed(address, "audit", "list", token="erin")).output


async def test_another_tenants_answer_is_not_there_and_neither_is_its_verdict(tmp_path: Path) -> None:
    async with stack(World(), tmp_path) as address:
        (mine,) = await ask(address)
        for token in ("bea", "erin"):  # erin is of the tenant, but neither asked nor is an operator
            assert isinstance((await typed(address, "feedback", mine, "--wrong", token=token)).exception, NotFound)
        assert (await typed(address, "feedback", mine, "--right")).exit_code == 0
        theirs = await typed(address, "feedback", "list", "--json", token="bea")
        assert json.loads(theirs.output) == []
        assert isinstance((await typed(address, "feedback", "list")).exception, PermissionDenied)
        assert isinstance((await typed(address, "feedback", mine, "--right", token="mute")).exception, PermissionDenied)


@pytest.mark.parametrize(
    "words",
    [(), ("--right", "--wrong"), ("--wrong", "--edited", "x"), ("--right", "--correction", "x"), ("--edited", "")],
)
async def test_one_verdict_is_said_at_a_time(words: tuple[str, ...]) -> None:
    result = await typed("127.0.0.1:9", "feedback", "some-answer", *words)
    assert result.exit_code == 2
    assert "--" in result.output


async def test_faulty_requests_and_answers_without_a_text_are_refused(tmp_path: Path) -> None:
    world = World()
    async with stack(world, tmp_path) as address, AsyncFeedbackClient(address, token="alice", timeout=30) as client:
        (given,) = await ask(address)
        for request in (
            (given, feedback.VERDICT_UNSPECIFIED, ""),
            (given, feedback.VERDICT_EDITED, "  "),
            (given, feedback.VERDICT_RIGHT, "but"),
            (given, feedback.VERDICT_WRONG, "x" * 8193),
            ("", feedback.VERDICT_RIGHT, ""),
        ):
            answer_id, verdict, text = request
            with pytest.raises(InvalidInput):
                await client.submit(answer_id, verdict, corrected_text=text)
        world.generator.loaded = frozenset()
        async with AsyncRouterClient(address, token="alice", timeout=30) as router:
            with pytest.raises(FailedPrecondition):
                await router.ask("What is the excess for collision?", policy="finetuned")
        newest = json.loads((await typed(address, "audit", "list", "--json", token="erin")).output)[0]
        assert newest["outcome"] == "OUTCOME_FAILED"
        with pytest.raises(FailedPrecondition) as caught:
            await client.submit(newest["answer_id"], feedback.VERDICT_RIGHT)
        assert caught.value.reason == "ANSWER_NOT_GIVEN"


async def test_what_people_say_is_the_accuracy_in_an_advice_and_outlives_the_router(tmp_path: Path) -> None:
    async with stack(World(), tmp_path) as address:
        answers = await ask(address, num=30)
        async with AsyncFeedbackClient(address, token="alice", timeout=30) as client:
            for place, answer_id in enumerate(answers):
                await client.submit(answer_id, feedback.VERDICT_WRONG if place % 3 else feedback.VERDICT_RIGHT)
        (before,) = await _evidence(address)
    async with stack(World(), tmp_path) as address:
        (after,) = await _evidence(address)
        assert await _evidence(address, token="bea") == []
    assert before.arm == after.arm == "rag"
    assert before.feedback == after.feedback
    assert (before.feedback.value, before.feedback.num_questions) == (pytest.approx(1 / 3), 30)
    assert not before.HasField("accuracy")


async def _evidence(address: str, *, token: str = "alice") -> list[advice_pb2.ArmEvidence]:
    async with AsyncRouterClient(address, token=token, timeout=30) as client:
        return list((await client.advise(PROFILE, domain="default")).advice.evidence.arms)
