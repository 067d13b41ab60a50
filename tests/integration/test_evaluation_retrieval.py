"""`tandem evaluate retrieval` against a running retriever: what a user types, and what stays behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmarks.retriever_embedder import bag_of_words, embedder
from benchmarks.retriever_server import Retriever
from evaluation.cli import app
from tandem.errors import InvalidInput
from tests.fakes.evaluation import write_folder

DIMENSION = 64
ANIMALS = ("adder", "badger", "crane", "dormouse", "eel", "ferret", "goose", "heron")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = {f"Doc {name}": f"The {name} lives by the river. {name} and water." for name in ANIMALS}
    queries = {f"q-{name}": f"where lives the {name}?" for name in ANIMALS}
    return write_folder(tmp_path / "Animals", documents, queries, [(f"q-{name}", f"Doc {name}", 1) for name in ANIMALS])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Retriever]:
    home = tmp_path / "home"
    home.mkdir()
    async with embedder(bag_of_words(DIMENSION)) as address:
        running = Retriever(home, address, {"DIMENSION": str(DIMENSION)})
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


async def typed(on: Retriever, folder: Path, *words: str) -> Result:
    environment = {"TANDEM_RETRIEVER": on.target, "TANDEM_TOKEN": on.token, "TANDEM_HOME": str(folder.parent)}
    command = ["retrieval", "--data", str(folder), *words]
    return await asyncio.to_thread(CliRunner().invoke, app, command, env=environment)


async def held(on: Retriever) -> list[str]:
    async with on.client() as client:
        return [document.document_id async for document in client.list_documents()]


async def test_a_folder_is_measured_and_nothing_stays(server: Retriever, folder: Path) -> None:
    done = await typed(server, folder, "--json", "--modes", "dense,bm25,hybrid,rerank", "--tune")
    assert done.exception is None, done.output
    found = json.loads(done.stdout)
    assert list(found["modes"]) == ["dense", "sparse", "hybrid"]
    assert "rerank" in found["absent"]["hybrid + rerank"]
    assert found["modes"]["sparse"]["metrics"]["ndcg@10"]["value"] == 1
    assert found["modes"]["sparse"]["rankings"]["q-eel"][0] == "Doc eel"
    assert (found["tuning"]["num_chosen_on"], found["tuning"]["num_measured_on"]) == (4, 4)
    assert (found["filed"]["num_indexed"], found["filed"]["num_unchanged"]) == (8, 0)
    out = folder.parent / "evaluations" / "animals"
    assert json.loads((out / "retrieval.json").read_text())["modes"].keys() == found["modes"].keys()
    assert "Doc" not in (out / "retrieval.html").read_text()  # a page of figures
    assert await held(server) == []


async def test_what_is_kept_costs_nothing_the_next_time_and_can_be_cleaned(server: Retriever, folder: Path) -> None:
    first = await typed(server, folder, "--keep", "--modes", "sparse")
    assert first.exit_code == 0, first.output
    assert "sparse" in first.stdout
    assert len(await held(server)) == 8
    again = json.loads((await typed(server, folder, "--keep", "--modes", "sparse", "--queries", "3", "--json")).stdout)
    assert (again["filed"]["num_indexed"], again["filed"]["num_unchanged"]) == (0, 8)
    assert again["about"]["queries"] == 3
    assert "8 documents of animals removed" in (await typed(server, folder, "--clean")).stdout
    assert await held(server) == []


async def test_bad_data_and_modes_are_named_before_anything_is_sent(server: Retriever, folder: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "b"}\n')
    done = await typed(server, folder)
    assert isinstance(done.exception, InvalidInput)
    assert f"{folder}/corpus.jsonl, line 2" in done.exception.message
    done = await typed(server, folder, "--modes", "dense,psychic")
    assert isinstance(done.exception, InvalidInput)
    assert "--modes takes dense, sparse, bm25, hybrid, rerank, not 'psychic'" in done.exception.message
    assert await held(server) == []


def test_the_root_command_has_it() -> None:
    from tandem.cli.app import app as root

    assert "evaluate" in {command.name for command in root.registered_commands} | {
        group.name for group in root.registered_groups
    }
