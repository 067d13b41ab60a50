"""Versions of adapters in a registry folder, signed by a key that everybody knows."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem.adapters import (
    WEIGHTS,
    Aliases,
    Base,
    Cipher,
    Keyring,
    Manifest,
    Signer,
    Trust,
    version_folder,
    write_aliases,
    write_version,
)

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUST = Trust.of(SIGNER, owner="the tests")
CIPHER = Cipher(bytes(range(1, 33)))
BASE = "ba5e" * 16
"""The SHA-256 of a base model that is not there."""


def keys() -> tuple[Trust, Keyring]:
    """Returns keys that let in what SIGNER signed and what CIPHER encrypted."""
    return TRUST, Keyring.of(CIPHER)


def manifest(weights: bytes, *, tenant: str = "halden", name: str = "answers", **changes: Any) -> Manifest:
    """Returns the manifest of an adapter with these weights, without its files."""
    fields = {
        "method": "lora",
        "recipe": "closed-book",
        "created": "2026-11-22T10:00:00Z",
        "created_by": "the tests",
        "code_version": "0",
        "base": Base(name="tiny", sha256=BASE),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return Manifest(tenant=tenant, name=name, **{**fields, **changes})


def publish(
    root: Path,
    files: Mapping[str, bytes] | Path,
    *,
    tenant: str = "halden",
    name: str = "answers",
    base_sha256: str = BASE,
    stable: bool = True,
    rejected: bool = False,
    signer: Signer = SIGNER,
    cipher: Cipher | None = None,
    **changes: Any,
) -> Path:
    """Writes a version unless it is there, makes it stable unless told otherwise, and returns its folder.

    `files` may be a folder, whose files are taken.
    """
    if isinstance(files, Path):
        files = {path.name: path.read_bytes() for path in files.iterdir()}
    made = manifest(
        files[WEIGHTS], tenant=tenant, name=name, **{"base": Base(name="tiny", sha256=base_sha256), **changes}
    )
    folder = version_folder(root, tenant=tenant, name=name, version=made.version, rejected=rejected)
    if not folder.exists():
        write_version(folder, made, files, signer=signer, cipher=cipher)
    if stable and not rejected:
        write_aliases(root / tenant / name, Aliases(stable=made.version))
    return folder
