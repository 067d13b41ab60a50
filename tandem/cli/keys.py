"""`tandem keys`: the keys that sign adapters, those whose signatures count, and those that encrypt."""

import base64
import binascii
from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.output import AsJson, console, print_json
from tandem.config import signing_key_file, trust_file
from tandem.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    help="Keep the keys that sign, vouch for and encrypt adapters.\n\n"
    "`tandem train register` signs with the user's own key; a generator loads what is signed by a key in one of its "
    "GENERATOR_ADAPTER_TRUST_FILES. `tandem up` trusts the user's own key once `tandem keys trust` has been told so.",
)
TrustFile = Annotated[Path | None, typer.Option("--file", help="Trust file. Default: the user's own.")]


@app.command("signing")
def signing(
    file: Annotated[Path | None, typer.Option(help="File of the private key. Default: the user's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the signing key's id and public half; a key is drawn first where there is none."""
    from tandem.adapters import Signer

    path = file or signing_key_file()
    signer = Signer.read_or_make(path)
    _show({"file": str(path), "key_id": signer.key_id, "public": _text(signer.public)}, as_json=as_json)


@app.command("trust")
def trust(
    public: Annotated[
        str, typer.Argument(help="Public key in base64, as `tandem keys signing` shows it. Default: the user's own.")
    ] = "",
    owner: Annotated[str, typer.Option(help="Whose key it is, for people to read.")] = "",
    tenant: Annotated[list[str] | None, typer.Option(help="Trust it for this tenant only; may be repeated.")] = None,
    file: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a key's signatures on adapters count. A running generator heeds it at its next load."""
    from tandem.adapters import Signer, Trust, key_id_of

    path = file or trust_file()
    try:
        raw = base64.b64decode(public, validate=True) if public else Signer.read_or_make(signing_key_file()).public
    except (binascii.Error, ValueError) as error:
        raise ConfigError("the public key is not base64") from error
    Trust.read_all([path]).with_key(raw, owner=owner, tenants=tuple(tenant or ())).write(path)
    _show({"file": str(path), "key_id": key_id_of(raw), "owner": owner, "tenants": tenant or []}, as_json=as_json)


@app.command("distrust")
def distrust(
    key_id: Annotated[str, typer.Argument(help="The key's id, 16 hexadecimal digits.")],
    file: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a key's signatures count no longer. What a generator has loaded stays until it is unloaded."""
    from tandem.adapters import Trust

    path = file or trust_file()
    keys = dict(Trust.read_all([path]).keys)
    if keys.pop(key_id, None) is None:
        raise ConfigError(f"{path} holds no key {key_id}")
    Trust(keys).write(path)
    _show({"file": str(path), "key_id": key_id, "left": sorted(keys)}, as_json=as_json)


@app.command("encryption")
def encryption(
    file: Annotated[Path, typer.Argument(help="Keyring, as GENERATOR_ADAPTER_KEY_FILE names it; mode 0600.")],
    as_json: AsJson = False,
) -> None:
    """Draw a key that encrypts adapters from now on; a keyring that is there keeps its older keys, which still open."""
    from tandem.adapters import Keyring

    ring = (Keyring.read(file) if file.exists() else Keyring()).with_new()
    ring.write(file)
    _show({"file": str(file), "current": ring.current, "keys": sorted(ring.ciphers)}, as_json=as_json)


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="<registry>/<tenant>/<name>/versions/<version>", exists=True)],
    file: TrustFile = None,
    keyring: Annotated[Path | None, typer.Option(help="Keyring that opens it, if it is encrypted.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check one version's signature and files as a generator would, and show what its manifest says."""
    from tandem.adapters import AdapterRefused, Keyring, Trust, read_version

    ring = Keyring.read(keyring) if keyring is not None else None
    try:
        opened = read_version(folder.absolute(), trust=Trust.read_all([file or trust_file()]), ciphers=ring)
        for name in opened.manifest.files:
            opened.read(name)
    except AdapterRefused as error:
        raise ConfigError(f"{error.explained} ({error.code})") from error
    manifest = opened.manifest
    shown = {
        "adapter": f"{manifest.tenant}/{manifest.name}@{manifest.version}",
        "signer_key_id": opened.key_id,
        "cipher": opened.cipher,
        "base": f"{manifest.base.name} {manifest.base.sha256[:16]}",
        "method": manifest.method,
        "recipe": manifest.recipe,
        "created": f"{manifest.created} by {manifest.created_by}",
        "parent": manifest.parent or "",
        "files": sorted(manifest.files),
    }
    _show(shown, as_json=as_json)


def _show(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        text = ", ".join(value) if isinstance(value, list) else value
        console.print(f"{key}: {text}", markup=False, highlight=False)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
