"""The keys of adapters: who may sign (Ed25519, RFC 8032), and what opens an encrypted one (AES-256-GCM).

A key's id is the first 16 hexadecimal digits of the SHA-256 of its bytes: of
the raw public key of a signer, of the key itself of a cipher.
"""

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher as Primitive
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tandem.errors import ConfigError
from tandem.security import write_secret

_MAX_KEY_FILE = 1024 * 1024
_PIECE = 1024 * 1024
"""Bytes decrypted at a time: no other thread of the process runs meanwhile."""
_TAG = 16


def key_id_of(raw: bytes) -> str:
    """Returns the id of a key."""
    return hashlib.sha256(raw).hexdigest()[:16]


class Signer:
    """Signs manifests."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        """The raw public key, 32 bytes."""
        self.key_id = key_id_of(self.public)

    @classmethod
    def generate(cls) -> "Signer":
        """Draws a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> "Signer":
        """Reads a private key in PEM (PKCS 8); raises ConfigError, also where others than its owner may read it."""
        data = _read(path, "signing key")
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"the signing key {path} can be read by others: chmod 600 {path}")
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is not a private key in PEM without a passphrase") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"the signing key {path} is not an Ed25519 key")
        return cls(key)

    @classmethod
    def read_or_make(cls, path: Path) -> "Signer":
        """Reads the key, after drawing one and writing it (mode 0600) where the file does not exist yet."""
        if not path.exists():
            cls.generate().write(path)
        return cls.read(path)

    def write(self, path: Path) -> None:
        """Writes the private key, readable by its owner only; a file that is there already stays as it is."""
        text = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            write_secret(scratch, text)
            os.link(scratch, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot write the signing key {path}: {error.strerror}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def sign(self, data: bytes) -> bytes:
        """Returns the signature, 64 bytes."""
        return self._key.sign(data)


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """Is a public key whose signatures count; with tenants, only for adapters of these."""

    public: bytes
    owner: str
    tenants: tuple[str, ...] = ()

    def may_sign_for(self, tenant: str) -> bool:
        """Tells whether the key's signature counts for that tenant's adapters."""
        return not self.tenants or tenant in self.tenants

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tells whether the signature is this key's over the data."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Trust:
    """Holds the keys whose signatures count, by id.

    As a file: {"keys": {key id: {"public": base64, "owner": text, "tenants": [tenant, ...]}}}, where `tenants` may be
    left out.
    """

    keys: Mapping[str, TrustedKey] = field(default_factory=dict)

    @classmethod
    def of(cls, *signers: Signer, owner: str = "") -> "Trust":
        """Returns trust in these signers."""
        return cls({signer.key_id: TrustedKey(public=signer.public, owner=owner) for signer in signers})

    @classmethod
    def read(cls, path: Path) -> "Trust":
        """Reads a trust file; raises ConfigError."""
        rows = _rows(_read(path, "trust file"), f"{path} is not a trust file")["keys"]
        keys = {}
        for key_id, row in rows.items():
            try:
                public = base64.b64decode(row["public"], validate=True)
                owner, tenants = row.get("owner", ""), row.get("tenants", [])
            except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
                raise ConfigError(f"{path}: the key {key_id} has no public key in base64") from error
            if len(public) != 32 or key_id_of(public) != key_id:
                raise ConfigError(f"{path}: the public key of {key_id} is damaged, or its id belongs to another")
            if not isinstance(owner, str) or not _is_texts(tenants):
                raise ConfigError(f"{path}: the key {key_id} needs an owner, a text, and tenants, a list of texts")
            keys[key_id] = TrustedKey(public=public, owner=owner, tenants=tuple(tenants))
        return cls(keys)

    @classmethod
    def read_all(cls, paths: Sequence[Path]) -> "Trust":
        """Reads several trust files as one; a missing file trusts nobody. Raises ConfigError."""
        keys: dict[str, TrustedKey] = {}
        for path in paths:
            if path.exists():
                keys |= cls.read(path).keys
        return cls(keys)

    def with_key(self, public: bytes, *, owner: str, tenants: tuple[str, ...] = ()) -> "Trust":
        """Returns this trust and that in a raw public key beside it; raises ConfigError for what is none."""
        if len(public) != 32:
            raise ConfigError("a public key of Ed25519 has 32 bytes")
        return Trust({**self.keys, key_id_of(public): TrustedKey(public=public, owner=owner, tenants=tenants)})

    def with_signer(self, signer: Signer, *, owner: str, tenants: tuple[str, ...] = ()) -> "Trust":
        """Returns this trust and that in a signer beside it."""
        return self.with_key(signer.public, owner=owner, tenants=tenants)

    def write(self, path: Path) -> None:
        """Writes the trust file in one step; raises OSError."""
        rows = {
            key_id: {
                "public": base64.b64encode(key.public).decode("ascii"),
                "owner": key.owner,
                **({"tenants": list(key.tenants)} if key.tenants else {}),
            }
            for key_id, key in self.keys.items()
        }
        write_secret(path, json.dumps({"keys": rows}, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Cipher:
    """Encrypts and decrypts under one key of 32 bytes."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise ConfigError("an encryption key has 32 bytes")

    @property
    def key_id(self) -> str:
        """Returns the key's id."""
        return key_id_of(self.key)

    def encrypt(self, data: bytes, associated: bytes) -> tuple[bytes, bytes]:
        """Returns a fresh nonce of 12 bytes and the ciphertext with its tag, 16 bytes longer than the data."""
        nonce = secrets.token_bytes(12)
        return nonce, AESGCM(self.key).encrypt(nonce, data, associated)

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes | None:
        """Returns the plain data; None where key, nonce, data or associated data are not those of the encryption."""
        whole = memoryview(data)
        end = len(data) - _TAG
        try:
            decryptor = Primitive(AES(self.key), GCM(nonce, bytes(whole[end:]) if end >= 0 else b"")).decryptor()
            decryptor.authenticate_additional_data(associated)
            pieces = [decryptor.update(whole[start : min(start + _PIECE, end)]) for start in range(0, end, _PIECE)]
            # Nothing of it is used before the tag has held.
            pieces.append(decryptor.finalize())
        except (InvalidTag, ValueError):
            return None
        return b"".join(pieces)


@dataclass(frozen=True)
class Keyring:
    """Holds encryption keys by id: the current one encrypts, all decrypt, so that keys can be changed over time.

    As a file or an environment variable: {"keys": {key id: base64 of 32 bytes}, "current": key id}.
    """

    ciphers: Mapping[str, Cipher] = field(default_factory=dict)
    current: str = ""

    @classmethod
    def of(cls, *ciphers: Cipher) -> "Keyring":
        """Returns a keyring of which the first cipher is current."""
        return cls({cipher.key_id: cipher for cipher in ciphers}, ciphers[0].key_id if ciphers else "")

    @classmethod
    def generate(cls) -> "Keyring":
        """Draws one new key."""
        return cls().with_new()

    @classmethod
    def read(cls, path: Path) -> "Keyring":
        """Reads a keyring file; raises ConfigError."""
        return cls.parse(_read(path, "key file"), source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, source: str) -> "Keyring":
        """Reads a keyring; raises ConfigError, which names the source and never a key."""
        row = _rows(text, f"{source} is not a keyring")
        ciphers = {}
        for key_id, key in row["keys"].items():
            try:
                raw = base64.b64decode(key, validate=True)
            except (TypeError, binascii.Error, ValueError):
                raw = b""
            if len(raw) != 32 or key_id_of(raw) != key_id:
                raise ConfigError(f"{source}: the key {key_id[:16]} is not 32 bytes in base64 with that id")
            ciphers[key_id] = Cipher(raw)
        current = row.get("current", "")
        if not isinstance(current, str) or current not in ciphers:
            raise ConfigError(f'{source}: "current" names none of its keys')
        return cls(ciphers, current)

    def cipher(self) -> Cipher:
        """Returns the current cipher; raises ConfigError without one."""
        if self.current not in self.ciphers:
            raise ConfigError("the keyring has no current key")
        return self.ciphers[self.current]

    def with_new(self) -> "Keyring":
        """Returns this keyring with a new current key; the others go on opening what they encrypted."""
        made = Cipher(secrets.token_bytes(32))
        return Keyring({made.key_id: made, **self.ciphers}, made.key_id)

    def write(self, path: Path) -> None:
        """Writes the keyring, readable by its owner only; raises OSError."""
        keys = {key_id: base64.b64encode(cipher.key).decode("ascii") for key_id, cipher in self.ciphers.items()}
        write_secret(path, json.dumps({"keys": keys, "current": self.current}, indent=1) + "\n")


def _read(path: Path, what: str) -> bytes:
    try:
        # Only a file of a sane size is opened: a pipe of that name would never end.
        if path.exists() and (not path.is_file() or path.stat().st_size > _MAX_KEY_FILE):
            raise ConfigError(f"the {what} {path} is not a file of at most {_MAX_KEY_FILE} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error


def _rows(text: str | bytes, complaint: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{complaint}: it is not JSON") from None
    if not isinstance(row, dict) or not isinstance(row.get("keys"), dict):
        raise ConfigError(f'{complaint}: it has no "keys"')
    return row


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
