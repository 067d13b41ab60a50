"""`tandem ask`: a question, and an answer that shows what it rests on."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tandem.cli.options import date
from tandem.cli.output import AsJson, console, print_json, print_json_lines, printable
from tandem.cli.session import As, target
from tandem.client import RouterClient
from tandem.v1 import router_service_pb2 as router

ROUTES = {
    router.ROUTE_FINETUNED: "fine-tuned model, from its weights",
    router.ROUTE_RAG: "retrieved evidence",
    router.ROUTE_ENSEMBLE: "fine-tuned model and evidence, token by token",
    router.ROUTE_UNSPECIFIED: "none",
}
_STYLES = {
    router.DecisionStep.KIND_ESCALATE: "yellow",
    router.DecisionStep.KIND_FALL_BACK: "red",
    router.DecisionStep.KIND_ABSTAIN: "magenta",
}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ask")(ask)
    app.command("policies")(policies)


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    policy: Annotated[str, typer.Option(help="Who decides, see `tandem policies`; empty means the domain's.")] = "",
    domain: Annotated[str, typer.Option(help="Field of the question, see `tandem domains`; empty means yours.")] = "",
    after: Annotated[
        list[str] | None,
        typer.Option(help="An earlier question of this conversation; repeat it for more, oldest first."),
    ] = None,
    as_of: Annotated[str, typer.Option(help="Answer by what was valid on this date, YYYY-MM-DD.")] = "",
    max_calls: Annotated[
        int | None, typer.Option(help="Most calls of other services that the answer may take.", min=1, max=1000)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Most that it may cost, in the currency of the domain's costs.", min=0)
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="Seconds that the whole answer may take.", min=0.001, max=3600)
    ] = None,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question and watch the answer being made; --json prints the events of the stream, one a line.

    Example: tandem ask "How soon must I report a theft?" --policy cascade
    """
    to = target("router", principal)
    moment = date(as_of)
    history = [(question, "") for question in after or ()]
    with RouterClient(to.address, token=to.token, timeout=to.timeout) as client:
        events = client.stream(
            question,
            policy=policy,
            domain=domain,
            history=history,
            as_of=moment,
            max_calls=max_calls,
            max_cost=max_cost,
            within=within,
        )
        if as_json:
            print_json_lines(events)
        else:
            console.print(render(watch(events)))


def policies(principal: As = None, as_json: AsJson = False) -> None:
    """List the policies that this router can answer by."""
    to = target("router", principal)
    with RouterClient(to.address, token=to.token, timeout=to.timeout) as client:
        listed = client.list_policies()
    if as_json:
        print_json(listed)
        return
    for row in listed.policies:
        mark = " (default)" if row.name == listed.default_policy else ""
        console.print(f"[bold]{row.name}[/]{mark}: {row.description}")


def watch(events: Iterable[router.StreamAskResponse]) -> router.Answer:
    """Shows the draft while it grows, and returns the final answer."""
    draft = ""
    answer = router.Answer()
    with Live(console=console, transient=True, refresh_per_second=12) as live:
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "decision":
                draft = ""
                live.update(Text(f"… {event.decision.reason}", style="dim"))
            elif kind == "delta":
                draft += event.delta.text
                live.update(Text(printable(draft), style="dim"))
            elif kind == "finished":
                answer = event.finished.answer
    return answer


def render(answer: router.Answer) -> RenderableType:
    """Returns an answer with its route, reasons, confidence, citations and timings."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("answer", Text(printable(answer.text), style="bold magenta" if answer.abstained else "bold green"))
    field = f", domain {answer.domain}" if answer.domain else ""
    grid.add_row("route", f"{answer.decision.policy} → {ROUTES[answer.decision.route]}{field}")
    for step in answer.decision.steps:
        grid.add_row("", Text(f"· {step.reason}", style=_STYLES.get(step.kind, "")))
    for missing in answer.degraded:
        grid.add_row("degraded", Text(f"{missing.component}: {missing.effect}", style="red"))
    if answer.HasField("confidence"):
        version = answer.confidence.calibration
        kind = f"calibrated by {version[:12]}" if version else "uncalibrated"
        grid.add_row("confidence", f"{answer.confidence.value:.2f} ({kind})")
    if answer.HasField("scope"):
        grid.add_row("scope", answer.scope.reason)
    if answer.HasField("groundedness"):
        grid.add_row("grounded", _grounded(answer))
    grid.add_row("sources", _citations(answer.citations))
    if answer.passages and not answer.citations:
        names = ", ".join(dict.fromkeys(passage.document_id for passage in answer.passages))
        grid.add_row("", Text(f"read, but nothing to cite: {names}", style="dim"))
    weights = answer.lineage.model + (f" + adapter {answer.lineage.adapter}" if answer.lineage.adapter else "")
    if weights:
        grid.add_row("weights", weights)
    grid.add_row(
        "timings", "  ".join(f"{t.stage} {t.duration.ToTimedelta().total_seconds():.2f}s" for t in answer.timings)
    )
    grid.add_row("cost", _cost(answer))
    grid.add_row("record", answer.answer_id)
    return grid


def _grounded(answer: router.Answer) -> RenderableType:
    """Returns how far passages support the answer, and the sentences that they support least."""
    found = answer.groundedness
    rows: list[RenderableType] = [
        f"{found.value:.2f} by {', '.join(found.rests_on)}" if found.HasField("value") else "no figure"
    ]
    rows += [Text(f"without {absent.signal}: {absent.reason}", style="red") for absent in found.absent]
    if len(found.sentences) > 1:
        for sentence in found.sentences:
            text = printable(answer.text[sentence.answer_span.start : sentence.answer_span.end])
            rows.append(Text(f"{sentence.groundedness:.2f}  {text}", style="dim"))
    return Group(*rows)


def _cost(answer: router.Answer) -> str:
    usage = f"{answer.usage.input_tokens} tokens read, {answer.usage.output_tokens} written"
    price = f", {answer.cost.amount:.6f} {answer.cost.currency}" if answer.cost.HasField("amount") else ""
    calls = "1 call" if answer.cost.num_calls == 1 else f"{answer.cost.num_calls} calls"
    return f"{calls}, {usage}{price}"


def _citations(citations: Sequence[router.Citation]) -> RenderableType:
    if not citations:
        return Text("none", style="dim")
    rows: list[RenderableType] = []
    for citation in citations:
        span = citation.document_span
        page = f", page {citation.page}" if citation.HasField("page") else ""
        rows.append(Text(f"{citation.title} [{citation.document_id}{page}, characters {span.start} to {span.end}]"))
        rows.append(Padding(Text(f"“{printable(' '.join(citation.quote.split()))}”", style="italic"), (0, 0, 0, 2)))
    return Group(*rows)
