"""Folders of versions: written whole or not at all, and opened only behind their signature."""

import base64
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tandem.adapters.keys import Cipher, Keyring, Signer, Trust
from tandem.adapters.manifest import NAME, TENANT, VERSION, Encryption, FileEntry, Manifest, is_pickle
from tandem.adapters.refusal import AdapterRefused, Refusal

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
VERSIONS = "versions"
REJECTED = "rejected"
_ALGORITHM = "Ed25519"
_MAX_MANIFEST = 4 * 1024 * 1024
_MAX_SIGNATURE = 4096
_MAX_FILE = 2**31 - 1  # what one call of AES-GCM takes
_BLOCK = 1 << 20


def version_folder(root: Path, *, tenant: str, name: str, version: str, rejected: bool = False) -> Path:
    """Returns where a version lies, there or not; raises ValueError for what is no tenant, name or version."""
    if not TENANT.fullmatch(tenant) or not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise ValueError(f"{tenant}/{name}@{version} does not name a version of an adapter")
    return root / tenant / name / (REJECTED if rejected else VERSIONS) / version


def write_version(
    folder: Path, manifest: Manifest, files: Mapping[str, Path | bytes], *, signer: Signer, cipher: Cipher | None = None
) -> Manifest:
    """Writes a version's files, its manifest and the signature, and returns the manifest as it was written.

    `folder` is what `version_folder` returns for the manifest; it appears
    whole or not at all. Raises FileExistsError where it is there already,
    ValueError where it or the weights are not those of the manifest, and
    AdapterRefused for files that would never be loaded.
    """
    if wrong := _misplaced(folder, manifest):
        raise ValueError(wrong)
    if folder.exists():
        raise FileExistsError(f"the version {manifest.version} is already there: {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    scratch.mkdir()
    try:
        manifest = _write_files(scratch, manifest, files, cipher)
        text = manifest.to_bytes()
        signature = {
            "algorithm": _ALGORITHM,
            "key_id": signer.key_id,
            "signature": base64.b64encode(signer.sign(text)).decode("ascii"),
        }
        _write(scratch / MANIFEST, text)
        _write(scratch / SIGNATURE, json.dumps(signature, indent=1).encode() + b"\n")
        _sync(scratch)
        scratch.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        if folder.exists():  # another writer was faster
            raise FileExistsError(f"the version {manifest.version} is already there: {folder}") from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


@dataclass(frozen=True)
class Opened:
    """Is a version whose manifest a trusted key has signed; its files are checked as they are read."""

    folder: Path
    manifest: Manifest
    key_id: str
    """The key that signed the manifest."""
    ciphers: Keyring
    digest: str = ""
    """SHA-256 of the manifest's bytes, and so of all that it binds."""

    @property
    def cipher(self) -> str:
        """Returns the name of the cipher, empty where the files are not encrypted."""
        return self.manifest.encryption.cipher if self.manifest.encryption is not None else ""

    def read(self, name: str) -> bytes:
        """Returns a file's plain bytes; raises AdapterRefused unless they are those that were signed."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise AdapterRefused(Refusal.MANIFEST_INVALID, f"its manifest names no {name}")
        if entry.size > _MAX_FILE:
            raise AdapterRefused(Refusal.UNSUPPORTED, f"{name} is larger than {_MAX_FILE} bytes")
        with _opened(self.folder / name) as (stream, size):
            if size < entry.size:
                raise AdapterRefused(Refusal.TRUNCATED, f"{name} has {size} bytes of {entry.size}")
            data = stream.read(entry.size + 1)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise AdapterRefused(Refusal.HASH_MISMATCH, f"{name} is not the file that was signed")
        return self._decrypt(name, data)

    def _decrypt(self, name: str, data: bytes) -> bytes:
        encryption = self.manifest.encryption
        if encryption is None:
            return data
        cipher = self.ciphers.ciphers.get(encryption.key_id)
        if cipher is None:
            message = f"it is encrypted with the key {encryption.key_id}, which is not among the keys given"
            raise AdapterRefused(Refusal.DECRYPTION_FAILED, message)
        nonce = base64.b64decode(encryption.nonces[name])
        plain = cipher.decrypt(nonce, data, _associated(self.manifest, name))
        if plain is None:
            message = f"{name} does not open with the key {encryption.key_id}"
            raise AdapterRefused(Refusal.DECRYPTION_FAILED, message)
        return plain


def read_version(folder: Path, *, trust: Trust, ciphers: Keyring | None = None) -> Opened:
    """Opens the version in <root>/<tenant>/<name>/versions/<version>, or rejected/ in place of versions/.

    Raises AdapterRefused unless a trusted key has signed the manifest, the
    manifest is sound, and it is the one of this tenant, name and version.
    Nothing is parsed before its signature holds.
    """
    text = _manifest_bytes(folder)
    key_id, signature = _signature(folder)
    key = trust.keys.get(key_id)
    if key is None:
        message = f"it is signed by the key {key_id}, which no trust file holds"
        raise AdapterRefused(Refusal.KEY_UNKNOWN, message)
    if not key.verify(text, signature):
        raise AdapterRefused(Refusal.SIGNATURE_INVALID, f"{MANIFEST} is not what the key {key_id} signed")
    manifest = Manifest.from_bytes(text)
    if wrong := _misplaced(folder, manifest):
        # Whose it is the one whose folder this is need not know.
        message = "it belongs to another tenant, name or version than its folder says"
        raise AdapterRefused(Refusal.MISPLACED, message, detail=wrong)
    if not key.may_sign_for(manifest.tenant):
        message = f"the key {key_id} is not trusted to sign for the tenant {manifest.tenant}"
        raise AdapterRefused(Refusal.KEY_UNKNOWN, message)
    digest = hashlib.sha256(text).hexdigest()
    return Opened(folder, manifest, key_id, ciphers if ciphers is not None else Keyring(), digest)


def _manifest_bytes(folder: Path) -> bytes:
    try:
        data = _small(folder / MANIFEST, _MAX_MANIFEST)
    except ValueError as error:
        raise AdapterRefused(Refusal.MANIFEST_INVALID, str(error)) from error
    if data is not None:
        return data
    if pickles := sorted(path.name for path in folder.glob("*") if is_pickle(path.name)):
        raise AdapterRefused(Refusal.PICKLE, f"only safetensors are loaded, not {pickles[0]}")
    raise AdapterRefused(Refusal.MANIFEST_INVALID, f"{MANIFEST} is missing")


def _signature(folder: Path) -> tuple[str, bytes]:
    """Returns the id of the key that is said to have signed, and the signature."""
    try:
        data = _small(folder / SIGNATURE, _MAX_SIGNATURE)
        if data is None:
            raise AdapterRefused(Refusal.SIGNATURE_MISSING, f"{SIGNATURE} is missing")
        row = json.loads(data)
        if row["algorithm"] != _ALGORITHM:
            raise AdapterRefused(Refusal.UNSUPPORTED, f"it is signed by another algorithm than {_ALGORITHM}")
        key_id = row["key_id"]
        if not isinstance(key_id, str) or not VERSION.fullmatch(key_id):
            raise ValueError("the key's id is none")
        return key_id, base64.b64decode(row["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterRefused(Refusal.SIGNATURE_INVALID, f"{SIGNATURE} cannot be read") from error


def _misplaced(folder: Path, manifest: Manifest) -> str | None:
    """Returns what is wrong with a manifest in that folder, if anything is."""
    adapter = folder.parent.parent
    here = (adapter.parent.name, adapter.name, folder.name)
    said = (manifest.tenant, manifest.name, manifest.version)
    if here == said and folder.parent.name in (VERSIONS, REJECTED):
        return None
    return f"it is {said[0]}/{said[1]}@{said[2]} and lies in {folder.parent.name}/ of {here[0]}/{here[1]}@{here[2]}"


def _write_files(
    scratch: Path, manifest: Manifest, files: Mapping[str, Path | bytes], cipher: Cipher | None
) -> Manifest:
    """Writes the files, encrypted if there is a cipher; returns the manifest with their entries."""
    replace(manifest, files={name: FileEntry(sha256="0" * 64, size=0) for name in files}, encryption=None)  # checks
    entries: dict[str, FileEntry] = {}
    nonces: dict[str, str] = {}
    weights = hashlib.sha256()
    for name in sorted(files):
        digest, size = hashlib.sha256(), 0
        with (scratch / name).open("xb") as target:
            for block in _blocks(name, files[name], whole=cipher is not None):
                if name.endswith(".safetensors"):
                    weights.update(block)
                if cipher is not None:
                    nonce, block = cipher.encrypt(block, _associated(manifest, name))
                    nonces[name] = base64.b64encode(nonce).decode("ascii")
                digest.update(block)
                size += target.write(block)
            target.flush()
            os.fsync(target.fileno())
        entries[name] = FileEntry(sha256=digest.hexdigest(), size=size)
    if weights.hexdigest() != manifest.weights_sha256:
        raise ValueError("the weights are not those of the manifest's weights_sha256")
    encryption = Encryption(key_id=cipher.key_id, nonces=nonces) if cipher is not None else None
    return replace(manifest, files=entries, encryption=encryption)


def _blocks(name: str, source: Path | bytes, *, whole: bool) -> Iterator[bytes]:
    """Yields a file's content, in one piece if that is wanted."""
    if isinstance(source, bytes):
        yield source
        return
    if whole and source.stat().st_size > _MAX_FILE - 16:
        raise AdapterRefused(Refusal.UNSUPPORTED, f"{name} is too large to be encrypted: 2 GiB at most")
    with source.open("rb") as stream:
        if whole:
            yield stream.read()
            return
        while block := stream.read(_BLOCK):
            yield block


def _associated(manifest: Manifest, name: str) -> bytes:
    """Returns what a ciphertext is bound to besides its key: its place in the version, and the weights' origin."""
    parts = ("tandem-adapter-1", name, manifest.tenant, manifest.name, manifest.version, manifest.base.sha256)
    return "\0".join(parts).encode()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a plain file and tells its size; a link is not followed, a pipe not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise AdapterRefused(Refusal.MISPLACED, f"{path.name} is a link") from error
        raise AdapterRefused(Refusal.TRUNCATED, f"{path.name} is missing") from error
    except OSError as error:
        if path.is_symlink():
            raise AdapterRefused(Refusal.MISPLACED, f"{path.name} is a link") from error
        raise AdapterRefused(Refusal.TRUNCATED, f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterRefused(Refusal.MISPLACED, f"{path.name} is not a plain file")
        yield stream, status.st_size


def _small(path: Path, limit: int) -> bytes | None:
    """Returns a file's bytes, None where it is missing; raises ValueError beyond the limit."""
    if not path.exists() and not path.is_symlink():
        return None
    with _opened(path) as (stream, _):
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return data


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
