"""AuditService: the caller's tenant's records, and the verification of every chain."""

from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.router.audit import AuditReader, feedback_number, parse_timestamp
from services.router.domain import AuditRecord, ChainReport
from services.router.servicer.check import moment_of
from tandem.errors import InvalidInput
from tandem.rpc import call
from tandem.v1 import audit_service_pb2, audit_service_pb2_grpc

_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_KINDS = {
    "opened": audit_service_pb2.AuditRecord.KIND_OPENED,
    "closed": audit_service_pb2.AuditRecord.KIND_CLOSED,
    "feedback": audit_service_pb2.AuditRecord.KIND_FEEDBACK,
}
_OUTCOMES = {
    "answered": audit_service_pb2.AuditRecord.OUTCOME_ANSWERED,
    "abstained": audit_service_pb2.AuditRecord.OUTCOME_ABSTAINED,
    "failed": audit_service_pb2.AuditRecord.OUTCOME_FAILED,
    "cancelled": audit_service_pb2.AuditRecord.OUTCOME_CANCELLED,
    "interrupted": audit_service_pb2.AuditRecord.OUTCOME_INTERRUPTED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Checks, calls the reader, converts; the tenant is always the caller's own."""

    def __init__(self, reader: AuditReader) -> None:
        self._reader = reader

    async def GetAuditRecords(
        self, request: audit_service_pb2.GetAuditRecordsRequest, context: Context
    ) -> audit_service_pb2.GetAuditRecordsResponse:
        """Returns the records of one answer."""
        caller = call.require_role("auditor")
        if not request.answer_id:
            raise InvalidInput.of("answer_id", "must not be empty")
        records = await self._reader.get(caller.tenant, request.answer_id)
        return audit_service_pb2.GetAuditRecordsResponse(records=[_record(record) for record in records])

    async def ListAuditRecords(
        self, request: audit_service_pb2.ListAuditRecordsRequest, context: Context
    ) -> audit_service_pb2.ListAuditRecordsResponse:
        """Returns a page of the tenant's records, newest first."""
        caller = call.require_role("auditor")
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidInput.of("page_size", f"must be 0 to {_MAX_PAGE}, is {request.page_size}")
        page = await self._reader.page(
            caller.tenant,
            size=request.page_size or _DEFAULT_PAGE,
            token=request.page_token,
            start=_bound(request, "start_time"),
            end=_bound(request, "end_time"),
        )
        return audit_service_pb2.ListAuditRecordsResponse(
            records=[_record(record) for record in page.records], next_page_token=page.next_page_token
        )

    async def VerifyAuditChain(
        self, request: audit_service_pb2.VerifyAuditChainRequest, context: Context
    ) -> audit_service_pb2.VerifyAuditChainResponse:
        """Recomputes every chain."""
        call.require_role("auditor")
        reports = await self._reader.verify()
        return audit_service_pb2.VerifyAuditChainResponse(chains=[_report(report) for report in reports])


def _bound(request: audit_service_pb2.ListAuditRecordsRequest, field: str) -> datetime | None:
    if field == "start_time":
        return moment_of(request.start_time, field) if request.HasField("start_time") else None
    return moment_of(request.end_time, field) if request.HasField("end_time") else None


def _record(record: AuditRecord) -> audit_service_pb2.AuditRecord:
    kind = "feedback" if feedback_number(record.kind) else record.kind
    stamp = Timestamp()
    try:
        stamp.FromDatetime(parse_timestamp(record.record_time))
    except ValueError:
        stamp.Clear()  # a tampered record is shown as it is; verification names the fault
    return audit_service_pb2.AuditRecord(
        writer=record.writer,
        sequence=record.sequence,
        answer_id=record.answer_id,
        kind=_KINDS.get(kind, audit_service_pb2.AuditRecord.KIND_UNSPECIFIED),
        outcome=_OUTCOMES.get(record.outcome, audit_service_pb2.AuditRecord.OUTCOME_UNSPECIFIED),
        record_time=stamp,
        subject=record.subject,
        tenant=record.tenant,
        payload_json=record.payload_json,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )


def _report(report: ChainReport) -> audit_service_pb2.ChainReport:
    return audit_service_pb2.ChainReport(
        writer=report.writer,
        num_records=report.num_records,
        intact=report.first_fault_sequence is None,
        first_fault_sequence=report.first_fault_sequence,
        fault=report.fault,
        head_hash=report.head_hash,
    )
