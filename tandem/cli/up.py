"""`tandem up`: the four services on this machine, a sample company if asked for, and a first look at what they do."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from tandem.cli import sample as samples
from tandem.cli.ask import render
from tandem.cli.documents import send
from tandem.cli.output import console
from tandem.cli.session import Target, credential, settings
from tandem.client import RouterClient
from tandem.errors import TandemError
from tandem.stack import DEFAULT_PORT, DEVELOPER, Home, prepare, specs, write_endpoints
from tandem.supervisor import Spec, Supervisor, exclusive

_MARKS = {"ready": "[green]ready[/]", "starting": "[yellow]starting[/]", "restarting": "[red]restarting[/]"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("up")(up)


def up(
    sample: Annotated[
        Path | None,
        typer.Option(help="Folder of a sample company: ingest its documents and ask its demo questions.", exists=True),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the demo questions instead of serving.")] = False,
    port: Annotated[
        int, typer.Option(help="The router's port; the other services take the next three. 0 takes free ones.")
    ] = DEFAULT_PORT,
    home: Annotated[
        Path | None, typer.Option(help="Folder for tokens, data and logs. Default: TANDEM_HOME, else .tandem.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Longest wait for the services, in seconds.")] = 600.0,
) -> None:
    """Run the embedder, the retriever, the generator and the router here, and restart what dies; Ctrl-C stops all.

    The first start converts the language model, which takes about a minute; later ones take seconds.
    """
    folder = Home(home or settings().home)
    with exclusive(folder.path):
        company = samples.read(sample) if sample else None
        prepare(folder, company.principals if company else DEVELOPER)
        running = specs(folder, port=port, adapters=company.adapters if company else None)
        asyncio.run(_run(folder, running, company=company, once=once, timeout_s=timeout))


async def _run(
    home: Home, running: list[Spec], *, company: samples.Company | None, once: bool, timeout_s: float
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopping.set)
    async with Supervisor(running, home=home.path).running() as supervisor:
        work = asyncio.create_task(
            _work(home, running, supervisor=supervisor, company=company, once=once, timeout_s=timeout_s)
        )
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            work.result()
        work.cancel()
        console.print("stopping …")
    home.endpoints.unlink(missing_ok=True)
    console.print("all services have stopped")


async def _work(
    home: Home, running: list[Spec], *, supervisor: Supervisor, company: samples.Company | None, once: bool,
    timeout_s: float,
) -> None:  # fmt: skip
    await _wait_ready(supervisor, running, timeout_s=timeout_s)
    write_endpoints(home, running)
    address = {spec.name: spec.listen for spec in running}
    if company is not None:
        await asyncio.to_thread(_ingest, home, company, address["retriever"])
        await asyncio.to_thread(_demonstrate, home, company, address["router"])
    if not once:
        _explain(home, running, company)
        await supervisor.wait_failure()


async def _wait_ready(supervisor: Supervisor, running: list[Spec], *, timeout_s: float) -> None:
    def picture() -> Text:
        line = "   ".join(f"{name} {_MARKS.get(state, state)}" for name, state in supervisor.states().items())
        return Text.from_markup(line)

    with Live(picture(), console=console, refresh_per_second=4) as live:
        await supervisor.wait_ready(timeout_s=timeout_s, on_change=lambda: live.update(picture()))
        live.update(picture())
    if not console.is_terminal:
        console.print()


def _ingest(home: Home, company: samples.Company, retriever: str) -> None:
    for tenant, uploads in company.uploads().items():
        editor = company.editor(tenant)
        to = Target(address=retriever, token=credential(home, editor), timeout=120.0)
        send(to, uploads, label=f"ingesting {len(uploads)} documents of {tenant}")


def _demonstrate(home: Home, company: samples.Company, router: str) -> None:
    for number, item in enumerate(company.demo, 1):
        principal = company.principals[item.principal]
        groups = f", groups {', '.join(sorted(principal.groups))}" if principal.groups else ""
        who = f"{item.principal} of {principal.tenant}{groups}"
        console.print()
        console.rule(f"[bold]{number}. {item.question}[/]", align="left")
        for earlier, _ in item.history:
            console.print(f"[dim]after: {earlier}[/]")
        console.print(f"[dim]{item.note} Asked by {who}, policy {item.policy}.[/]")
        with RouterClient(router, token=credential(home, item.principal), timeout=120.0) as client:
            try:
                answer = client.ask(item.question, policy=item.policy, history=item.history)
            except TandemError as error:
                console.print(f"[yellow]{error.code}[/] {error.message}")
                continue
        console.print(render(answer))
        console.print(f"[dim]expected: {item.expect}[/]")


def _explain(home: Home, running: list[Spec], company: samples.Company | None) -> None:
    address = {spec.name: spec.listen for spec in running}
    lines = [f"{spec.name:10} grpc {spec.listen}   metrics http://{spec.metrics_listen}/metrics" for spec in running]
    question = company.demo[0].question if company else "What is covered?"
    principal = company.demo[0].principal if company else next(iter(DEVELOPER))
    beside = Path(sys.argv[0])
    where = "" if home.path == Path(".tandem") else f"TANDEM_HOME={home.path} "
    lines += [
        "",
        "three things to try in another terminal:",
        f'  {where}{beside} ask "{question}" --as {principal}',
        f"  {beside.with_name('grpcurl')} -plaintext {address['router']} describe tandem.v1.RouterService",
        f"  {beside.with_name('python')} examples/clients/python/ask.py {home.credentials} {principal}"
        f' "{question}" {address["router"]}',
        "",
        "Ctrl-C stops everything.",
    ]
    console.rule("[bold]Tandem is serving[/]", align="left")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
