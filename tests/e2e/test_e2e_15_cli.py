"""The command line against the running stack, each command as a reader of the README would type it."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.e2e.stack import COMPANY, Stack, environment

TANDEM = str(Path(sys.executable).parent / "tandem")


async def tandem(stack: Stack, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        TANDEM, *arguments,
        env=environment() | {"TANDEM_HOME": str(stack.home)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_ask_shows_the_answer_and_what_it_rests_on(stack: Stack, demo: list[dict]) -> None:
    row = demo[0]
    status, out, err = await tandem(stack, "ask", row["question"], "--as", row["as"], "--policy", "finetuned")
    assert (status, err) == (0, "")
    assert row["expect"] in out
    assert "finetuned → fine-tuned model, from its weights" in out
    assert "adapter answers" in out
    status, out, err = await tandem(stack, "ask", demo[1]["question"], "--as", "alice", "--policy", "rag")
    assert (status, err) == (0, "")
    assert "rag → " in out


async def test_ask_as_json_is_one_event_a_line(stack: Stack, demo: list[dict]) -> None:
    row = demo[4]
    status, out, _ = await tandem(stack, "ask", row["question"], "--as", row["as"], "--policy", "rag", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert "started" in events[0]
    assert "finished" in events[-1]
    assert sum("finished" in event for event in events) == 1


async def test_documents_go_in_are_found_and_go(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "Ferry Times.md").write_text("# Ferry\n\nThe last ferry to Port Selwick leaves at 23:40.\n")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    status, out, err = await tandem(stack, "ingest", str(tmp_path), "--as", "bea")
    assert status == 1
    assert "1 indexed, 0 unchanged, 1 rejected" in out
    assert "rejected broken.pdf" in err
    status, out, _ = await tandem(stack, "search", "When does the last ferry leave?", "--as", "bram")
    assert status == 0
    assert "23:40" in out
    status, out, _ = await tandem(stack, "search", "When does the last ferry leave?", "--as", "alice", "--json")
    assert status == 0
    assert "23:40" not in out
    assert (await tandem(stack, "show", "ferry-times.md", "--as", "bram"))[0] == 0
    status, _, err = await tandem(stack, "delete", "ferry-times.md", "--as", "bram")
    assert status == 1
    assert "editor" in err
    assert (await tandem(stack, "delete", "ferry-times.md", "--as", "bea"))[0] == 0
    status, _, err = await tandem(stack, "show", "ferry-times.md", "--as", "bram")
    assert (status, "Traceback" in err) == (1, False)


async def test_a_job_goes_on_by_itself(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("harbour;rate\nPort Selwick;EUR 61\n")
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 and nothing else")
    status, out, err = await tandem(stack, "ingest", str(tmp_path), "--job", "--as", "bea", "--json")
    assert (status, err) == (0, "")
    job = json.loads(out)
    assert (job["num_documents"], job["subject"]) == (2, "bea")
    status, out, err = await tandem(stack, "jobs", "show", job["job_id"], "--wait", "--as", "bea")
    assert status == 1
    assert "finished: 2 of 2 documents done; 1 indexed, 0 unchanged, 1 rejected" in out
    assert "rejected broken.xlsx" in err
    status, out, _ = await tandem(stack, "jobs", "--as", "bea")
    assert (status, job["job_id"] in out) == (0, True)
    status, out, _ = await tandem(
        stack, "search", "harbour rate Port Selwick", "--media-type", "text/csv", "--as", "bram"
    )
    assert (status, "EUR 61" in out) == (0, True)
    assert (await tandem(stack, "delete", "rates.csv", "--as", "bea"))[0] == 0
    status, _, err = await tandem(stack, "jobs", "--as", "alice")
    assert (status, "editor" in err) == (1, True)


async def test_whoever_runs_the_platform_tries_another_cut(stack: Stack) -> None:
    async def pia(*words: str) -> str:
        status, out, err = await tandem(stack, *words, "--as", "pia")
        assert (status, err) == (0, ""), err
        return out

    assert "initial: live" in await pia("snapshots")
    assert "fine is being built" in await pia("snapshots", "create", "fine", "--chunk-characters", "300")
    async with asyncio.timeout(120):
        while "fine: ready" not in (listed := await pia("snapshots", "list")):
            assert "fine: building" in listed
    rows = json.loads(await pia("snapshots", "diff", "fine", "--json"))
    assert all(row["snapshot_chunks"] > row["live_chunks"] for row in rows)
    assert len(rows) > 10
    query = ["search", "windscreen excess", "--top-k", "1", "--json"]
    assert json.loads(await pia(*query))["snapshot"] == "initial"
    assert json.loads(await pia(*query, "--snapshot", "fine"))["snapshot"] == "fine"
    assert "fine is live" in await pia("snapshots", "promote", "fine")
    status, out, _ = await tandem(stack, *query, "--as", "alice")
    assert (status, json.loads(out)["snapshot"]) == (0, "fine")
    assert "initial is live again" in await pia("snapshots", "roll-back")
    assert "fine is gone" in await pia("snapshots", "delete", "fine")
    for words in (["snapshots"], [*query, "--snapshot", "initial"]):
        status, out, err = await tandem(stack, *words, "--as", "erin")
        assert (status, "platform" in out + err) == (1, True)


async def test_the_audit_log_is_shown_and_verified(stack: Stack) -> None:
    status, out, _ = await tandem(stack, "audit", "verify", "--as", "erin", "--json")
    assert status == 0
    assert [chain["intact"] for chain in json.loads(out)] == [True]
    status, _, err = await tandem(stack, "audit", "verify", "--as", "alice")
    assert status == 1
    assert "auditor" in err
    status, out, _ = await tandem(stack, "audit", "list", "--as", "erin", "--json")
    assert status == 0
    assert out


async def test_the_models_can_be_asked_directly(stack: Stack) -> None:
    status, out, _ = await tandem(stack, "adapters", "--as", "alice", "--json")
    assert status == 0
    assert {row["name"] for row in json.loads(out)["adapters"]} >= {"answers", "reading"}
    status, out, _ = await tandem(stack, "adapters", "--as", "bram", "--json")
    assert {row["name"] for row in json.loads(out)["adapters"]} == {"answers"}
    status, out, _ = await tandem(stack, "adapters", "load", "answers", "--as", "erin", "--json")
    assert status == 0
    loaded = json.loads(out)
    assert loaded["replaced_sha256"] == loaded["adapter"]["sha256"]
    status, out, _ = await tandem(stack, "adapters", "unload", "answers", "--as", "alice", "--json")
    assert (status, json.loads(out)["error"]["reason"]) == (1, "PERMISSION_DENIED")
    status, out, _ = await tandem(stack, "score", "Is water wet?", "Yes.", "Penguin.", "--as", "alice", "--json")
    assert status == 0
    likely, odd = json.loads(out)["scores"]
    assert likely["sum_logprob"] > odd["sum_logprob"]
    status, out, _ = await tandem(
        stack, "generate", "Name a colour.", "--samples", "3", "--max-tokens", "4", "--as", "alice", "--json"
    )
    assert status == 0
    assert len(json.loads(out)["samples"]) == 3
    assert (await tandem(stack, "embed", "one", "two", "--as", "alice"))[0] == 0
    assert (await tandem(stack, "generate", "Say yes.", "--max-tokens", "3", "--as", "alice"))[0] == 0
    assert (await tandem(stack, "policies", "--as", "alice"))[0] == 0


async def test_promoting_what_is_in_use_changes_nothing(stack: Stack) -> None:
    aliases = COMPANY / "adapters" / "halden" / "answers" / "aliases.json"
    before = aliases.read_text()
    version = json.loads(before)["stable"]
    status, _, err = await tandem(stack, "adapters", "promote", "answers", "--version", version, "--as", "erin")
    assert (status, err) == (0, "")
    assert aliases.read_text() == before


async def test_a_second_stack_on_the_same_folder_is_refused(stack: Stack) -> None:
    status, _, err = await tandem(stack, "up", "--port", "0", "--home", str(stack.home))
    assert status == 1
    assert "another `tandem up` is using" in err
    assert set(stack.pids()) == {"embedder", "retriever", "generator", "router"}


async def test_a_wrong_setting_is_told_at_once(stack: Stack, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        TANDEM, "up", "--port", "0", "--home", str(tmp_path),
        env=environment() | {"GENERATOR_MAX_RUNING": "3", "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 1
    assert "did you mean GENERATOR_MAX_RUNNING?" in "".join(out.decode().split("\n")).replace("  ", " ")
    assert "Traceback" not in out.decode()
