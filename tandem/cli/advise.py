"""`tandem advise`: retrieval, fine-tuning or both, for a domain that you describe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tandem.cli import profiles
from tandem.cli.output import AsJson, as_dict, console, print_json
from tandem.cli.session import As, target
from tandem.client import RouterClient
from tandem.errors import InvalidInput
from tandem.v1 import advice_pb2

NAMES = {"rag": "retrieval", "fine-tune": "fine-tuning", "hybrid": "hybrid", "": "any"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("advise")(advise)


def _level(key: str) -> Any:
    question = profiles.QUESTIONS[key]
    return typer.Option(help=f"{question.ask} {', '.join(question.levels)}.", show_default=False)


def advise(
    domain: Annotated[str, typer.Option(help="Advise on this live domain: its profile and what was measured.")] = "",
    profile: Annotated[Path | None, typer.Option(help="TOML file of the profile; a domain's own file will do.")] = None,
    data_volatility: Annotated[str | None, _level("data_volatility")] = None,
    domain_specificity: Annotated[str | None, _level("domain_specificity")] = None,
    latency_limit_ms: Annotated[float | None, typer.Option(help="Longest wait for an answer at p95, in ms.")] = None,
    questions_per_month: Annotated[int | None, typer.Option(help="Questions a month.")] = None,
    compliance: Annotated[str | None, _level("compliance")] = None,
    infrastructure_maturity: Annotated[str | None, _level("infrastructure_maturity")] = None,
    explainability: Annotated[str | None, _level("explainability")] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(help=f"A price as NAME=FIGURE; repeat it for more. Names: {', '.join(profiles.COSTS)}."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print retrieval, fine-tuning and hybrid in one table.")
    ] = False,
    tree: Annotated[Path | None, typer.Option(help="Write the decision tree with the path taken, as SVG.")] = None,
    ask: Annotated[bool, typer.Option(help="Ask for what is missing; off with --json or --domain.")] = True,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether retrieval, fine-tuning or both suit your questions; without options it asks you.

    Example: tandem advise --profile domain.toml --compare --tree tree.svg
    """
    said = {
        "data_volatility": data_volatility,
        "domain_specificity": domain_specificity,
        "latency_limit_ms": latency_limit_ms,
        "questions_per_month": questions_per_month,
        "compliance": compliance,
        "infrastructure_maturity": infrastructure_maturity,
        "explainability": explainability,
    }
    known = profiles.read(profile) if profile is not None else {}
    known |= {key: value for key, value in said.items() if value is not None}
    if cost:
        known["costs"] = {**known.get("costs", {}), **_prices(cost)}
    if ask and not as_json and not domain:
        known = profiles.ask_missing(known)
    to = target("router", principal)
    with RouterClient(to.address, token=to.token, timeout=to.timeout) as client:
        response = client.advise(profiles.message(known), domain=domain, include_tree=tree is not None)
    if tree is not None:
        tree.write_text(response.tree_svg, encoding="utf-8")
    if as_json:
        print_json(as_dict(response.advice))
        return
    console.print(render(response.advice))
    if compare:
        console.print(compared(response.advice))
    if tree is not None:
        console.print(f"\ntree: {tree}", markup=False)


def render(advice: advice_pb2.Advice) -> RenderableType:
    """Returns an advice with its votes, path, flips, costs and evidence."""
    head = Text(f"{NAMES[advice.approach]}, by the policy {advice.pattern}", style="bold green")
    return Group(
        head,
        Text(advice.reason),
        *_section("Votes", _votes(advice)),
        *_section("Path", _path(advice)),
        *_section("What single change would flip it", _flips(advice)),
        *_lines("See to", advice.conditions),
        *_lines("Measured against it", [_contradiction(found) for found in advice.contradictions], style="yellow"),
        *_section("Measured", _arms(advice.evidence) if advice.HasField("evidence") else None),
        *_lines("Not measured", advice.evidence.missing),
        *_section("Money", _money(advice.money) if advice.HasField("money") else None),
        *_lines("Assumed", advice.money.assumptions),
    )


def compared(advice: advice_pb2.Advice) -> Table:
    """Returns the comparison as a table; figures stand under the words."""
    table = Table("", "retrieval", "fine-tuning", "hybrid", title="Side by side", show_lines=True)
    for row in advice.comparison:
        cells = (row.rag, row.fine_tune, row.hybrid)
        table.add_row(Text(row.dimension, style="bold"), *(_cell(cell) for cell in cells))
    return table


def _prices(terms: list[str]) -> dict[str, Any]:
    prices: dict[str, Any] = {}
    for term in terms:
        name, _, figure = term.partition("=")
        if name not in profiles.COSTS or not figure:
            raise InvalidInput.of("--cost", f'"{term}" is not NAME=FIGURE with one of {", ".join(profiles.COSTS)}')
        try:
            prices[name] = figure if name == "currency" else float(figure)
        except ValueError:
            raise InvalidInput.of("--cost", f'"{term}": {figure} is not a number') from None
    return prices


def _section(title: str, body: RenderableType | None) -> Iterator[RenderableType]:
    if body is not None:
        yield Text(f"\n{title}", style="bold")
        yield body


def _lines(title: str, lines: Any, *, style: str = "") -> Iterator[RenderableType]:
    listed = [Text(f"· {line}", style=style) for line in lines]
    return _section(title, Group(*listed) if listed else None)


def _votes(advice: advice_pb2.Advice) -> Group:
    table = Table("factor", "value", "votes for", "weight", "threshold", "from", box=None, header_style="dim")
    for vote in advice.votes:
        row = (vote.factor, vote.value, NAMES[vote.approach], str(vote.weight), vote.threshold, vote.source)
        table.add_row(*(escape(cell) for cell in row))
    sums = ", ".join(f"{NAMES[one.approach]} {one.weight}" for one in advice.tally)
    return Group(table, Text(f" cast: {sums}; open: {advice.open_weight}", style="bold"))


def _path(advice: advice_pb2.Advice) -> Group:
    steps = [
        Text.assemble(f"{step.ask} ", ("yes" if step.yes else "no", "bold"), (f"  ({step.compared})", "dim"))
        for step in advice.path
    ]
    lines = [*steps, Text(f"→ {advice.approach}: {advice.pattern}", style="bold")]
    if advice.lean and advice.lean != advice.approach:
        lines.append(Text(f"The votes lean to {NAMES[advice.lean]}; the path decided before them.", style="dim"))
    return Group(*lines)


def _flips(advice: advice_pb2.Advice) -> RenderableType:
    if not advice.flips:
        return Text("none", style="dim")
    table = Table.grid(padding=(0, 2))
    for flip in advice.flips:
        table.add_row(
            escape(flip.factor), escape(f"{flip.declared} → {flip.changed}"), f"{NAMES[flip.approach]}: {flip.pattern}"
        )
    return table


def _contradiction(found: advice_pb2.EvidenceContradiction) -> str:
    return f"{found.text} → {NAMES[found.approach]}: {found.pattern}" if found.approach else found.text


def _arms(evidence: advice_pb2.DomainEvidence) -> Table:
    table = Table(
        "policy", "answers", "p95", "cited", "abstained", "right", "judged", "cost", box=None, header_style="dim"
    )
    for arm in evidence.arms:
        p95 = f"{arm.p95_duration.ToTimedelta().total_seconds() * 1000:.0f} ms" if arm.HasField("p95_duration") else "-"
        right = f"{arm.accuracy.metric} {arm.accuracy.value:.2f}" if arm.HasField("accuracy") else "-"
        judged = f"{arm.feedback.value:.0%} of {arm.feedback.num_questions:,}" if arm.HasField("feedback") else "-"
        cost = f"{arm.mean_cost:,.6f}" if arm.HasField("mean_cost") else "-"
        shares = _share(arm, "cited_share"), _share(arm, "abstained_share")
        table.add_row(arm.arm, f"{arm.num_answers:,}", p95, *shares, right, judged, cost)
    if evidence.HasField("collection"):
        found = evidence.collection
        days = found.window_duration.ToTimedelta().days
        table.add_row(
            "collection", f"{found.num_changed:,} of {found.num_documents:,} documents changed in {days} days"
        )
    return table


def _share(arm: advice_pb2.ArmEvidence, field: str) -> str:
    return f"{getattr(arm, field):.0%}" if arm.HasField(field) else "-"  # type: ignore[arg-type]


def _money(money: advice_pb2.AdviceMoney) -> Table:
    table = Table("", "retrieval", "fine-tuning", "hybrid", box=None, header_style="dim")
    each = (money.rag_per_question, money.finetuned_per_question, money.hybrid_per_question)
    table.add_row("a question", *(f"{value:,.6f} {money.currency}" for value in each))
    trained = f"{money.training_per_month:,.2f} {money.currency}"
    table.add_row("training, a month", "-", trained, trained)
    if money.HasField("rag_per_month"):
        month = (money.rag_per_month, money.finetuned_per_month, money.hybrid_per_month)
        table.add_row("a month", *(f"{value:,.2f} {money.currency}" for value in month))
    even = f"from {money.break_even:,} questions a month on" if money.HasField("break_even") else "never"
    table.add_row("fine-tuning pays", even)
    return table


def _cell(cell: advice_pb2.ComparisonCell) -> Text:
    return Text.assemble(cell.text, (f"\n{cell.figure}", "bold") if cell.figure else "")
