"""AuditService over real gRPC, and the chain across a kill of the process."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tandem import errors
from tandem.rpc.channel import connect
from tandem.rpc.status import from_rpc_error
from tandem.v1 import audit_service_pb2 as audit
from tandem.v1 import router_service_pb2
from tandem.v1.audit_service_pb2_grpc import AuditServiceStub
from tandem.v1.router_service_pb2_grpc import RouterServiceStub
from tests.fakes.router import World, Written
from tests.fakes.router_peers import stack

Record = audit.AuditRecord


@asynccontextmanager
async def auditor(address: str, token: str = "erin") -> AsyncIterator[AuditServiceStub]:
    async with connect(address, token=token, default_timeout_s=20) as channel:
        await channel.channel_ready()
        yield AuditServiceStub(channel)


async def ask(address: str, token: str = "alice", policy: str = "rag") -> router_service_pb2.Answer:
    async with connect(address, token=token, default_timeout_s=20) as channel:
        await channel.channel_ready()
        request = router_service_pb2.AskRequest(question="What is the excess for collision?", policy=policy)
        return (await RouterServiceStub(channel).Ask(request)).answer


async def refused(awaitable: object) -> errors.TandemError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def test_an_answer_has_its_two_records(tmp_path: Path):
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        answer = await ask(address)
        found = await stub.GetAuditRecords(audit.GetAuditRecordsRequest(answer_id=answer.answer_id))
        opened, closed = found.records
        assert (opened.kind, closed.kind) == (Record.KIND_OPENED, Record.KIND_CLOSED)
        assert (opened.outcome, closed.outcome) == (Record.OUTCOME_UNSPECIFIED, Record.OUTCOME_ANSWERED)
        assert (opened.subject, opened.tenant, opened.writer) == ("alice", "halden", "router")
        assert (opened.sequence, closed.sequence) == (1, 2)
        assert closed.previous_hash == opened.hash
        assert closed.record_time.ToNanoseconds() >= opened.record_time.ToNanoseconds() > 0
        payload = json.loads(closed.payload_json)
        assert payload["answer"] == answer.text
        assert payload["lineage"]["adapter"] == answer.lineage.adapter
        keys = ("signer_key_id", "cipher", "cipher_key_id")
        assert [payload["lineage"][key] for key in keys] == [getattr(answer.lineage, key) for key in keys]
        assert answer.lineage.cipher == ("AES-256-GCM" if answer.lineage.adapter else "")
        assert payload["citations"][0]["quote"] == answer.citations[0].quote
        assert [step["reason"] for step in payload["steps"]] == [step.reason for step in answer.decision.steps]
        (report,) = (await stub.VerifyAuditChain(audit.VerifyAuditChainRequest())).chains
        assert (report.intact, report.num_records, report.head_hash) == (True, 2, closed.hash)
        assert not report.HasField("first_fault_sequence")


async def test_a_call_that_broke_off_has_the_weights_that_wrote_in_its_record(tmp_path: Path):
    world = World()
    world.generator.sequences["answers"] = Written(late_error=errors.Unavailable("gone"))
    async with stack(world, tmp_path) as address, auditor(address) as stub:
        await refused(ask(address, policy="finetuned"))
        (closed, _) = (await stub.ListAuditRecords(audit.ListAuditRecordsRequest())).records
        assert closed.outcome == Record.OUTCOME_FAILED
        (draft,) = json.loads(closed.payload_json)["drafts"]
        assert (draft["route"], draft["finished"], draft["lineage"]["adapter"]) == ("finetuned", False, "answers")
        assert draft["lineage"]["signer_key_id"] == "ef" * 8


async def test_only_auditors_and_only_their_tenant(tmp_path: Path):
    async with stack(World(), tmp_path) as address:
        answer = await ask(address)
        name = audit.GetAuditRecordsRequest(answer_id=answer.answer_id)
        async with auditor(address, "alice") as stub:
            for denied in (
                stub.GetAuditRecords(name),
                stub.ListAuditRecords(audit.ListAuditRecordsRequest()),
                stub.VerifyAuditChain(audit.VerifyAuditChainRequest()),
            ):
                assert (await refused(denied)).code == "PERMISSION_DENIED"
        async with auditor(address, "bea") as stub:
            assert (await refused(stub.GetAuditRecords(name))).code == "NOT_FOUND"
            assert not (await stub.ListAuditRecords(audit.ListAuditRecordsRequest())).records
            # Every chain is verified for everyone: it tells of no record's content.
            assert (await stub.VerifyAuditChain(audit.VerifyAuditChainRequest())).chains[0].intact


async def test_lists_page_newest_first(tmp_path: Path):
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        for _ in range(3):
            await ask(address)
        first = await stub.ListAuditRecords(audit.ListAuditRecordsRequest(page_size=4))
        second = await stub.ListAuditRecords(
            audit.ListAuditRecordsRequest(page_size=4, page_token=first.next_page_token)
        )
        assert [record.sequence for record in [*first.records, *second.records]] == [6, 5, 4, 3, 2, 1]
        assert not second.next_page_token
        oldest = second.records[-1].record_time
        window = await stub.ListAuditRecords(audit.ListAuditRecordsRequest(end_time=oldest))
        assert not window.records
        window = await stub.ListAuditRecords(audit.ListAuditRecordsRequest(start_time=oldest))
        assert len(window.records) == 6


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (audit.ListAuditRecordsRequest(page_size=-1), "page_size"),
        (audit.ListAuditRecordsRequest(page_size=1001), "page_size"),
        (audit.ListAuditRecordsRequest(page_token="nonsense"), "page_token"),
        (audit.ListAuditRecordsRequest(start_time=Timestamp(seconds=-(10**12))), "start_time"),
        (audit.ListAuditRecordsRequest(end_time=Timestamp(nanos=2**31 - 1)), "end_time"),
    ],
)
async def test_a_faulty_field_is_named(tmp_path: Path, request_: audit.ListAuditRecordsRequest, field: str):
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        error = await refused(stub.ListAuditRecords(request_))
    assert isinstance(error, errors.InvalidInput)
    assert [violation.field for violation in error.violations] == [field]


async def test_answer_ids_are_checked(tmp_path: Path):
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        assert (await refused(stub.GetAuditRecords(audit.GetAuditRecordsRequest()))).code == "INVALID_ARGUMENT"
        unknown = audit.GetAuditRecordsRequest(answer_id="nobody's" * 500)
        assert (await refused(stub.GetAuditRecords(unknown))).code == "NOT_FOUND"


async def test_a_fault_is_a_finding(tmp_path: Path):
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        await ask(address)
        file = sqlite3.connect(tmp_path / "audit.db")
        file.execute("DROP TRIGGER audit_records_no_update")
        file.execute("UPDATE audit_records SET payload_json = replace(payload_json, '500', '900') WHERE sequence = 2")
        file.commit()
        file.close()
        (report,) = (await stub.VerifyAuditChain(audit.VerifyAuditChainRequest())).chains
    assert not report.intact
    assert report.first_fault_sequence == 2
    assert "changed" in report.fault


async def test_no_answer_when_the_log_cannot_be_written(tmp_path: Path):
    async with stack(World(), tmp_path) as address:
        file = sqlite3.connect(tmp_path / "audit.db")
        file.execute("CREATE TRIGGER full BEFORE INSERT ON audit_records BEGIN SELECT RAISE(ABORT, 'full'); END")
        file.commit()
        error = await refused(ask(address))
        assert (error.code, error.reason) == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
        file.execute("DROP TRIGGER full")
        file.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit_records WHEN NEW.kind = 'closed' "
            "BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        file.commit()
        assert (await refused(ask(address))).code == "UNAVAILABLE"
        file.execute("DROP TRIGGER full")
        file.commit()
        file.close()
        assert (await ask(address)).text


_KILLED = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from services.router.audit import AuditLog, Payloads
from services.router.domain import Closing, Opening, Outcome
from services.router.metrics import RouterMetrics
from tests.fakes.router import ALICE, question

async def main():
    log = AuditLog(url=sys.argv[1], writer="router", payloads=Payloads(), metrics=RouterMetrics(CollectorRegistry()))
    log.start()
    async def one(name):
        await log.open(Opening(answer_id=name, question=question(), rewritten_question="q"))
        print("opened", name, flush=True)
        await log.close(Closing(answer_id=name, principal=ALICE, outcome=Outcome.FAILED))
        print("closed", name, flush=True)
    number = 0
    while True:
        await asyncio.gather(*(one(f"{number + i}") for i in range(4)))
        number += 4

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill_and_the_rest_is_interrupted(tmp_path: Path):
    script = tmp_path / "writer.py"
    script.write_text(_KILLED)
    url = f"sqlite:///{tmp_path}/audit.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), url, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert child.stdout is not None
    lines = [await child.stdout.readline() for _ in range(60)]
    child.send_signal(signal.SIGKILL)
    rest, _ = await child.communicate()
    told = b"".join([*lines, rest]).decode().split("\n")
    acknowledged = {tuple(line.split()) for line in told if line.count(" ") == 1}
    async with stack(World(), tmp_path) as address, auditor(address) as stub:
        (report,) = (await stub.VerifyAuditChain(audit.VerifyAuditChainRequest())).chains
        assert report.intact
        listed = await stub.ListAuditRecords(audit.ListAuditRecordsRequest(page_size=1000))
        assert not listed.next_page_token
    kinds = {Record.KIND_OPENED: "opened", Record.KIND_CLOSED: "closed"}
    kept = [(kinds[record.kind], record.answer_id) for record in listed.records]
    assert acknowledged <= set(kept)
    assert len(kept) == len(set(kept))
    assert {name for kind, name in kept if kind == "opened"} == {name for kind, name in kept if kind == "closed"}
    for record in listed.records:
        if record.outcome == Record.OUTCOME_INTERRUPTED:
            assert ("closed", record.answer_id) not in acknowledged
