"""Which registry, which keys: what the options leave open comes from the user's own files and TRAINING_*."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tandem import config
from tandem.adapters import Cipher, Keyring, Signer, Trust
from tandem.cli.session import settings
from tandem.config import setting, signing_key_file, trust_file
from tandem.errors import ConfigError
from tandem.stack import Home

if TYPE_CHECKING:
    from training.cli.options import Where
    from training.registering import Incumbent, Place


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Holds what the environment may say to `tandem train`."""

    adapter_keys: str = setting("", help="Keyring as JSON, for where secrets come as variables.")


def place_of(where: "Where", *, default_tenant: str = "") -> "Place":
    """Returns the adapter's place; raises ConfigError where tenant or name are not given."""
    from training.registering import Place

    tenant = where.tenant or default_tenant
    if not tenant or not where.name:
        raise ConfigError("name the adapter with --tenant and --name")
    return Place(root=where.registry or Home(settings().home).adapters(), tenant=tenant, name=where.name)


def incumbent_of(where: "Where", *, default_tenant: str = "") -> "Incumbent | None":
    """Returns the adapter in use, None where no name is given, none is in use, or it is to be left out."""
    from training.registering import open_incumbent

    if where.no_incumbent or not where.name:
        return None
    place = place_of(where, default_tenant=default_tenant)
    return open_incumbent(place, trust=trusted(where), ciphers=keyring(where.keys))


def trusted(where: "Where") -> Trust:
    """Returns the user's own trust and that of the files that were named."""
    files = [*([trust_file()] if trust_file().exists() else []), *where.trust]
    keys = {key_id: key for path in files for key_id, key in Trust.read(path).keys.items()}
    return Trust(keys)


def keyring(path: Path | None) -> Keyring | None:
    """Returns the keys of encrypted adapters: of the file, else of TRAINING_ADAPTER_KEYS; None without either."""
    if path is not None:
        return Keyring.read(path)
    text = config.load(TrainingConfig, "TRAINING").adapter_keys
    return Keyring.parse(text, source="TRAINING_ADAPTER_KEYS") if text else None


def cipher(path: Path | None) -> Cipher:
    """Returns what encrypts with the keyring's current key; raises ConfigError without a keyring."""
    ring = keyring(path)
    if ring is None:
        raise ConfigError("--encrypt needs a keyring: name it with --keys, or set TRAINING_ADAPTER_KEYS")
    return ring.cipher()


def signer(path: Path | None) -> Signer:
    """Returns the key that signs: that of the file, else the user's own, which is made and trusted on first use.

    A key that was distrusted later stays so: what it signs is not loaded until `tandem keys trust` says otherwise.
    """
    from training.registering import trust_signer, user

    if path is not None:
        return Signer.read(path)
    first = not signing_key_file().exists() or not trust_file().exists()
    own = Signer.read_or_make(signing_key_file())
    if first:
        trust_signer(own, trust_file(), owner=user())
    return own
