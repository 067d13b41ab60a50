"""`tandem search`: passages of the documents that you may see, without asking a model."""

import re
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape

from tandem.cli.options import date
from tandem.cli.output import AsJson, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import RetrieverClient
from tandem.errors import InvalidInput
from tandem.v1 import retriever_service_pb2 as retriever

_MODES = {
    "hybrid": retriever.SEARCH_MODE_HYBRID,
    "dense": retriever.SEARCH_MODE_DENSE,
    "sparse": retriever.SEARCH_MODE_SPARSE,
}
_CONDITION = re.compile(r"(?P<key>[^=!]+)(?:(?P<unequal>!)?=(?P<value>.*))?", re.DOTALL)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("search")(search)


def search(
    query: Annotated[str, typer.Argument(help="What to find.")],
    top_k: Annotated[int, typer.Option(help="How many passages.", min=1, max=100)] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, dense or sparse.")] = "hybrid",
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only documents with the label KEY, with KEY=VALUE, or without (KEY!=VALUE); repeat it."),
    ] = None,
    document: Annotated[list[str] | None, typer.Option(help="Only this document; repeat it for more.")] = None,
    media_type: Annotated[list[str] | None, typer.Option(help="Only documents of this type; repeat it.")] = None,
    as_of: Annotated[str, typer.Option(help="By what was valid on this date, YYYY-MM-DD.")] = "",
    neighbors: Annotated[int, typer.Option(help="Widen each passage by so many chunks.", min=0, max=5)] = 0,
    diversity: Annotated[float, typer.Option(help="From 0, relevance alone, to 1.", min=0, max=1)] = 0.0,
    rerank: Annotated[bool | None, typer.Option(help="Order by the embedder's reranker, or do not.")] = None,
    snapshot: Annotated[str, typer.Option(help="Search this snapshot instead of the live one.")] = "",
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Search the documents that you may see, without asking a model."""
    if mode not in _MODES:
        raise InvalidInput.of("--mode", f"is one of {', '.join(_MODES)}")
    to = target("retriever", principal)
    wanted = retriever.SearchFilter(
        document_ids=document or (), media_types=media_type or (), attributes=conditions(where or ())
    )
    moment = date(as_of)
    with RetrieverClient(to.address, token=to.token, timeout=to.timeout) as client:
        found = client.search(
            query,
            top_k=top_k,
            mode=_MODES[mode],
            as_of=moment,
            search_filter=wanted,
            diversity=diversity,
            num_neighbors=neighbors,
            rerank=rerank,
            snapshot=snapshot,
        )
    if as_json:
        print_json(found)
        return
    for rank, passage in enumerate(found.passages, 1):
        title, place = (escape(printable(text)) for text in (passage.title, " › ".join(passage.headings)))
        console.print(f"[bold]{rank}. {title}[/] [dim]{passage.document_id} {place} ({passage.score:.4f})[/]")
        console.print(f"   {printable(' '.join(passage.text.split())[:300])}", markup=False)
    if not found.passages:
        console.print("nothing found")


def conditions(terms: Iterable[str]) -> list[retriever.AttributeCondition]:
    """Returns what KEY, KEY=VALUE and KEY!=VALUE ask for."""
    result = []
    for term in terms:
        match = _CONDITION.fullmatch(term)
        if match is None:
            raise InvalidInput.of("--where", f"is not KEY, KEY=VALUE or KEY!=VALUE: {term!r}")
        values = [] if match["value"] is None else [match["value"]]
        condition = retriever.AttributeCondition(key=match["key"], values=values, excluded=bool(match["unequal"]))
        result.append(condition)
    return result
