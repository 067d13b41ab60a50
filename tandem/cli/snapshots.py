"""`tandem snapshots`: versions of the collection beside the live one, and changing which one is live."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from tandem.cli.output import AsJson, as_dict, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import RetrieverClient
from tandem.v1 import retriever_service_pb2 as retriever

app = typer.Typer(
    help="Build another version of the collection beside the live one, compare it, make it live, and go back "
    "(role: platform; snapshots are shared by all tenants). `tandem search --snapshot NAME` searches one that is not "
    "live, `tandem evaluate retrieval --snapshot NAME` measures it."
)
Name = Annotated[str, typer.Argument(help="Name of the snapshot.")]
_STATES = {
    retriever.Snapshot.STATE_BUILDING: "building",
    retriever.Snapshot.STATE_READY: "ready",
    retriever.Snapshot.STATE_LIVE: "live",
    retriever.Snapshot.STATE_RETIRED: "retired",
    retriever.Snapshot.STATE_FAILED: "failed",
}


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, principal: As = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        show(principal, as_json)
    elif principal is not None or as_json:
        raise typer.BadParameter(f"options go after {context.invoked_subcommand}")


@app.command("list")
def show(principal: As = None, as_json: AsJson = False) -> None:
    """List the snapshots, the newest first, and how far those are that are being built."""
    with _client(principal) as client:
        listed = list(client.list_snapshots())
    if as_json:
        print_json([as_dict(row) for row in listed])
        return
    for row in listed:
        _print(row)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Its name: a-z 0-9 -, the first a letter, at most 32 characters.")],
    chunk_characters: Annotated[
        int, typer.Option(help="Most characters of a chunk, 100 to 8,000; 0: as the server is configured.")
    ] = 0,
    analyzer: Annotated[str, typer.Option(help="english or standard; empty: as the server is configured.")] = "",
    as_of: Annotated[
        datetime | None, typer.Option(help="Moment (UTC) whose valid documents its searches see; default: their time.")
    ] = None,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Begin to build a snapshot from the extracted texts; documents that change meanwhile change in both."""
    with _client(principal) as client:
        moment = as_of.replace(tzinfo=UTC) if as_of else None
        made = client.create_snapshot(name, chunk_characters=chunk_characters, analyzer=analyzer, as_of=moment)
    _told(made, f"{name} is being built; `tandem snapshots` tells how far it is", as_json=as_json)


@app.command()
def diff(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """List the documents that you may see and that are not cut alike in a snapshot and in the live one."""
    with _client(principal) as client:
        differences = list(client.diff_snapshot(name))
    if as_json:
        print_json([as_dict(row) for row in differences])
        return
    table = Table("document", "chunks in the live one", f"in {name}", box=None, header_style="dim")
    for row in differences:
        table.add_row(row.document_id, str(row.live_chunks), str(row.snapshot_chunks))
    console.print(table if differences else f"{name} has the same chunks as the live one")


@app.command()
def promote(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """Make a snapshot live that is ready; searches in progress end on what they began on, older retired ones go."""
    with _client(principal) as client:
        promoted = client.promote_snapshot(name)
    _told(promoted, f"{name} is live", as_json=as_json)


@app.command("roll-back")
def roll_back(principal: As = None, as_json: AsJson = False) -> None:
    """Make the snapshot live again that was live before."""
    with _client(principal) as client:
        back = client.roll_back_snapshot()
    _told(back, f"{back.snapshot_id} is live again", as_json=as_json)


@app.command()
def delete(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """Remove a snapshot that is not live, or give up building it."""
    with _client(principal) as client:
        client.delete_snapshot(name)
    if as_json:
        print_json({"deleted": name})
        return
    console.print(f"{name} is gone", markup=False)


def _client(principal: str | None) -> RetrieverClient:
    to = target("retriever", principal)
    return RetrieverClient(to.address, token=to.token, timeout=to.timeout)


def _told(row: retriever.Snapshot, told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    console.print(told, markup=False)
    _print(row)


def _print(row: retriever.Snapshot) -> None:
    model = row.embedding.model or "no model yet"
    held = f"{row.num_documents:,} of {row.num_documents_total:,} documents"
    parts = [_STATES.get(row.state, "unknown"), held, f"chunks of {row.chunk_characters}", row.analyzer, model]
    if row.HasField("as_of"):
        parts.append(f"as of {row.as_of.ToDatetime():%Y-%m-%d}")
    if row.error:
        parts.append(printable(row.error))
    console.print(f"  {row.snapshot_id}: {', '.join(parts)}", markup=False)
