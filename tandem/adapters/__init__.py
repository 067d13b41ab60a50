"""Trained adapters on disk: versions with a signed manifest, optionally encrypted, and the aliases that name them.

    <root>/<tenant>/<name>/aliases.json
    <root>/<tenant>/<name>/versions/<version>/manifest.json, manifest.sig and the files that the manifest names
    <root>/<tenant>/<name>/rejected/<version>/...           the same, kept for its reasons and never loaded

Training writes them, the generator's registry reads them. A signature by a
trusted key says who vouches for a version; the hashes in the manifest bind
its files to it, and its tenant, name and version bind it to its place. The
aliases are not signed: whoever may write the registry folder may choose among
the signed versions of an adapter, older ones included, but cannot add one.

This package needs `cryptography` (extras `generator` and `training`); it knows no grpc and no torch.
"""

from tandem.adapters.aliases import ALIASES, Aliases, read_aliases, write_aliases
from tandem.adapters.keys import Cipher, Keyring, Signer, Trust, TrustedKey, key_id_of
from tandem.adapters.manifest import (
    CONFIG,
    METHODS,
    NAME,
    SCHEMA,
    TENANT,
    VERSION,
    WEIGHTS,
    Base,
    Encryption,
    FileEntry,
    Manifest,
)
from tandem.adapters.refusal import AdapterRefused, Refusal
from tandem.adapters.versions import (
    MANIFEST,
    REJECTED,
    SIGNATURE,
    VERSIONS,
    Opened,
    read_version,
    version_folder,
    write_version,
)

__all__ = [
    "ALIASES",
    "CONFIG",
    "MANIFEST",
    "METHODS",
    "NAME",
    "REJECTED",
    "SCHEMA",
    "SIGNATURE",
    "TENANT",
    "VERSION",
    "VERSIONS",
    "WEIGHTS",
    "AdapterRefused",
    "Aliases",
    "Base",
    "Cipher",
    "Encryption",
    "FileEntry",
    "Keyring",
    "Manifest",
    "Opened",
    "Refusal",
    "Signer",
    "Trust",
    "TrustedKey",
    "key_id_of",
    "read_aliases",
    "read_version",
    "version_folder",
    "write_aliases",
    "write_version",
]
