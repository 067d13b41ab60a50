"""`tandem feedback`: how good an answer was, and what people said of the tenant's."""

from itertools import islice
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tandem.cli.output import AsJson, as_dict, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import FeedbackClient
from tandem.v1 import feedback_service_pb2 as feedback
from tandem.v1 import router_service_pb2 as router

_SUBMIT = "submit"


class _Group(TyperGroup):
    """Takes what names none of its commands for the answer that is judged."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else [_SUBMIT, *args])


_SHOWN = {feedback.VERDICT_RIGHT: "right", feedback.VERDICT_WRONG: "wrong", feedback.VERDICT_EDITED: "edited"}

app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Say how good an answer was: tandem feedback ANSWER_ID --right. Or list what was said.",
)


@app.command(_SUBMIT)
def submit(
    answer_id: Annotated[str, typer.Argument(help="The answer's id, its record in `tandem ask`.")],
    right: Annotated[bool, typer.Option("--right", help="It was used as it was.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="It was wrong or of no use.")] = False,
    edited: Annotated[
        str, typer.Option(metavar="TEXT", help="It was used after a correction, as this.", show_default=False)
    ] = "",
    correction: Annotated[
        str, typer.Option(metavar="TEXT", help="With --wrong: the right answer, where you know it.", show_default=False)
    ] = "",
    deflected: Annotated[
        bool | None,
        typer.Option("--deflected/--not-deflected", help="Whether the answer saved a ticket or a call; else unknown."),
    ] = None,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Say how good an answer was; the word submit may be left out. Your last verdict on an answer counts.

    Example: tandem feedback 0f3c... --edited "Within 14 days." --deflected
    """
    if right + wrong + bool(edited) != 1:
        raise typer.BadParameter("say one of --right, --wrong and --edited TEXT")
    if correction and not wrong:
        raise typer.BadParameter("--correction goes with --wrong; a corrected answer is --edited TEXT")
    verdict = feedback.VERDICT_RIGHT if right else feedback.VERDICT_WRONG if wrong else feedback.VERDICT_EDITED
    to = target("router", principal)
    with FeedbackClient(to.address, token=to.token, timeout=to.timeout) as client:
        row = client.submit(answer_id, verdict, corrected_text=edited or correction, deflected_ticket=deflected)
    if as_json:
        print_json(row)
        return
    console.print(
        f"recorded: {_SHOWN[row.verdict]}, on an answer by {row.policy} in the domain {row.domain}", markup=False
    )


@app.command("list")
def list_feedback(
    domain: Annotated[str, typer.Option(help="Only of this domain's answers.")] = "",
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """List what was said of your tenant's answers (role: operator or auditor)."""
    to = target("router", principal)
    with FeedbackClient(to.address, token=to.token, timeout=to.timeout) as client:
        rows = list(islice(client.list(domain=domain), limit))
    if as_json:
        print_json([as_dict(row) for row in rows])
        return
    # Two lines a row, so that it fits into 80 columns: what was said, of what, and the ticket and correction below.
    table = Table(box=None, header_style="dim")
    for title in ("time (UTC)", "verdict", "answer", "answered by"):
        table.add_column(title, no_wrap=title != "answer")
    for row in rows:
        ticket = "deflected" if row.deflected_ticket else "not deflected"
        table.add_row(
            row.submit_time.ToDatetime().strftime("%m-%d %H:%M"),
            _lines(_SHOWN.get(row.verdict, "?"), ticket if row.HasField("deflected_ticket") else ""),
            _lines(row.answer_id, printable(row.corrected_text)),
            _lines(f"{row.policy}: {_route(row.route)}", row.domain),
        )
    console.print(table)


def _lines(*parts: str) -> Text:
    return Text("\n".join(part for part in parts if part))


def _route(route: "router.Route.ValueType") -> str:
    # A newer router may know more of them.
    known = route in router.Route.values()
    return str(router.Route.Name(route)).removeprefix("ROUTE_").lower() if known else "?"
