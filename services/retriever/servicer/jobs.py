"""The calls about jobs."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from services.retriever.domain.jobs import Job, JobState
from services.retriever.jobs.registry import Jobs
from services.retriever.servicer import checks, convert
from services.retriever.servicer.uploads import uploads
from tandem.errors import InvalidInput
from tandem.rpc import call
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_STATES = {
    JobState.RUNNING: pb.IngestJob.STATE_RUNNING,
    JobState.FINISHED: pb.IngestJob.STATE_FINISHED,
    JobState.CANCELLED: pb.IngestJob.STATE_CANCELLED,
}
_JOB = re.compile(r"[0-9a-f]{1,64}")


class JobCalls(pb_grpc.RetrieverServiceServicer):
    """Serves the jobs; the servicer that extends it sets them and the room in a message."""

    _jobs: Jobs
    _max_bytes: int

    async def CreateIngestJob(
        self, request_iterator: AsyncIterator[pb.CreateIngestJobRequest], context: Context
    ) -> pb.CreateIngestJobResponse:
        """Takes the documents to the disk."""
        principal = call.require_role("editor")
        async with aclosing(uploads(request_iterator)) as arriving:
            return pb.CreateIngestJobResponse(job=_job(await self._jobs.create(principal, arriving)))

    async def GetIngestJob(self, request: pb.GetIngestJobRequest, context: Context) -> pb.GetIngestJobResponse:
        """Tells how far a job is."""
        principal = call.require_role("editor")
        return pb.GetIngestJobResponse(job=_job(self._jobs.get(principal, request.job_id)))

    async def ListIngestJobs(self, request: pb.ListIngestJobsRequest, context: Context) -> pb.ListIngestJobsResponse:
        """Returns a page of jobs."""
        principal = call.require_role("editor")
        size, before = _page_size(request.page_size), _read_token(request.page_token)
        jobs = self._jobs.page(principal, before=before, limit=size + 1)
        response = pb.ListIngestJobsResponse()
        room = self._max_bytes
        for job in jobs[:size]:
            message = _job(job)
            room -= message.ByteSize() + 8
            if room < 0 and response.jobs:
                break
            response.jobs.append(message)
        if len(response.jobs) < len(jobs):
            response.next_page_token = _token(response.jobs[-1].job_id)
        return response

    async def ListIngestJobResults(
        self, request: pb.ListIngestJobResultsRequest, context: Context
    ) -> pb.ListIngestJobResultsResponse:
        """Returns a page of what became of a job's documents."""
        principal = call.require_role("editor")
        size, token = _page_size(request.page_size), _read_token(request.page_token)
        rows = await self._jobs.results(
            principal,
            request.job_id,
            offset=int(token or "0", 16),
            limit=size + 1,
            rejected_only=request.rejected_only,
        )
        response = pb.ListIngestJobResultsResponse()
        room, after = self._max_bytes, 0
        for result, end in rows[:size]:
            message = convert.ingest_result(result)
            room -= message.ByteSize() + 8
            if room < 0 and response.results:
                break
            response.results.append(message)
            after = end
        if len(response.results) < len(rows):
            response.next_page_token = _token(f"{after:x}")
        return response

    async def CancelIngestJob(self, request: pb.CancelIngestJobRequest, context: Context) -> pb.CancelIngestJobResponse:
        """Ends a job."""
        principal = call.require_role("editor")
        return pb.CancelIngestJobResponse(job=_job(await self._jobs.cancel(principal, request.job_id)))


def _job(job: Job) -> pb.IngestJob:
    return pb.IngestJob(
        job_id=job.job_id,
        state=_STATES[job.state],
        num_documents=job.num_documents,
        num_indexed=job.num_indexed,
        num_unchanged=job.num_unchanged,
        num_rejected=job.num_rejected,
        create_time=convert.timestamp(job.create_time),
        end_time=None if job.end_time is None else convert.timestamp(job.end_time),
        subject=job.principal.subject,
    )


def _page_size(asked: int) -> int:
    if not 0 <= asked <= checks.MAX_PAGE:
        raise InvalidInput.of("page_size", f"must be 0 to {checks.MAX_PAGE}")
    return asked or checks.DEFAULT_PAGE


def _token(after: str) -> str:
    return base64.urlsafe_b64encode(f"j1:{after}".encode()).decode()


def _read_token(token: str) -> str:
    """Returns the hexadecimal digits that the page begins after; none for the first."""
    if not token:
        return ""
    try:
        version, _, after = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        version, after = "", ""
    if version != "j1" or not _JOB.fullmatch(after):
        raise InvalidInput.of("page_token", "is not one that this service gave")
    return after
