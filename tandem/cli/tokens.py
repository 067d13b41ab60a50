"""`tandem tokens`: who may call."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.output import AsJson, console, print_json
from tandem.cli.session import settings
from tandem.errors import ConfigError
from tandem.stack import Home, prepare, read_principals

app = typer.Typer(no_args_is_help=True, help="Draw bearer tokens for principals and services.")


@app.command("create")
def create(
    principals: Annotated[
        Path,
        typer.Argument(
            help='JSON object of principals: {"ann": {"subject", "tenant", "groups", "roles"}}.', exists=True
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to; must not hold tokens yet.")],
    as_json: AsJson = False,
) -> None:
    """Draw a token for each principal and each service.

    Writes tokens.json (hashes, for the services), credentials.json (tokens, for the callers), secrets/<service>.token.
    """
    home = Home(out)
    if home.tokens.exists() or home.credentials.exists():
        raise ConfigError(f"{out} holds tokens already; remove them, or choose another folder")
    prepare(home, read_principals(principals))
    names = list(json.loads(home.credentials.read_text()))
    if as_json:
        print_json({"tokens": str(home.tokens), "credentials": str(home.credentials), "principals": names})
    else:
        console.print(f"drew tokens for {', '.join(names)} and the services in {out}")


@app.command("list")
def list_principals(as_json: AsJson = False) -> None:
    """List the principals of the local stack; tokens are not shown."""
    home = Home(settings().home)
    try:
        rows = json.loads(home.tokens.read_text())["tokens"]
    except OSError:
        raise ConfigError(f"no token file at {home.tokens}; `tandem up` makes one") from None
    shown = [{key: row[key] for key in ("subject", "tenant", "groups", "roles")} for row in rows]
    if as_json:
        print_json(shown)
        return
    for row in shown:
        console.print(
            f"{row['subject']}: tenant {row['tenant']}, groups {row['groups']}, roles {row['roles']}", markup=False
        )
