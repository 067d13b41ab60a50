"""Clients of what the router keeps on record: its audit log, and what people said of its answers."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime

from tandem.client.base import AsyncClient, Client
from tandem.client.requests import timestamp
from tandem.v1 import audit_service_pb2 as audit
from tandem.v1 import audit_service_pb2_grpc, feedback_service_pb2_grpc
from tandem.v1 import feedback_service_pb2 as feedback


class AuditClient(Client):
    """Reads and verifies the audit records of the caller's tenant."""

    stub = audit_service_pb2_grpc.AuditServiceStub

    def get_records(self, answer_id: str, *, timeout: float | None = None) -> list[audit.AuditRecord]:
        """Returns the records of one answer, opened first."""
        request = audit.GetAuditRecordsRequest(answer_id=answer_id)
        response: audit.GetAuditRecordsResponse = self._call("GetAuditRecords", request, timeout)
        return list(response.records)

    def list_records(
        self, *, start: datetime | None = None, end: datetime | None = None, timeout: float | None = None
    ) -> Iterator[audit.AuditRecord]:
        """Yields the tenant's records, newest first, page by page."""
        request = audit.ListAuditRecordsRequest(start_time=timestamp(start), end_time=timestamp(end))
        return self._pages("ListAuditRecords", request, "records", timeout)

    def verify(self, *, timeout: float | None = None) -> list[audit.ChainReport]:
        """Recomputes every chain and returns a report on each."""
        request = audit.VerifyAuditChainRequest()
        response: audit.VerifyAuditChainResponse = self._call("VerifyAuditChain", request, timeout)
        return list(response.chains)


class FeedbackClient(Client):
    """Says how good answers were."""

    stub = feedback_service_pb2_grpc.FeedbackServiceStub

    def submit(
        self,
        answer_id: str,
        verdict: "feedback.Verdict.ValueType",
        *,
        corrected_text: str = "",
        deflected_ticket: bool | None = None,
        timeout: float | None = None,
    ) -> feedback.Feedback:
        """Records a verdict; it is durable when this returns."""
        request = feedback.SubmitFeedbackRequest(
            answer_id=answer_id, verdict=verdict, corrected_text=corrected_text, deflected_ticket=deflected_ticket
        )
        response: feedback.SubmitFeedbackResponse = self._call("SubmitFeedback", request, timeout)
        return response.feedback

    def list(self, *, domain: str = "", timeout: float | None = None) -> Iterator[feedback.Feedback]:
        """Yields the tenant's feedback, newest first, page by page."""
        return self._pages("ListFeedback", feedback.ListFeedbackRequest(domain=domain), "feedback", timeout)


class AsyncAuditClient(AsyncClient):
    """Reads and verifies the audit records of the caller's tenant, asynchronously."""

    stub = audit_service_pb2_grpc.AuditServiceStub

    async def get_records(self, answer_id: str, *, timeout: float | None = None) -> list[audit.AuditRecord]:
        """Returns the records of one answer, opened first."""
        request = audit.GetAuditRecordsRequest(answer_id=answer_id)
        response: audit.GetAuditRecordsResponse = await self._call("GetAuditRecords", request, timeout)
        return list(response.records)

    def list_records(
        self, *, start: datetime | None = None, end: datetime | None = None, timeout: float | None = None
    ) -> AsyncIterator[audit.AuditRecord]:
        """Yields the tenant's records, newest first, page by page."""
        request = audit.ListAuditRecordsRequest(start_time=timestamp(start), end_time=timestamp(end))
        return self._pages("ListAuditRecords", request, "records", timeout)

    async def verify(self, *, timeout: float | None = None) -> list[audit.ChainReport]:
        """Recomputes every chain and returns a report on each."""
        request = audit.VerifyAuditChainRequest()
        response: audit.VerifyAuditChainResponse = await self._call("VerifyAuditChain", request, timeout)
        return list(response.chains)


class AsyncFeedbackClient(AsyncClient):
    """Says how good answers were, asynchronously."""

    stub = feedback_service_pb2_grpc.FeedbackServiceStub

    async def submit(
        self,
        answer_id: str,
        verdict: "feedback.Verdict.ValueType",
        *,
        corrected_text: str = "",
        deflected_ticket: bool | None = None,
        timeout: float | None = None,
    ) -> feedback.Feedback:
        """Records a verdict; it is durable when this returns."""
        request = feedback.SubmitFeedbackRequest(
            answer_id=answer_id, verdict=verdict, corrected_text=corrected_text, deflected_ticket=deflected_ticket
        )
        response: feedback.SubmitFeedbackResponse = await self._call("SubmitFeedback", request, timeout)
        return response.feedback

    def list(self, *, domain: str = "", timeout: float | None = None) -> AsyncIterator[feedback.Feedback]:
        """Yields the tenant's feedback, newest first, page by page."""
        return self._pages("ListFeedback", feedback.ListFeedbackRequest(domain=domain), "feedback", timeout)
