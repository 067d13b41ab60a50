"""`tandem advise`: by questions, by options, by a file; what it prints and writes."""

import asyncio
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from services.router.advisor import Advisor
from services.router.domain.advice import LEVELS, Costs
from services.router.domain.domains import DEFAULT_DOMAIN
from services.router.domains import OneDomain
from services.router.servicer.advise import Adviser
from tandem.cli import app as root
from tandem.cli import profiles
from tandem.errors import InvalidInput
from tandem.rpc.server import App, Service
from tandem.v1.router_service_pb2_grpc import RouterServiceServicer, add_RouterServiceServicer_to_server
from tests.fakes.advice import FakeEvidence, accuracy, arm, changed
from tests.fakes.rpc_hosting import hosted

MEASURED = changed(14)
OPTIONS = (
    "--data-volatility", "quarterly", "--domain-specificity", "specialised", "--compliance", "none",
    "--infrastructure-maturity", "gpu-training", "--explainability", "none",
)  # fmt: skip
FILE = """
description = "Claims"
policy = "cascade"

[profile]
data_volatility = "monthly"
domain_specificity = "general"
compliance = "audit"
infrastructure_maturity = "gpu-training"
explainability = "useful"
latency_limit_ms = 150
questions_per_month = 4000

[costs]
per_1000_input_tokens = 0.002
training = 120
"""


class _Router(RouterServiceServicer):
    def __init__(self) -> None:
        arms = (arm("finetuned", 140.0, accuracy=accuracy(0.4)), arm("rag", 640.0, cited_share=0.9))
        evidence = FakeEvidence(type(MEASURED)(arms=arms, collection=MEASURED.collection, missing=("accuracy of rag",)))
        self._adviser = Adviser(Advisor(), evidence=evidence, domains=OneDomain(DEFAULT_DOMAIN), default_timeout_s=1)

    async def Advise(self, request: object, context: object) -> object:
        return await self._adviser.answer(request)


async def typed(*words: str, answers: str = "") -> Result:
    """Runs the command in a thread, as its own process would, against a real router's Advise."""
    app = App(
        [Service("tandem.v1.RouterService", lambda server: add_RouterServiceServicer_to_server(_Router(), server))]
    )
    async with hosted(app) as address:
        environment = {"TANDEM_ROUTER": address, "TANDEM_TOKEN": "alice-token"}
        return await asyncio.to_thread(CliRunner().invoke, root.app, ["advise", *words], env=environment, input=answers)


async def test_without_options_it_asks_for_all_it_needs() -> None:
    said = "quarterly\nspecialized\nspecialised\naudit\ngpu-training\nuseful\nsoon\n180\n20,000\ny\nEUR\n"
    result = await typed(answers=said + "0.002\n0.006\n0.0005\n0.0001\n120\n\n")
    assert result.exit_code == 0, result.output
    assert "terms of a profession" in result.output
    assert "That is none of them." in result.output
    assert "That is not a number." in result.output
    assert "fine-tuning, by the policy finetuned" in result.output
    assert "from 17,543 questions a month on" in result.output
    assert "Training under audit needs encryption" in result.output


async def test_an_empty_answer_leaves_a_figure_untold() -> None:
    result = await typed(answers="static\ngeneral\nnone\ngpu-training\nnone\n\n\nn\n")
    assert result.exit_code == 0, result.output
    assert "no limit" in result.output
    assert "untold questions a month, no prices" in result.output
    assert "Money" not in result.output


async def test_options_that_say_all_ask_nothing() -> None:
    result = await typed(*OPTIONS)
    assert result.exit_code == 0, result.output
    assert "How often" not in result.output
    for words in ("Votes", "cast: retrieval 0, fine-tuning 3, hybrid 2; open: 10", "Path", "quarterly → monthly"):
        assert words in result.output
    assert "Measured" not in result.output


async def test_a_live_domain_shows_what_was_measured() -> None:
    result = await typed(*OPTIONS, "--domain", "default", "--compare")
    assert result.exit_code == 0, result.output
    flat = " ".join(result.output.split())
    assert "declared quarterly, 14 documents changed this week" in flat
    assert "→ retrieval: rag" in flat
    assert "14 of 80 documents changed in 7 days" in flat
    assert "640 ms" in flat
    assert "90%" in flat
    assert "accuracy of rag" in flat
    assert "Side by side" in flat


async def test_a_domains_own_file_is_a_profile_and_options_change_it(tmp_path: Path) -> None:
    file, tree = tmp_path / "claims.toml", tmp_path / "tree.svg"
    file.write_text(FILE)
    told = await typed("--profile", str(file), "--tree", str(tree), "--json", "--cost", "per_search=0.5")
    assert told.exit_code == 0, told.output
    advice = json.loads(told.output)
    assert (advice["approach"], advice["pattern"]) == ("hybrid", "dual")
    assert advice["profile"]["costs"]["per_search"] == 0.5
    assert advice["profile"]["costs"]["training"] == 120
    assert advice["profile"]["latency_limit"] == "0.150s"
    assert "tree_svg" not in advice
    assert ElementTree.parse(tree).getroot().get("width") == "297mm"
    slower = await typed("--profile", str(file), "--latency-limit-ms", "900", "--json")
    assert json.loads(slower.output)["pattern"] == "cascade"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("data_volatility = 'daily'\nvolatility = 'daily'", "volatility"),
        ("[profile]\ndata_volatility = 'daily'\n[costs]\ntrainings = 3", "costs.trainings"),
        ("costs = 3", "costs"),
        ("data_volatility = ", "--profile"),
    ],
)
def test_a_file_with_a_fault_says_where(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        profiles.read(file)
    assert caught.value.violations[0].field.endswith(field)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--data-volatility", "often", *OPTIONS[2:]), "profile.data_volatility"),
        ((*OPTIONS, "--cost", "per_serach=1"), "--cost"),
        ((*OPTIONS, "--cost", "training=dear"), "--cost"),
        ((*OPTIONS, "--profile", "/nowhere.toml"), "--profile"),
        (("--json",), "profile.data_volatility"),
        ((*OPTIONS, "--questions-per-month", str(10**30)), "questions_per_month"),
    ],
)
async def test_what_is_wrong_is_named(words: tuple[str, ...], field: str) -> None:
    error = (await typed(*words)).exception
    assert isinstance(error, InvalidInput)
    assert error.violations[0].field == field


def test_the_questions_offer_what_the_framework_knows() -> None:
    assert {key: list(question.levels) for key, question in profiles.QUESTIONS.items()} == {
        factor.value: list(kind) for factor, kind in LEVELS.items()
    }
    assert set(profiles.COSTS) == set(Costs.__dataclass_fields__)
