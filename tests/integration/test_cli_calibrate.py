"""`tandem calibrate` and `tandem evaluate arms` against a real router: from questions to a domain that uses them."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from evaluation.cli import app as evaluate
from evaluation.cli.calibrate import app as calibrate
from services.router.domain import Generated, Piece
from tandem.cli import app as root
from tandem.client import AsyncRouterClient
from tandem.prompts import Message
from tandem.v1.router_service_pb2 import ROUTE_FINETUNED, ROUTE_RAG
from tests.fakes.router import FakeGenerator, World
from tests.fakes.router_peers import stack

RIGHT, WRONG = "The excess for collision is EUR 500.", "Nobody knows."


@dataclass
class Unsure(FakeGenerator):
    """Knows two answers of three, and is the less sure the less it knows; what it reads is always right."""

    async def generate(
        self, messages: Sequence[Message], *, adapter: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[Piece | Generated, None]:
        """Answers by the number in the question."""
        number = int(re.findall(r"class (\d+)", messages[-1].content)[-1])
        if adapter == "answers":
            known = number % 3 > 0
            self.sequences[adapter] = replace(
                self.sequences[adapter], text=RIGHT if known else WRONG, mean_logprob=-0.1 if known else -0.9
            )
        async for event in super().generate(messages, adapter=adapter, max_tokens=max_tokens, timeout_s=timeout_s):
            yield event


def asked(number: int) -> str:
    return f"What is the excess for collision of class {number}?"


def labelled(path: Path, numbers: range) -> Path:
    rows = [{"question_id": str(n), "question": asked(n), "answers": [RIGHT]} for n in numbers]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


async def typed(app: Any, address: str, home: Path, *words: str) -> Result:
    environment = {"TANDEM_ROUTER": address, "TANDEM_TOKEN": "erin", "TANDEM_HOME": str(home)}
    done = await asyncio.to_thread(CliRunner().invoke, app, list(words), env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


async def test_a_calibration_with_verdicts_is_certified_and_used_once_the_domain_names_it(tmp_path: Path) -> None:
    domains, data = tmp_path / "domains", labelled(tmp_path / "labelled.jsonl", range(300))
    domains.mkdir()
    file = domains / "default.toml"
    file.write_text('tenants = ["halden"]\npolicy = "cascade"\n')
    artefact = domains / "default.calibration.json"
    async with stack(World(generator=Unsure()), tmp_path, domains_dir=domains) as address:
        async with AsyncRouterClient(address, token="erin", timeout=30) as client:
            judged = [await client.ask(asked(n), policy="finetuned") for n in (300, 301, 302)]
            for answer, verdict in zip(judged, ("--wrong", "--right", "--right"), strict=True):
                await typed(root.app, address, tmp_path, "feedback", answer.answer_id, verdict)
            given = ("--domain", "default", "--data", str(data), "--out", str(artefact), "--concurrency", "1")
            done = await typed(calibrate, address, tmp_path, *given, "--feedback", "--json")
            told = json.loads(done.stdout)
            document = json.loads(artefact.read_text())
            assert told["sha256"] == document["sha256"]
            assert document["measured"]["accepted"]["value"] == pytest.approx(2 / 3, abs=0.05)
            report = json.loads(Path(told["report"]).with_suffix(".json").read_text())
            assert any(note.startswith("feedback: 3 answers fitted; 0 verdicts") for note in report["notes"])
            file.write_text(f'{file.read_text()}calibration = "{artefact.name}"\n')
            async with asyncio.timeout(30):
                while (sure := await client.ask(asked(301))).confidence.calibration != document["sha256"]:
                    pass
            unsure = await client.ask(asked(303))
    assert (sure.decision.route, unsure.decision.route) == (ROUTE_FINETUNED, ROUTE_RAG)


async def test_arms_are_measured_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    folder, world = tmp_path / "data", World(generator=Unsure())
    folder.mkdir()
    labelled(folder / "questions.jsonl", range(12))
    wanted = ("arms", "--data", str(folder), "--domain", "default", "--arms", "finetuned,rag,cascade", "--json")
    async with stack(world, tmp_path) as address:
        done = await typed(evaluate, address, tmp_path, *wanted, "--concurrency", "1")
        num_prompts = len(world.generator.prompts)
        again = await typed(evaluate, address, tmp_path, *wanted)
        assert len(world.generator.prompts) == num_prompts
    found = json.loads(done.stdout)
    assert json.loads(again.stdout)["arms"] == found["arms"]
    arms = {arm["policy"]: (arm["accuracy"], arm["calls"]) for arm in found["arms"]}
    assert arms["finetuned"] == (pytest.approx(2 / 3), 1)
    assert arms["rag"] == (1, 3)
    assert arms["cascade"][0] == arms["oracle router"][0] == 1
    verdicts = {(row["arm"], row["other"]): row["verdict"] for row in found["comparisons"]}
    assert verdicts["cascade", "finetuned"] == "better"
    assert verdicts["cascade", "rag"] == "no difference shown"
