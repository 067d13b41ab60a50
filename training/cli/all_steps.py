"""`tandem train all`: the four steps in one go, and on from where they were cut off."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import evaluate, prepare, register, run
from training.cli.options import (
    BASE,
    AsJson,
    Base,
    ByThread,
    Device,
    Documents,
    Encrypt,
    Epochs,
    Keys,
    Margin,
    MaxForgetting,
    MaxQuestions,
    Method,
    MinQuestions,
    Minutes,
    Name,
    NoIncumbent,
    Rank,
    Rate,
    Recipe,
    Registry,
    Seed,
    Settings,
    SigningKey,
    Tenant,
    Threads,
    Tracking,
    Trust,
    Where,
    method_settings,
)
from training.cli.output import REJECTED, console, telling

if TYPE_CHECKING:
    from training.preparing import Wish


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("all")(all_steps)


def all_steps(
    data: prepare.Data,
    recipe: Recipe,
    tenant: Tenant,
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder of the work: dataset/ and run/ in it.")],
    documents: Documents = None,
    method: Method = "lora",
    base: Base = BASE,
    device: Device = "cpu",
    threads: Threads = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    rank: Rank = None,
    settings: Settings = None,
    seed: Seed = 17,
    registry: Registry = None,
    trust: Trust = None,
    keys: Keys = None,
    no_incumbent: NoIncumbent = False,
    margin: Margin = 0.0,
    max_forgetting: MaxForgetting = None,
    min_questions: MinQuestions = 20,
    max_questions: MaxQuestions = 300,
    by_thread: ByThread = False,
    signing_key: SigningKey = None,
    encrypt: Encrypt = False,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Prepare, train, evaluate and register; the same command again goes on where it was cut off.

    Exit status 3 says that the gate rejected the candidate. For finer control call the four steps one by one.
    """
    with telling(as_json=as_json):
        from training.gate import MAX_FORGETTING, GateSettings
        from training.methods import read_run
        from training.registering import serve_full

        full = method == "full"

        where = Where(
            registry=registry,
            tenant=tenant,
            name=name,
            trust=tuple(trust or ()),
            keys=keys,
            no_incumbent=no_incumbent,
        )
        gate = GateSettings(
            margin=margin,
            max_forgetting=max_forgetting or MAX_FORGETTING.get(method, 1.25),
            min_questions=min_questions,
            max_questions=max_questions,
            threads=by_thread,
            seed=seed,
        )
        given = {"epochs": epochs, "minutes": minutes, "learning_rate": learning_rate, "rank": rank, "seed": seed}
        given |= method_settings(settings)
        wish = prepare.wish(recipe=recipe, documents=documents, tenant=tenant, seed=seed, test_share=0.2)
        _check_end(where, method=method, signing_key=signing_key, encrypt=encrypt)
        resume = (out / "run" / "run.json").exists()
        _prepared(data, out / "dataset", wish, trained=resume)
        run.do(
            out / "dataset",
            out / "run",
            name=method,
            given=given,
            base=base,
            device=device,
            threads=threads,
            resume=resume,
            tracking=tracking,
            as_json=False,
        )
        found = evaluate.known(out / "run", where, gate)
        if found is None:
            found = evaluate.do(out / "run", where, gate, device=device, threads=threads, as_json=as_json and full)
        if full:
            console.print(serve_full(read_run(out / "run")), markup=False, soft_wrap=True)
            accepted = found.verdict.accepted
        else:
            done = register.do(out / "run", where, signing_key=signing_key, encrypt=encrypt, as_json=as_json)
            accepted = done.accepted
    if not accepted:
        raise typer.Exit(REJECTED)


def _check_end(where: Where, *, method: str, signing_key: Path | None, encrypt: bool) -> None:
    """Finds out before hours of training whether the result could be registered at all."""
    from training.cli import keys

    if method == "full":
        return
    keys.place_of(where)
    keys.signer(signing_key)
    if encrypt:
        keys.cipher(where.keys)


def _prepared(data: list[Path], folder: Path, wish: "Wish", *, trained: bool) -> None:
    """Prepares the dataset anew each time: it costs seconds, and the same data give the same bytes.

    Raises ConfigError where there is a run already and the data are others than those that it was trained on.
    """
    from tandem.errors import ConfigError
    from training.examples import read_dataset

    if not (folder / "dataset.json").exists():
        prepare.do(data, folder, wish, replace=False, as_json=False)
        return
    with tempfile.TemporaryDirectory(prefix=".dataset-", dir=folder.parent) as scratch:
        anew = Path(scratch) / "dataset"
        prepare.do(data, anew, wish, replace=False, as_json=False)
        if read_dataset(anew).sha256 == read_dataset(folder).sha256:
            return
        if trained:
            raise ConfigError(
                f"the data or their options changed since {folder} was made, and a run was trained on it: give the "
                "former ones, or name another folder with --out"
            )
    prepare.do(data, folder, wish, replace=True, as_json=False)
