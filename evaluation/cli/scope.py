"""`tandem evaluate scope`: how well questions inside an adapter's scope are told from those outside."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.answers.questions import asked_in
from evaluation.cli.asking import Out, Seed
from evaluation.cli.needs import needs_report
from evaluation.retrieval.documents import slug
from tandem.cli.output import AsJson, console, print_json
from tandem.cli.progress import Bars
from tandem.cli.session import As, settings, target
from tandem.client import AsyncEmbedderClient
from tandem.errors import InvalidInput

if TYPE_CHECKING:
    from evaluation.answers.embedding import Embedded


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("scope")(scope)


def scope(
    data: Annotated[Path, typer.Option(help="Labelled texts: `text` and `label` (in or out) a line.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Artefact whose scope is measured.", show_default=False)
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Instead: training questions; half of the texts inside set the threshold.", show_default=False
        ),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Embed labelled texts, measure how far they lie from training questions, and tell AUROC and threshold."""
    needs_report()
    if (calibration is None) == (train is None):
        raise InvalidInput("name one of --calibration, an artefact, and --train, the adapter's training questions")
    from evaluation.calibration.scope import read_scope
    from evaluation.scope.measuring import fitted, halves, measure, read
    from evaluation.scope.telling import table, write

    texts = read(data)
    about: dict[str, Any] = {"data": str(data), "measured": datetime.now(UTC).isoformat(timespec="seconds")}
    if calibration is not None:
        space, threshold, embedder = read_scope(_document(calibration).get("scope"))
        found = asyncio.run(_embed([one.text for one in texts], principal))
        if found.model_sha256 != embedder:
            raise InvalidInput(
                f"the scope was fitted with embedder {embedder[:12]}, and {found.model_sha256[:12]} is running: "
                "calibrate anew"
            )
        vectors, about["scope"] = found.vectors, str(calibration)
    else:
        learnt = list(dict.fromkeys(asked_in(train or data)))
        setting, texts = halves(texts, seed=seed)
        found = asyncio.run(_embed([*learnt, *(one.text for one in setting), *(one.text for one in texts)], principal))
        first, second = len(learnt), len(learnt) + len(setting)
        inside = found.vectors[first:second]
        space, threshold = fitted(found.vectors[:first], inside, embedder_sha256=found.model_sha256, seed=seed)
        vectors = found.vectors[second:]
        about |= {"training questions": len(learnt), "texts that set the threshold": len(setting)}
    about["embedder"] = found.model_sha256
    report = measure(texts, vectors, space, threshold, name=data.stem, about=about, seed=seed)
    page = write(report, out or settings().home / "evaluations" / f"scope-{slug(data.stem)}")
    if as_json:
        rest = {key: value for key, value in report.to_json().items() if key not in ("inside", "outside")}
        print_json({"report": str(page), **rest})
        return
    console.print(table(report))
    console.print(f"report {page}", markup=False, soft_wrap=True)


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is no calibration: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} is no calibration")
    return found


async def _embed(texts: list[str], principal: str | None) -> "Embedded":
    from evaluation.answers.embedding import embed

    to = target("embedder", principal)
    async with AsyncEmbedderClient(to.address, token=to.token, timeout=to.timeout) as client:
        with Bars() as bars:
            return await embed(client, texts, lambda done: bars.update("embedding", done, len(texts)))
