"""`tandem adapters` against a running generator: what an operator types, and what it says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tandem.adapters import Aliases, read_aliases
from tandem.cli import app as root
from tandem.errors import FailedPrecondition, TandemError
from tests.fakes.generator_hosting import Running, publish_random, running, tiny
from tests.fakes.generator_model import write_model


async def typed(on: Running, *words: str, who: str = "olga") -> Result:
    """Runs a command in a thread, as its own process would."""
    environment = {"TANDEM_GENERATOR": on.address, "TANDEM_TOKEN": who}
    return await asyncio.to_thread(CliRunner().invoke, root.app, ["adapters", *words], env=environment)


async def said(on: Running, *words: str, who: str = "olga") -> str:
    result = await typed(on, *words, who=who)
    assert result.exception is None, result.output
    return str(result.output)


async def data(on: Running, *words: str) -> Any:
    return json.loads(await said(on, *words, "--json"))


async def failure(on: Running, *words: str, who: str = "olga") -> TandemError:
    error = (await typed(on, *words, who=who)).exception
    assert isinstance(error, TandemError)
    return error


async def test_a_version_is_tried_promoted_and_rolled_back(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    old = publish_random(tmp_path, "halden/answers", seed=1).name
    new = publish_random(tmp_path, "halden/answers", seed=2, stable=False).name
    folder = tmp_path / "adapters" / "halden" / "answers"
    async with running(tiny(tmp_path)) as on:
        out = await said(on, "canary", "answers", "0.25", "--version", new)
        assert f"{old}, stable, loaded" in out
        assert f"{new}, candidate (0.25 of the calls), loaded" in out
        assert read_aliases(folder) == Aliases(stable=old, candidate=new, canary_share=0.25)
        out = await said(on, "promote", "answers")
        assert f"{new} is stable, {old} was" in out
        assert f"{old}, stable before, on disk" in out
        assert "was stable already" in await said(on, "promote", "answers", "--version", new)
        assert f"{old} is stable, {new} was" in await said(on, "rollback", "answers")
        error = await failure(on, "rollback", "answers")
        assert (type(error), error.reason) == (FailedPrecondition, "NO_EARLIER_VERSION")
        assert "calls may name it so" in await said(on, "load", f"answers@{new}")
        assert "was loaded already" in await said(on, "load", "answers")
        assert f"{new}, loaded" in await said(on, "list", who="alice")
        assert "takes no new calls" in await said(on, "unload", f"answers@{new}")


async def test_programs_get_the_contract_as_json(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    old = publish_random(tmp_path, "halden/answers", seed=1).name
    new = publish_random(tmp_path, "halden/answers", seed=2, stable=False).name
    async with running(tiny(tmp_path)) as on:
        made = await data(on, "canary", "answers", "1", "--version", new)
        assert (made["adapter"]["candidate_version"], made["adapter"]["canary_share"]) == (new, 1)
        promoted = await data(on, "promote", "answers")
        assert (promoted["adapter"]["version"], promoted["previous_version"]) == (new, old)
        assert (await data(on, "rollback", "answers"))["adapter"]["version"] == old
        (row,) = (await data(on, "list"))["adapters"]
        assert [version["state"] for version in row["versions"]] == [
            "ADAPTER_VERSION_STATE_LOADED",
            "ADAPTER_VERSION_STATE_STORED",
        ]


@pytest.mark.parametrize("words", [("promote", "answers"), ("rollback", "answers"), ("canary", "answers", "0.5")])
async def test_a_user_changes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_model(tmp_path / "tiny")
    publish_random(tmp_path, "halden/answers", seed=1)
    async with running(tiny(tmp_path)) as on:
        assert (await failure(on, *words, who="alice")).code == "PERMISSION_DENIED"
        assert (await failure(on, *words, who="bo")).code == "NOT_FOUND"
