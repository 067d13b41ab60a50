"""Who is asking: principals, and the file that tells which token stands for which.

The file on the server's side holds SHA-256 hashes only, so reading it does not let anyone in. Tokens are 256 random
bits, so a plain hash is enough. A JWT or a client certificate can take the file's place behind `Authenticator`.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tandem.errors import ConfigError, Unauthenticated

ROLES = ("user", "editor", "auditor", "operator", "platform", "service")


@dataclass(frozen=True)
class Principal:
    """Is a caller whose identity is proven.

    Roles are "user" (ask, search, embed, generate), "editor" (ingest, delete), "auditor" (audit records), "operator"
    (load and unload the tenant's adapters), "platform" (snapshots of the collection that all tenants share) and
    "service" (may speak for another principal).
    """

    subject: str
    tenant: str
    groups: frozenset[str] = field(default_factory=frozenset)
    roles: frozenset[str] = field(default_factory=frozenset)

    def to_json(self) -> str:
        """Returns the form in which a service forwards the principal."""
        return json.dumps(
            {
                "subject": self.subject,
                "tenant": self.tenant,
                "groups": sorted(self.groups),
                "roles": sorted(self.roles),
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Principal":
        """Reads the form that to_json writes; raises ValueError for anything else."""
        try:
            row = json.loads(text)
            return cls.from_mapping(row)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a principal") from error

    @classmethod
    def from_mapping(cls, row: Mapping[str, object]) -> "Principal":
        """Reads a decoded JSON object; raises ValueError or TypeError when it is not a principal."""
        subject, tenant = row["subject"], row["tenant"]
        groups, roles = row.get("groups", []), row.get("roles", [])
        if not (isinstance(subject, str) and subject and isinstance(tenant, str) and tenant):
            raise ValueError("subject and tenant must be non-empty strings")
        if not (isinstance(groups, list) and isinstance(roles, list)):
            raise ValueError("groups and roles must be lists")
        if not all(isinstance(item, str) for item in [*groups, *roles]):
            raise ValueError("groups and roles must hold strings")
        "".join([subject, tenant, *groups]).encode()  # refuses lone surrogates: they cannot be stored or sent
        if unknown := set(roles) - set(ROLES):
            raise ValueError(f"unknown roles {sorted(unknown)}; known are {', '.join(ROLES)}")
        return cls(subject=subject, tenant=tenant, groups=frozenset(groups), roles=frozenset(roles))


class Authenticator(Protocol):
    """Turns a bearer token into a principal."""

    def resolve(self, token: str) -> Principal:
        """Returns who the token stands for; raises Unauthenticated."""
        ...


class TokenFile:
    """Resolves tokens by a JSON file of their hashes; a changed file is read again at the next call.

    A file that has become unreadable keeps the tokens as they were last read: an operator's slip while editing locks
    nobody out, and lets nobody in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._principals: dict[str, Principal] = {}
        self._reload()

    def resolve(self, token: str) -> Principal:
        """Returns who the token stands for; raises Unauthenticated."""
        try:
            if self._read_stamp() != self._stamp:
                self._reload()
        except (OSError, ConfigError):
            pass
        principal = self._principals.get(_digest(token))
        if principal is None:
            raise Unauthenticated("the token is not known here")
        return principal

    def _read_stamp(self) -> tuple[int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_ino

    def _reload(self) -> None:
        try:
            stamp = self._read_stamp()
            rows = json.loads(self._path.read_text())["tokens"]
            self._principals = {row["token_sha256"]: Principal.from_mapping(row) for row in rows}
            self._stamp = stamp
        except OSError as error:
            raise ConfigError(f"cannot read the token file {self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path} is not a token file: {error}") from error


def issue(principals: Mapping[str, Principal]) -> tuple[str, dict[str, str]]:
    """Draws a token for each named principal.

    Returns the text of a token file, and the tokens by name; the tokens are stored nowhere else.
    """
    tokens = {name: secrets.token_urlsafe(32) for name in principals}
    rows = [{"token_sha256": _digest(tokens[name]), **json.loads(p.to_json())} for name, p in principals.items()]
    return json.dumps({"tokens": rows}, indent=1, ensure_ascii=False) + "\n", tokens


def read_credential(path: Path | None) -> str | None:
    """Returns the token that a service presents to its peers; raises ConfigError when its file cannot be read."""
    try:
        return path.read_text().strip() if path is not None else None
    except OSError as error:
        raise ConfigError(f"cannot read the credential file {path}: {error.strerror}") from error


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, in one step: there is no moment when it is open or half written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)  # left by a crash, perhaps with another mode
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
