"""The manifest of one version of an adapter: what it is, what it was made of, and what its files must be."""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from tandem.adapters.refusal import AdapterRefused, Refusal

SCHEMA = 1
METHODS = ("lora", "prefix", "full")
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CIPHER = "AES-256-GCM"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TENANT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = ("manifest.json", "manifest.sig")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_MAX_FILES = 1000


@dataclass(frozen=True, kw_only=True)
class Base:
    """Names the base model by the SHA-256 of its weights; its name is told for people only."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Is what a file on disk must be: SHA-256 and size in bytes, of the ciphertext where it is encrypted."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """Tells how all files were encrypted, each under a nonce of its own (base64, 12 bytes)."""

    key_id: str
    nonces: Mapping[str, str]
    cipher: str = CIPHER


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes one version of an adapter. Raises AdapterRefused when it is made with fields that do not hold.

    `write_version` fills in `files` and `encryption`. A version's name is the
    first 16 hexadecimal digits of weights_sha256.
    """

    tenant: str
    name: str
    method: str
    """One of METHODS."""
    recipe: str
    """How the examples were made, for example "closed-book" or "raft"."""
    created: str
    """When, RFC 3339 in UTC."""
    created_by: str
    code_version: str
    base: Base
    weights_sha256: str
    """SHA-256 over the plain *.safetensors files in order of name; of an adapter that is the one file WEIGHTS."""
    parent: str | None = None
    """The version that this one set out from or is to replace."""
    data: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file that was trained on or measured with."""
    num_examples: Mapping[str, int] = field(default_factory=dict)
    """Number of examples by split."""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    """Verdict of the evaluation gate and its reasons."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    encryption: Encryption | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA or isinstance(self.schema, bool):
            raise AdapterRefused(Refusal.UNSUPPORTED, f"its manifest has schema {self.schema}, known is {SCHEMA}")
        _check_names(self)
        _check_origin(self)
        _check_files(self.files)
        if self.encryption is not None:
            _check_encryption(self.encryption, self.files)

    @property
    def version(self) -> str:
        """Returns the version's name."""
        return self.weights_sha256[:16]

    def to_bytes(self) -> bytes:
        """Returns the canonical text: JSON with sorted keys, in UTF-8. Raises AdapterRefused for what JSON lacks."""
        row = {"version": self.version, **_plain(self)}
        try:
            text = json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
            return (text + "\n").encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise _invalid(f"cannot be written as JSON: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Reads a manifest; raises AdapterRefused for anything else than a sound one."""
        try:
            row = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _invalid("is not an object")
        if row.get("schema") != SCHEMA:
            raise AdapterRefused(Refusal.UNSUPPORTED, f"its manifest has schema {row.get('schema')}, known is {SCHEMA}")
        version = row.pop("version", None)
        known = {item.name for item in fields(cls)}
        if unknown := sorted(row.keys() - known):
            raise _invalid(f"has an unknown field {unknown[0][:100]}")
        try:
            row["base"] = Base(**row["base"])
            row["files"] = {name: FileEntry(**entry) for name, entry in row["files"].items()}
            if row["encryption"] is not None:
                row["encryption"] = Encryption(**row["encryption"])
            manifest = cls(**row)
        except (KeyError, TypeError, AttributeError) as error:
            raise _invalid(f"lacks a field or has one of a wrong kind ({error})") from error
        if version != manifest.version:
            raise _invalid("has a version that does not begin its weights_sha256")
        return manifest


def _check_names(manifest: Manifest) -> None:
    for what, pattern in (("tenant", TENANT), ("name", NAME)):
        value = getattr(manifest, what)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _invalid(f"has a {what} that is not letters, digits, '.', '_' and '-', at most 64")
    if manifest.method not in METHODS:
        raise _invalid(f"has a method that is none of {', '.join(METHODS)}")
    for what in ("recipe", "created_by", "code_version"):
        if not isinstance(getattr(manifest, what), str):
            raise _invalid(f"has a {what} that is not a text")
    _check_time(manifest.created)


def _check_time(text: object) -> None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise _invalid("has a time that is not RFC 3339") from error
    if moment.utcoffset() != timedelta(0):
        raise _invalid("has a time that is not in UTC")


def _check_origin(manifest: Manifest) -> None:
    base = manifest.base
    if not isinstance(base, Base) or not isinstance(base.name, str):
        raise _invalid("does not name its base model")
    for what, value in (("base", base.sha256), ("weights", manifest.weights_sha256), *_items(manifest.data, "data")):
        if not _is(_SHA256, value):
            raise _invalid(f"has no SHA-256 for {what[:100]}")
    if manifest.parent is not None and not _is(VERSION, manifest.parent):
        raise _invalid("has a parent that is no version")
    for split, number in _items(manifest.num_examples, "num_examples"):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise _invalid(f"has no number of examples for {split[:100]}")
    for what in ("config", "metrics", "gate"):
        for _ in _items(getattr(manifest, what), what):
            pass


def _check_files(files: Mapping[str, FileEntry]) -> None:
    if not isinstance(files, Mapping) or len(files) > _MAX_FILES:
        raise _invalid(f"does not name its files, or more than {_MAX_FILES}")
    for name, entry in _items(files, "files"):
        if not _is(_FILE, name) or name in _RESERVED:
            raise _invalid("names a file that is not in its folder")
        if PurePosixPath(name).suffix.lower() in _PICKLES:
            raise AdapterRefused(Refusal.PICKLE, f"only safetensors are loaded, not {name}")
        if not isinstance(entry, FileEntry) or not _is(_SHA256, entry.sha256):
            raise _invalid(f"has no SHA-256 for {name}")
        if not isinstance(entry.size, int) or isinstance(entry.size, bool) or entry.size < 0:
            raise _invalid(f"has no size for {name}")


def _check_encryption(encryption: Encryption, files: Mapping[str, FileEntry]) -> None:
    if encryption.cipher != CIPHER:
        raise AdapterRefused(Refusal.UNSUPPORTED, f"it is encrypted by {encryption.cipher}; known is {CIPHER}")
    if not _is(_KEY_ID, encryption.key_id):
        raise _invalid("does not name its encryption key")
    if {name for name, _ in _items(encryption.nonces, "nonces")} != set(files):
        raise _invalid("does not have one nonce for each file")
    for name, nonce in encryption.nonces.items():
        try:
            raw = base64.b64decode(nonce, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise _invalid(f"has a nonce for {name} that is not base64") from error
        if len(raw) != 12:
            raise _invalid(f"has a nonce for {name} that is not 12 bytes long")


def is_pickle(name: str) -> bool:
    """Tells whether a file's name is that of a format which can run code when it is read."""
    return PurePosixPath(name).suffix.lower() in _PICKLES


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _items(mapping: object, what: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(mapping, Mapping) or not all(isinstance(key, str) for key in mapping):
        raise _invalid(f"has no object of {what}")
    return mapping.items()


def _plain(value: Any) -> Any:
    """Returns dataclasses as objects of JSON, in depth; other values as they are."""
    if isinstance(value, Manifest | Base | FileEntry | Encryption):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice")
    for value in row.values():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number is not finite")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _invalid(what: str) -> AdapterRefused:
    return AdapterRefused(Refusal.MANIFEST_INVALID, f"its manifest {what}")
