"""`tandem adapters`: which versions of adapters serve, and changing that while calls go on."""

from typing import Annotated

import typer

from tandem.cli.output import AsJson, as_dict, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import GeneratorClient
from tandem.v1 import generator_service_pb2 as generator

app = typer.Typer(
    help="List the adapters that you may use; load, try, promote and roll back those of your tenant (role: operator). "
    "A call by the plain name gets the stable version, or the candidate in the share of calls that the canary gives "
    "it; NAME@stable, NAME@candidate and NAME@VERSION name one version."
)
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]
Loadable = Annotated[str, typer.Argument(help="Name of the adapter, or NAME@VERSION.", metavar="NAME[@VERSION]")]
Version = Annotated[
    str, typer.Option(help="A version of the adapter, 16 hexadecimal digits, as `list` shows them.", show_default=False)
]
_STATES = {
    generator.ADAPTER_VERSION_STATE_LOADED: "loaded",
    generator.ADAPTER_VERSION_STATE_RETIRED: "ends with its sequences",
    generator.ADAPTER_VERSION_STATE_STORED: "on disk",
}


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, principal: As = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        show(principal, as_json)
    elif principal is not None or as_json:
        raise typer.BadParameter(f"options go after {context.invoked_subcommand}")


@app.command("list")
def show(principal: As = None, as_json: AsJson = False) -> None:
    """List the adapters that you may use with their versions and aliases, and the base model."""
    with _client(principal) as client:
        model = client.get_model()
        listed = list(client.list_adapters())
    if as_json:
        print_json({"model": as_dict(model), "adapters": [as_dict(row) for row in listed]})
        return
    console.print(f"base model [bold]{model.lineage.model}[/] ({model.precision}, {model.max_context_tokens} tokens)")
    for row in listed:
        _print(row)


@app.command()
def load(name: Loadable, principal: As = None, as_json: AsJson = False) -> None:
    """Load what the aliases of your tenant's adapter stand for now, or one version beside those."""
    with _client(principal) as client:
        response = client.load_adapter(name)
    if as_json:
        print_json(response)
        return
    before = response.replaced_sha256
    if "@" in name:
        told = "is loaded; calls may name it so"
    elif before == response.adapter.sha256:
        told = "was loaded already"
    else:
        told = f"is loaded; {before[:16]} was stable before" if before else "is loaded"
    console.print(f"{name} {told}", markup=False)
    _print(response.adapter)


@app.command()
def unload(name: Loadable, principal: As = None, as_json: AsJson = False) -> None:
    """Take an adapter of your tenant, or one version, from new calls; those that run on it end on it."""
    with _client(principal) as client:
        client.unload_adapter(name)
    if as_json:
        print_json({"unloaded": name})
        return
    console.print(f"{name} takes no new calls until it is loaded", markup=False)


@app.command()
def canary(
    name: Name,
    share: Annotated[
        float, typer.Argument(help="Share of the calls that get the candidate, 0 to 1; 0 ends the trial.")
    ],
    version: Version = "",
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Give the candidate a share of the calls; --version makes another version the candidate first."""
    with _client(principal) as client:
        response = client.set_adapter_canary(name, share, version=version)
    _changed(response, response.adapter, "", as_json=as_json)


@app.command()
def promote(name: Name, version: Version = "", principal: As = None, as_json: AsJson = False) -> None:
    """Make the candidate, or another version, the stable one; calls in progress end on what they started on."""
    with _client(principal) as client:
        response = client.promote_adapter(name, version=version)
    _changed(response, response.adapter, response.previous_version, as_json=as_json)


@app.command()
def rollback(name: Name, principal: As = None, as_json: AsJson = False) -> None:
    """Make the version that was stable before stable again; calls in progress end on what they started on."""
    with _client(principal) as client:
        response = client.roll_back_adapter(name)
    _changed(response, response.adapter, response.previous_version, as_json=as_json)


Change = generator.PromoteAdapterResponse | generator.RollBackAdapterResponse | generator.SetAdapterCanaryResponse


def _changed(response: Change, row: generator.Adapter, before: str, *, as_json: bool) -> None:
    if as_json:
        print_json(response)
        return
    if before:
        same = before == row.version
        console.print(f"{row.version} was stable already" if same else f"{row.version} is stable, {before} was")
    _print(row)


def _client(principal: str | None) -> GeneratorClient:
    to = target("generator", principal)
    return GeneratorClient(to.address, token=to.token, timeout=to.timeout)


def _print(row: generator.Adapter) -> None:
    about = ", shared by all tenants" if row.shared else ""
    console.print(f"  {row.name}: rank {row.rank}, {row.num_parameters:,} weights{about}", markup=False)
    for version in row.versions:
        console.print(f"    {_told(row, version)}", markup=False)


def _told(row: generator.Adapter, version: generator.AdapterVersion) -> str:
    parts = [version.version]
    for alias in version.aliases:
        share = f" ({row.canary_share:.4g} of the calls)" if alias == "candidate" else ""
        parts.append(f"{alias}{share}")
    if version.version == row.previous_version:
        parts.append("stable before")
    parts.append(_STATES.get(version.state, "unknown"))
    if version.num_sequences:
        parts.append(f"{version.num_sequences} sequences")
    if version.refusal:
        parts.append(f"refused: {printable(version.refusal)}")
    return ", ".join(parts)
