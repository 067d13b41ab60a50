"""`tandem ingest`, `documents`, `show` and `delete`: the documents that evidence comes from."""

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tandem.cli import jobs
from tandem.cli.output import AsJson, as_dict, console, errors, print_json, print_json_lines, printable
from tandem.cli.session import As, Target, target
from tandem.client import RetrieverClient, Upload
from tandem.errors import InvalidInput
from tandem.v1 import retriever_service_pb2 as retriever

ENDINGS = (".md", ".txt", ".html", ".htm", ".pdf", ".docx", ".csv", ".tsv", ".xlsx", ".eml")
_INGEST_TIMEOUT_S = 3600.0


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("ingest")(ingest)
    app.command("documents")(documents)
    app.command("show")(show)
    app.command("delete")(delete)


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders that are walked.", exists=True)],
    group: Annotated[
        list[str] | None, typer.Option(help="Group that may see the documents; repeat it. None: the whole tenant.")
    ] = None,
    job: Annotated[
        bool, typer.Option("--job", help="Leave the indexing to the server: ends when all is on its disk.")
    ] = False,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Take documents in (.md .txt .html .pdf .docx .csv .xlsx .eml).

    What is unchanged costs nothing, what changed is replaced.
    A document's id is its path below the folder that was named, in lower case. Exit status 1 if any was rejected.
    """
    uploads = [upload for path in paths for upload in find(path, groups=group or ())]
    if not uploads:
        raise InvalidInput.of("paths", f"hold no documents ending in {', '.join(ENDINGS)}")
    to = target("retriever", principal)
    if job:
        with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
            jobs.tell(client.create_job(uploads, timeout=_INGEST_TIMEOUT_S), as_json=as_json)
        return
    if as_json:
        with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
            results = list(client.ingest(uploads, timeout=_INGEST_TIMEOUT_S))
        print_json_lines(results)
        rejected = results[-1].finished.num_rejected
    else:
        rejected = send(to, uploads, label="ingesting").num_rejected
    if rejected:
        raise typer.Exit(1)


def find(path: Path, *, groups: Iterable[str]) -> Iterator[Upload]:
    """Yields the documents at or below path, in the order of their names."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        identity = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:128]
        yield Upload(document_id=identity, source=file.name, data=file.read_bytes(), groups=tuple(groups))


def send(to: Target, uploads: list[Upload], *, label: str) -> retriever.IngestFinished:
    """Sends documents with a progress bar, prints what was rejected, and returns the totals."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    finished = retriever.IngestFinished()
    start = time.perf_counter()
    with (
        RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task(label, total=len(uploads))
        for event in client.ingest(uploads, timeout=_INGEST_TIMEOUT_S):
            if event.HasField("result"):
                progress.advance(task)
                if event.result.state == retriever.IngestResult.STATE_REJECTED:
                    errors.print(f"rejected {event.result.document_id}: {event.result.error.message}", markup=False)
            elif event.HasField("finished"):
                finished = event.finished
    console.print(
        f"  {finished.num_indexed} indexed, {finished.num_unchanged} unchanged, {finished.num_rejected} rejected"
        f" in {time.perf_counter() - start:.1f} s"
    )
    return finished


def documents(principal: As = None, as_json: AsJson = False) -> None:
    """List the documents that you may see."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        listed = list(client.list_documents())
    if as_json:
        print_json([as_dict(document) for document in listed])
        return
    table = Table("document", "title", "groups", "chunks", "valid from", "valid until", box=None, header_style="dim")
    for row in listed:
        dates = [str(t.ToDatetime().date()) if t.seconds else "" for t in (row.valid_from, row.valid_until)]
        table.add_row(
            row.document_id, escape(printable(row.title)), escape(", ".join(row.groups)), str(row.num_chunks), *dates
        )
    console.print(table)


def show(
    document_id: Annotated[str, typer.Argument(help="The document's id.")],
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Print a document's extracted text, to which the offsets of citations refer."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        found = client.get_document(document_id, include_text=True)
    if as_json:
        print_json(found)
    else:
        print(printable(found.text))


def delete(
    document_id: Annotated[str, typer.Argument(help="The document's id.")],
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Remove a document; the next search no longer finds it."""
    to = target("retriever", principal)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        removed = client.delete_document(document_id)
    if as_json:
        print_json({"document_id": document_id, "num_chunks": removed})
    else:
        console.print(f"{document_id} is gone, with {removed} chunks")
