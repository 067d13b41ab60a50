"""What the commands that ask the router share: clients by principal, and the options that say how to ask."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.session import target
from tandem.client import AsyncRouterClient

Domain = Annotated[str, typer.Option(help="Domain to ask; your default one if none is named.", show_default=False)]
Concurrency = Annotated[int, typer.Option(help="Questions at once.", min=1, max=64)]
MinF1 = Annotated[
    float, typer.Option("--min-f1", help="An answer is right by exact match, or from this token F1 on.", min=0, max=1)
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ask everything anew instead of keeping earlier answers.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of report, figures and answers; in evaluations/ of the home by default.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Of draws and intervals.")]


class Clients:
    """Opens a router's client for each principal that asks; they close with the stack."""

    def __init__(self, stack: AsyncExitStack, principal: str | None) -> None:
        self._stack = stack
        self._principal = principal
        self._open: dict[str, AsyncRouterClient] = {}

    def of(self, principal: str) -> Any:
        """Returns the client of a principal; no name means the command's own."""
        if principal not in self._open:
            to = target("router", principal or self._principal)
            client = AsyncRouterClient(to.address, token=to.token, timeout=to.timeout)
            self._stack.push_async_callback(client.close)
            self._open[principal] = client
        return self._open[principal]
