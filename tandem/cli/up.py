"""`tandem up`: the four services on this machine, a sample company if asked for, and a first look at what they do."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from tandem.cli import sample as samples
from tandem.cli.ask import render
from tandem.cli.documents import send
from tandem.cli.output import AsJson, as_dict, console
from tandem.cli.session import Target, credential, settings
from tandem.client import RouterClient
from tandem.errors import TandemError
from tandem.security import Principal
from tandem.stack import DEFAULT_PORT, DEVELOPER, Home, prepare, specs, write_endpoints
from tandem.supervisor import Spec, Supervisor, exclusive

_TIMEOUT_S = 120.0
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
    as_json: AsJson = False,
) -> None:
    """Run the embedder, the retriever, the generator and the router here, and restart what dies; Ctrl-C stops all.

    The first start converts the language model, which takes about a minute; later ones take seconds. With --json every
    event is a line: ready, ingested, answered or refused for each question of the demo, serving, stopped.
    """
    console.quiet = as_json
    folder = Home(home or settings().home)
    with exclusive(folder.path):
        company = samples.read(sample) if sample else None
        prepare(folder, company.principals if company else DEVELOPER)
        adapters, trust = (company.adapters, [company.trust]) if company else (None, [])
        domains = company.domains if company else None
        running = specs(folder, port=port, adapters=adapters, trust=trust, domains=domains)
        job = _Job(home=folder, specs=running, company=company, once=once, timeout_s=timeout, as_json=as_json)
        asyncio.run(_run(job))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Is what the command line asked for."""

    home: Home
    specs: list[Spec]
    company: samples.Company | None
    once: bool
    timeout_s: float
    as_json: bool

    def address(self, service: str) -> str:
        return next(spec.listen for spec in self.specs if spec.name == service)

    def tell(self, event: str, **data: Any) -> None:
        if self.as_json:
            print(json.dumps({"event": event, **data}, ensure_ascii=False), flush=True)


async def _run(job: _Job) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopping.set)
    async with Supervisor(job.specs, home=job.home.path).running() as supervisor:
        work = asyncio.create_task(_work(job, supervisor))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            work.result()
        work.cancel()
        console.print("stopping …")
    job.home.endpoints.unlink(missing_ok=True)
    console.print("all services have stopped")
    job.tell("stopped")


async def _work(job: _Job, supervisor: Supervisor) -> None:
    await _wait_ready(job, supervisor)
    write_endpoints(job.home, job.specs)
    job.tell("ready", endpoints={spec.name: spec.listen for spec in job.specs})
    if job.company is not None:
        await asyncio.to_thread(_ingest, job, job.company)
        await asyncio.to_thread(_demonstrate, job, job.company)
    if not job.once:
        _explain(job)
        job.tell("serving")
        await supervisor.wait_failure()


async def _wait_ready(job: _Job, supervisor: Supervisor) -> None:
    def picture() -> Text:
        line = "   ".join(f"{name} {_MARKS.get(state, state)}" for name, state in supervisor.states().items())
        return Text.from_markup(line)

    with Live(picture(), console=console, refresh_per_second=4) as live:
        await supervisor.wait_ready(timeout_s=job.timeout_s, on_change=lambda: live.update(picture()))
        live.update(picture())
    if not console.is_terminal:
        console.print()


def _ingest(job: _Job, company: samples.Company) -> None:
    for tenant, uploads in company.uploads().items():
        token = credential(job.home, company.editor(tenant))
        to = Target(address=job.address("retriever"), token=token, timeout=_TIMEOUT_S)
        finished = send(to, uploads, label=f"ingesting {len(uploads)} documents of {tenant}")
        job.tell("ingested", tenant=tenant, finished=as_dict(finished))


def _demonstrate(job: _Job, company: samples.Company) -> None:
    for number, item in enumerate(company.demo, 1):
        _introduce(number, item, company.principals[item.principal])
        token = credential(job.home, item.principal)
        with RouterClient(job.address("router"), token=token, timeout=_TIMEOUT_S) as client:
            try:
                answer = client.ask(item.question, policy=item.policy, history=item.history)
            except TandemError as error:
                console.print(f"[yellow]{error.code}[/] {escape(error.message)}")
                job.tell("refused", principal=item.principal, code=error.code, message=error.message)
                continue
        console.print(render(answer))
        console.print(f"[dim]expected: {item.expect}[/]")
        job.tell("answered", principal=item.principal, expect=item.expect, answer=as_dict(answer))


def _introduce(number: int, item: samples.DemoQuestion, principal: Principal) -> None:
    groups = f", groups {', '.join(sorted(principal.groups))}" if principal.groups else ""
    console.print()
    console.rule(f"[bold]{number}. {escape(item.question)}[/]", align="left")
    for earlier, _ in item.history:
        console.print(f"[dim]after: {escape(earlier)}[/]")
    who = f"{item.principal} of {principal.tenant}{groups}"
    console.print(f"[dim]{escape(item.note)} Asked by {who}, policy {item.policy}.[/]")


def _explain(job: _Job) -> None:
    lines = [f"{spec.name:10} grpc {spec.listen}   metrics http://{spec.metrics_listen}/metrics" for spec in job.specs]
    question = job.company.demo[0].question if job.company else "What is covered?"
    principal = job.company.demo[0].principal if job.company else next(iter(DEVELOPER))
    beside = Path(sys.argv[0])
    where = "" if job.home.path == Path(".tandem") else f"TANDEM_HOME={job.home.path} "
    lines += [
        "",
        "three things to try in another terminal:",
        f'  {where}{beside} ask "{question}" --as {principal}',
        f"  {beside.with_name('grpcurl')} -plaintext {job.address('router')} describe tandem.v1.RouterService",
        f"  {beside.with_name('python')} examples/clients/python/ask.py {job.home.credentials} {principal}"
        f' "{question}" {job.address("router")}',
        "",
        "Ctrl-C stops everything.",
    ]
    console.rule("[bold]Tandem is serving[/]", align="left")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
