"""Checks a version of an adapter before anything loads it.

In this order: its place, the signature over its manifest, the manifest, the
base model, the hash of each file that is read, its decryption, and what the
files declare, so that a damaged or foreign version is refused with its reason
and the service goes on without it. Nothing is parsed before the signature
holds, but for the signature file itself; nothing is unpickled ever.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from services.generator.domain import Adapter
from services.generator.registry.keys import Keys
from services.generator.registry.tensors import Shapes, configuration, num_parameters
from tandem.adapters import (
    CONFIG,
    VERSIONS,
    WEIGHTS,
    AdapterRefused,
    Keyring,
    Manifest,
    Opened,
    Refusal,
    Trust,
    read_version,
)
from tandem.errors import ConfigError

_MAX_CONFIG = 1024 * 1024


def _no_keys() -> tuple[Trust, Keyring]:
    return Trust(), Keyring()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Says what an adapter must fit to be loaded; these rules let none in."""

    shapes: Shapes = field(default_factory=dict)
    base_sha256: str = ""
    """SHA-256 of the weights of the base model that is served."""
    keys: Keys = _no_keys


def verify(folder: Path, rules: Rules, *, held: Collection[Adapter] = ()) -> Adapter:
    """Returns the adapter in <root>/<tenant>/<name>/versions/<version>; raises AdapterRefused unless all checks pass.

    Its `read` goes through the same checks again, and raises AdapterRefused
    where the file changed meanwhile. The files of one that is held under the
    very same manifest and signer are not read again.
    """
    opened = _open(folder, rules)
    manifest = opened.manifest
    _check_manifest(manifest, rules)
    known = (opened.digest, opened.key_id)
    for one in held:
        if (one.manifest_sha256, one.signer_key_id) == known:
            return one
    if manifest.files.get(CONFIG) is not None and manifest.files[CONFIG].size > _MAX_CONFIG:
        raise AdapterRefused(Refusal.CONFIG_INVALID, f"{CONFIG} is larger than {_MAX_CONFIG} bytes")
    form = configuration(opened.read(CONFIG), method=manifest.method)
    read = _reader(opened)
    return Adapter(
        tenant=manifest.tenant,
        name=manifest.name,
        sha256=manifest.weights_sha256,
        rank=form.rank,
        scale=form.scale,
        num_virtual=form.num_virtual,
        num_parameters=num_parameters(read(), form=form, shapes=rules.shapes),
        read=read,
        manifest_sha256=opened.digest,
        signer_key_id=opened.key_id,
        cipher=opened.cipher,
        cipher_key_id=manifest.encryption.key_id if manifest.encryption is not None else "",
    )


def _open(folder: Path, rules: Rules) -> Opened:
    if folder.parent.name != VERSIONS:
        raise AdapterRefused(Refusal.MISPLACED, f"only what lies under {VERSIONS}/ is loaded")
    root = folder.parents[3]
    try:
        honest = folder.resolve(strict=True) == root.resolve(strict=True) / folder.relative_to(root)
    except (OSError, RuntimeError) as error:  # not there, or links in a circle
        raise AdapterRefused(Refusal.TRUNCATED, "its folder is not there") from error
    if not honest:
        raise AdapterRefused(Refusal.MISPLACED, "its folder is a link")
    try:
        trust, ciphers = rules.keys()
    except ConfigError as error:
        message = "the keys cannot be read; the generator's log says why"
        raise AdapterRefused(Refusal.KEY_UNKNOWN, message, detail=str(error)) from error
    return read_version(folder, trust=trust, ciphers=ciphers)


def _check_manifest(manifest: Manifest, rules: Rules) -> None:
    if manifest.gate.get("accepted") is False:
        raise AdapterRefused(Refusal.REJECTED, "the evaluation gate did not let it through, wherever it lies now")
    base = manifest.base
    if base.sha256 != rules.base_sha256:
        message = f"it was trained on {base.name[:100]} ({base.sha256[:16]}), not on the model served here"
        raise AdapterRefused(Refusal.BASE_MISMATCH, f"{message} ({rules.base_sha256[:16]})")
    if manifest.method == "full":
        message = "a full fine-tune is a base model of its own: name its folder in GENERATOR_MODEL"
        raise AdapterRefused(Refusal.UNSUPPORTED, message)
    if manifest.method not in ("lora", "prefix"):
        raise AdapterRefused(Refusal.UNSUPPORTED, f"the method {manifest.method} is not served")


def _reader(opened: Opened) -> Callable[[], bytes]:
    def read() -> bytes:
        data = opened.read(WEIGHTS)
        if hashlib.sha256(data).hexdigest() != opened.manifest.weights_sha256:
            raise AdapterRefused(Refusal.HASH_MISMATCH, f"{WEIGHTS} does not hold the weights that the manifest names")
        return data

    return read
