"""`tandem domains`: the fields of questions that a router serves."""

import typer
from rich.table import Table
from rich.text import Text

from tandem.cli.output import AsJson, console, print_json_lines
from tandem.cli.session import As, target
from tandem.client import RouterClient
from tandem.v1 import domains_pb2


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("domains")(domains)


def domains(principal: As = None, as_json: AsJson = False) -> None:
    """List the domains that you may ask, and what is wrong with their files."""
    to = target("router", principal)
    with RouterClient(to.address, token=to.token, timeout=to.timeout) as client:
        listed = client.list_domains()
        if as_json:
            print_json_lines(listed)
            return
        rows = list(listed)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("domain", "policy", "answers by", "reads by", "confidence", "least groundedness"):
        table.add_column(title)
    for row in rows:
        if not row.policy:
            table.add_row(row.name, "not served, see below")
            continue
        table.add_row(
            row.name,
            row.policy,
            row.answer_adapter or "-",
            row.reading_adapter or "the base model",
            _calibration(row),
            f"{row.min_groundedness:g}, else {row.below_groundedness}",
        )
    console.print(table)
    for row in rows:
        if row.description:
            console.print(Text(f"{row.name}: {row.description}", style="dim"))
    for row in rows:
        if row.fault:
            kept = " (its last good version stays in use)" if row.policy else ""
            console.print(Text(row.fault + kept, style="red"))


def _calibration(domain: domains_pb2.Domain) -> str:
    if not domain.HasField("calibration"):
        return "uncalibrated"
    known = domain.calibration
    if not known.HasField("threshold"):
        return f"{known.version[:12]}: no threshold certified, everything escalates"
    return (
        f"{known.version[:12]}: accepted from {known.threshold:.3f}, at most {known.risk:.0%} wrong "
        f"at {known.level:.0%} ({known.accepted_share:.0%} accepted)"
    )
