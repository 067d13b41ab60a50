"""What is written of jobs, documents and results, and how it is read back."""

import json
from typing import Any

from services.retriever.domain import Header, Unreadable
from services.retriever.domain.jobs import Job, JobState
from services.retriever.domain.uploads import Result, State, Upload
from tandem.errors import DataLoss, FieldViolation, Internal, InvalidInput, PermissionDenied, TandemError
from tandem.security import Principal


def dump_job(job: Job) -> bytes:
    """Returns a job as JSON."""
    row = {
        "job_id": job.job_id,
        "principal": json.loads(job.principal.to_json()),
        "num_documents": job.num_documents,
        "create_time": job.create_time,
        "state": job.state.value,
        "end_time": job.end_time,
        "counts": [job.num_indexed, job.num_unchanged, job.num_rejected],
    }
    return json.dumps(row).encode()


def load_job(data: bytes) -> Job:
    """Reads what dump_job wrote; raises ValueError, KeyError or TypeError for anything else."""
    row = json.loads(data)
    indexed, unchanged, rejected = row["counts"]
    return Job(
        job_id=row["job_id"],
        principal=Principal.from_mapping(row["principal"]),
        num_documents=row["num_documents"],
        create_time=row["create_time"],
        state=JobState(row["state"]),
        end_time=row["end_time"],
        num_indexed=indexed,
        num_unchanged=unchanged,
        num_rejected=rejected,
    )


def dump_head(upload: Upload) -> bytes:
    """Returns a document without its bytes as a line of JSON."""
    header = upload.header
    row = {
        "document_id": upload.document_id,
        "appeared": upload.appeared,
        "fault": _error_row(upload.fault),
        "source": header.source,
        "media_type": header.media_type,
        "title": header.title,
        "groups": list(header.groups),
        "valid_from": header.valid_from,
        "valid_until": header.valid_until,
        "attributes": dict(header.attributes),
    }
    return json.dumps(row).encode() + b"\n"


def load_document(stored: bytes) -> Upload:
    """Reads a line that dump_head wrote, followed by the document's bytes."""
    head, _, data = stored.partition(b"\n")
    row = json.loads(head)
    header = Header(
        source=row["source"],
        media_type=row["media_type"],
        title=row["title"],
        groups=tuple(row["groups"]),
        valid_from=row["valid_from"],
        valid_until=row["valid_until"],
        attributes=row["attributes"],
    )
    return Upload(
        document_id=row["document_id"],
        header=header,
        data=data,
        fault=_error(row["fault"]),
        appeared=row["appeared"],
    )


def dump_result(result: Result) -> bytes:
    """Returns a result as a line of JSON."""
    row = {
        "document_id": result.document_id,
        "state": result.state.value,
        "sha256": result.content_sha256,
        "num_chunks": result.num_chunks,
        "error": _error_row(result.error),
    }
    return json.dumps(row).encode() + b"\n"


def load_result(line: bytes) -> Result:
    """Reads what dump_result wrote."""
    row = json.loads(line)
    return Result(
        document_id=row["document_id"],
        state=State(row["state"]),
        content_sha256=row["sha256"],
        num_chunks=row["num_chunks"],
        error=_error(row["error"]),
    )


def _error_row(error: TandemError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    violations = [[v.field, v.description] for v in error.violations] if isinstance(error, InvalidInput) else []
    return {"code": error.code, "reason": error.reason, "message": error.message, "violations": violations}


def _error(row: dict[str, Any] | None) -> TandemError | None:
    if row is None:
        return None
    message, reason = row["message"], row["reason"]
    for kind in (PermissionDenied, DataLoss, Internal):
        if row["code"] == kind.code:
            return kind(message, reason=reason)
    if violations := [FieldViolation(field, description) for field, description in row["violations"]]:
        return InvalidInput(message, violations, reason=reason)
    return Unreadable(reason, message)
