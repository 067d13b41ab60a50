"""`tandem ingest --job` and `tandem jobs`: what an editor types, and what it says."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tandem.cli import app as root
from tandem.cli import jobs
from tandem.errors import NotFound, TandemError
from tandem.v1 import retriever_service_pb2 as pb
from tests.fakes.retriever_hosting import house
from tests.fakes.rpc_canned import Canned
from tests.fakes.rpc_hosting import hosted

RUNNING, FINISHED, CANCELLED = pb.IngestJob.STATE_RUNNING, pb.IngestJob.STATE_FINISHED, pb.IngestJob.STATE_CANCELLED


async def typed(address: str, *words: str, who: str = "alice-token") -> Result:
    """Runs a command in a thread, as its own process would."""
    environment = {"TANDEM_RETRIEVER": address, "TANDEM_TOKEN": who}
    return await asyncio.to_thread(CliRunner().invoke, root.app, [*words], env=environment)


async def failure(address: str, *words: str, who: str) -> TandemError:
    error = (await typed(address, *words, who=who)).exception
    assert isinstance(error, TandemError)
    return error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "Ferry.md").write_text("# Ferry\n\nThe last ferry leaves at 23:40.\n")
    (documents / "notes.txt").write_text("Glass is covered.")
    (documents / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    return documents


async def test_a_folder_is_left_to_the_server_and_what_became_of_it_is_told(tmp_path: Path, folder: Path) -> None:
    async with house(tmp_path) as on:
        handed_in = await typed(on.address, "ingest", str(folder), "--job", "--group", "claims-leads", who="erin")
        assert handed_in.exit_code == 0, handed_in.output
        assert "of 3 documents done" in handed_in.output
        job_id = handed_in.output.split()[1]
        waited = await typed(on.address, "jobs", "show", job_id, "--wait", who="erin")
        assert waited.exit_code == 1, waited.output
        assert f"job {job_id} finished: 3 of 3 documents done; 2 indexed, 0 unchanged, 1 rejected" in waited.output
        assert "rejected broken.pdf: " in waited.output
        told = json.loads((await typed(on.address, "jobs", "show", job_id, "--json", who="erin")).output)
        assert (told["job"]["state"], told["job"]["subject"]) == ("STATE_FINISHED", "erin")
        assert [row["document_id"] for row in told["rejected"]] == ["broken.pdf"]
        assert await on.lena.search("last ferry") != []
        assert await on.alice.search("last ferry") == []  # not of the group
        again = await typed(on.address, "ingest", str(folder / "notes.txt"), "--job", "--json", who="erin")
        second = json.loads(again.output)["job_id"]
        assert (await typed(on.address, "jobs", "show", second, "--wait", who="erin")).exit_code == 0
        listed = (await typed(on.address, "jobs", who="otto")).output.splitlines()
        assert [line.split()[:6] for line in listed[1:]] == [
            [second, "finished", "1", "1", "0", "erin"],
            [job_id, "finished", "3", "3", "1", "erin"],
        ]
        rows = json.loads((await typed(on.address, "jobs", "list", "--json", who="otto")).output)
        assert [row["job_id"] for row in rows] == [second, job_id]
        assert "finished" in (await typed(on.address, "jobs", "cancel", job_id, who="erin")).output  # it stays so
        assert json.loads((await typed(on.address, "jobs", "--json", who="bea")).output) == []
        assert isinstance(await failure(on.address, "jobs", "show", job_id, who="bea"), NotFound)
        for words in (("jobs",), ("jobs", "cancel", job_id), ("ingest", str(folder), "--job")):
            assert (await failure(on.address, *words, who="alice")).code == "PERMISSION_DENIED"


async def test_waiting_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WAIT_S", 0.0)
    states = [pb.IngestJob(job_id="j1", state=state) for state in (RUNNING, RUNNING, FINISHED)]
    canned = Canned(GetIngestJob=[pb.GetIngestJobResponse(job=state) for state in states])
    async with hosted(canned.app()) as address:
        waited = await typed(address, "jobs", "show", "j1", "--wait")
    assert (waited.exit_code, len(canned.asked["GetIngestJob"])) == (0, 3)
    assert "job j1 finished" in waited.output


async def test_a_job_is_looked_at_once_and_ended_on_request() -> None:
    running = pb.IngestJob(job_id="j1", state=RUNNING, num_documents=5, num_indexed=1, num_rejected=1)
    ended = pb.IngestJob(job_id="j1", state=CANCELLED, num_documents=5, num_indexed=2)
    rejected = pb.IngestResult(document_id="bad.pdf", error={"message": "it is [bold]broken[/]"})
    canned = Canned(
        GetIngestJob=pb.GetIngestJobResponse(job=running),
        ListIngestJobResults=pb.ListIngestJobResultsResponse(results=[rejected]),
        CancelIngestJob=pb.CancelIngestJobResponse(job=ended),
        ListIngestJobs=pb.ListIngestJobsResponse(jobs=[pb.IngestJob(job_id="j1", subject="[red]eve\x1b[2J")]),
    )
    async with hosted(canned.app()) as address:
        shown = await typed(address, "jobs", "show", "j1")
        cancelled = await typed(address, "jobs", "cancel", "j1")
        listed = await typed(address, "jobs")
    assert shown.exit_code == 1
    assert "job j1 running: 2 of 5 documents done; 1 indexed, 0 unchanged, 1 rejected" in shown.output
    assert "rejected bad.pdf: it is [bold]broken[/]" in shown.output
    assert canned.asked["ListIngestJobResults"][0].rejected_only
    assert "job j1 cancelled: 2 of 5 documents done" in cancelled.output
    assert "[red]eve[2J" in listed.output
