"""`tandem audit`: what was answered, to whom, and whether the record is whole."""

import json
from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem.cli.output import AsJson, as_dict, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import AuditClient
from tandem.v1 import audit_service_pb2 as audit

app = typer.Typer(no_args_is_help=True, help="Show and verify the audit records of your tenant (role: auditor).")


@app.command("list")
def list_records(
    limit: Annotated[int, typer.Option(help="How many records, newest first.", min=1)] = 20,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """List the newest records."""
    to = target("router", principal)
    with AuditClient(to.address, token=to.token, timeout=to.timeout) as client:
        rows = list(islice(client.list_records(), limit))
    if as_json:
        print_json([as_dict(row) for row in rows])
        return
    table = Table("time (UTC)", "record", box=None, header_style="dim")
    table.add_column("answer", no_wrap=True, min_width=32)
    table.add_column("event")
    table.add_column("subject")
    for row in rows:
        event = audit.AuditRecord.Outcome.Name(row.outcome).removeprefix("OUTCOME_").lower()
        when = row.record_time.ToDatetime().strftime("%m-%d %H:%M:%S")
        if row.kind != audit.AuditRecord.KIND_CLOSED:
            event = audit.AuditRecord.Kind.Name(row.kind).removeprefix("KIND_").lower()
        table.add_row(when, f"{row.writer}/{row.sequence}", row.answer_id, event, escape(printable(row.subject)))
    console.print(table)


@app.command("show")
def show(
    answer_id: Annotated[str, typer.Argument(help="The answer's id.")],
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Show the records of one answer in full."""
    to = target("router", principal)
    with AuditClient(to.address, token=to.token, timeout=to.timeout) as client:
        rows = client.get_records(answer_id)
    if as_json:
        print_json([as_dict(row) for row in rows])
        return
    for row in rows:
        kind = audit.AuditRecord.Kind.Name(row.kind).removeprefix("KIND_").lower()
        console.rule(f"{kind}, number {row.sequence} of {row.writer}")
        console.print(f"hash     {row.hash}\nprevious {row.previous_hash}")
        console.print(printable(json.dumps(json.loads(row.payload_json), ensure_ascii=False, indent=1)), markup=False)


@app.command("verify")
def verify(principal: As = None, as_json: AsJson = False) -> None:
    """Recompute every hash of every chain; exit status 1 if a record is missing or was changed."""
    to = target("router", principal)
    with AuditClient(to.address, token=to.token, timeout=to.timeout) as client:
        chains = client.verify()
    if as_json:
        print_json([as_dict(chain) for chain in chains])
    else:
        for chain in chains:
            state = (
                "[green]intact[/]" if chain.intact else f"[red]broken at {chain.first_fault_sequence}: {chain.fault}[/]"
            )
            console.print(f"{chain.writer}: {chain.num_records} records, {state}, head {chain.head_hash[:16]}…")
    if not all(chain.intact for chain in chains):
        raise typer.Exit(1)
