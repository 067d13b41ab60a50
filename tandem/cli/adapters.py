"""`tandem adapters`: what is loaded on top of the base model, and loading it."""

from typing import Annotated

import typer

from tandem.cli.output import AsJson, as_dict, console, print_json
from tandem.cli.session import As, target
from tandem.client import GeneratorClient
from tandem.v1 import generator_service_pb2 as generator

app = typer.Typer(help="List the adapters that you may use; load and unload those of your tenant (role: operator).")
Name = Annotated[str, typer.Argument(help="Name of the adapter's folder.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, principal: As = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        show(principal, as_json)
    elif principal is not None or as_json:
        raise typer.BadParameter(f"options go after {context.invoked_subcommand}")


@app.command("list")
def show(principal: As = None, as_json: AsJson = False) -> None:
    """List the adapters that you may use, and the base model."""
    with _client(principal) as client:
        model = client.get_model()
        listed = list(client.list_adapters())
    if as_json:
        print_json({"model": as_dict(model), "adapters": [as_dict(row) for row in listed]})
        return
    console.print(f"base model [bold]{model.lineage.model}[/] ({model.precision}, {model.max_context_tokens} tokens)")
    for row in listed:
        console.print(f"  {_told(row)}, {row.num_sequences} sequences")


@app.command()
def load(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """Load your tenant's adapter of that name, or the newer version that lies in its folder now."""
    with _client(principal) as client:
        response = client.load_adapter(name)
    if as_json:
        print_json(response)
        return
    before = response.replaced_sha256
    same = before == response.adapter.sha256
    console.print(
        f"{_told(response.adapter)}"
        + (" was loaded already" if same else f" replaces {before[:12]}…" if before else " is loaded")
    )


@app.command()
def unload(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """Take an adapter of your tenant from new calls; those that run on it end on it."""
    with _client(principal) as client:
        client.unload_adapter(name)
    if as_json:
        print_json({"unloaded": name})
        return
    console.print(f"{name} takes no new calls", markup=False)


def _client(principal: str | None) -> GeneratorClient:
    to = target("generator", principal)
    return GeneratorClient(to.address, token=to.token, timeout=to.timeout)


def _told(row: generator.Adapter) -> str:
    return f"{row.name}: rank {row.rank}, {row.num_parameters:,} weights, sha256 {row.sha256[:12]}…"
