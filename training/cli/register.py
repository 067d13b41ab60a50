"""`tandem train register`: an evaluated run into the registry."""

from typing import TYPE_CHECKING

import typer

from training.cli.evaluate import RunFolder
from training.cli.options import AsJson, Encrypt, Keys, Name, Registry, SigningKey, Tenant, Where
from training.cli.output import REJECTED, console, print_json, telling

if TYPE_CHECKING:
    from pathlib import Path

    from training.registering import Registered


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(register)


def register(
    run: RunFolder,
    name: Name,
    tenant: Tenant = "",
    registry: Registry = None,
    signing_key: SigningKey = None,
    keys: Keys = None,
    encrypt: Encrypt = False,
    as_json: AsJson = False,
) -> None:
    """Sign an accepted candidate and put it into the registry; a rejected one is kept apart (exit status 3).

    An adapter's first version is in use at once (alias stable); a later one waits as candidate until
    `tandem adapters promote`. Your signing key is made on first use, and this machine's stack trusts it.
    """
    with telling(as_json=as_json):
        where = Where(registry=registry, tenant=tenant, name=name, keys=keys)
        done = do(run, where, signing_key=signing_key, encrypt=encrypt, as_json=as_json)
    if not done.accepted:
        raise typer.Exit(REJECTED)


def do(folder: "Path", where: Where, *, signing_key: "Path | None", encrypt: bool, as_json: bool) -> "Registered":
    """Registers, and tells what that came to."""
    from training.cli import keys
    from training.gate import read_evaluation
    from training.methods import read_run
    from training.registering import register as write

    run = read_run(folder)
    place = keys.place_of(where, default_tenant=run.record["dataset"]["config"].get("tenant", ""))
    evaluation = read_evaluation(folder)
    cipher = keys.cipher(where.keys) if encrypt else None
    signer = keys.signer(signing_key)
    done = write(run, evaluation, place, signer=signer, cipher=cipher)
    _tell(done, key_id=signer.key_id, as_json=as_json)
    return done


def _tell(done: "Registered", *, key_id: str, as_json: bool) -> None:
    manifest = done.manifest
    name = f"{manifest.tenant}/{manifest.name}@{manifest.version}"
    if as_json:
        row = {"tenant": manifest.tenant, "name": manifest.name, "version": manifest.version, "alias": done.alias}
        print_json({**row, "accepted": done.accepted, "folder": str(done.folder), "signed_by": key_id})
        return
    if not done.accepted:
        console.print(f"{name} is kept as rejected, with its reasons, in {done.folder}", markup=False, soft_wrap=True)
        return
    console.print(f"{name} is signed by {key_id} and lies in {done.folder}", markup=False, soft_wrap=True)
    if done.alias == "stable":
        console.print(f"It is in use: tandem adapters load {manifest.name}", markup=False, soft_wrap=True)
    elif done.alias == "history":
        console.print(
            f"It was in use before: tandem adapters promote {manifest.name} --version {manifest.version}",
            markup=False,
            soft_wrap=True,
        )
    else:
        console.print(
            f"It waits as candidate: try it as {manifest.name}@candidate, then tandem adapters promote {manifest.name}",
            markup=False,
            soft_wrap=True,
        )
