"""`tandem jobs`: ingestions that the server does in the background."""

import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem.cli.output import AsJson, as_dict, console, errors, print_json, printable
from tandem.cli.session import As, target
from tandem.client import RetrieverClient
from tandem.v1 import retriever_service_pb2 as retriever

app = typer.Typer(help="List the jobs that `tandem ingest --job` left to the server (role: editor), or end one.")
JobId = Annotated[str, typer.Argument(help="The job's id.")]
_WAIT_S = 1.0


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, principal: As = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        list_(principal, as_json)
    elif principal is not None or as_json:
        raise typer.BadParameter(f"options go after {context.invoked_subcommand}")


@app.command("list")
def list_(principal: As = None, as_json: AsJson = False) -> None:
    """List your tenant's jobs, the newest first."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        jobs = list(client.list_jobs())
    if as_json:
        print_json([as_dict(job) for job in jobs])
        return
    table = Table(box=None, header_style="dim")
    table.add_column("job", no_wrap=True, min_width=24)  # the other commands take it whole
    for name in ("state", "documents", "done", "rejected", "by", "created"):
        table.add_column(name)
    for job in jobs:
        created = job.create_time.ToDatetime().isoformat(" ", timespec="seconds")
        counts = (str(number) for number in (job.num_documents, _done(job), job.num_rejected))
        table.add_row(job.job_id, _state(job), *counts, escape(printable(job.subject)), created)
    console.print(table)


@app.command()
def show(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the job has ended.")] = False,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Tell how far a job is and what was rejected. Exit status 1 if anything was."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        job = client.get_job(job_id)
        while wait and job.state == retriever.IngestJob.STATE_RUNNING:
            time.sleep(_WAIT_S)
            job = client.get_job(job_id)
        rejected = list(client.list_job_results(job_id, rejected_only=True)) if job.num_rejected else []
    if as_json:
        print_json({"job": as_dict(job), "rejected": [as_dict(result) for result in rejected]})
    else:
        tell(job, as_json=False)
        for result in rejected:
            errors.print(f"rejected {result.document_id}: {result.error.message}", markup=False)
    if rejected:
        raise typer.Exit(1)


@app.command()
def cancel(job_id: JobId, principal: As = None, as_json: AsJson = False) -> None:
    """End a job; documents that were indexed stay."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        tell(client.cancel_job(job_id), as_json=as_json)


def tell(job: retriever.IngestJob, *, as_json: bool) -> None:
    """Prints a job as it stands."""
    if as_json:
        print_json(job)
        return
    console.print(
        f"job {job.job_id} {_state(job)}: {_done(job)} of {job.num_documents} documents done; {job.num_indexed} "
        f"indexed, {job.num_unchanged} unchanged, {job.num_rejected} rejected",
        soft_wrap=True,
    )


def _done(job: retriever.IngestJob) -> int:
    return job.num_indexed + job.num_unchanged + job.num_rejected


def _state(job: retriever.IngestJob) -> str:
    return str(retriever.IngestJob.State.Name(job.state)).removeprefix("STATE_").lower()
