"""The keys that adapters are checked with: whose signatures count, and what opens the encrypted ones."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tandem.adapters import Keyring, Trust

log = logging.getLogger(__name__)

Keys = Callable[[], tuple[Trust, Keyring]]
"""Returns the keys as they are now; raises ConfigError."""


class KeyFiles:
    """Reads trust files and a keyring anew for each check.

    So a key that is added or withdrawn counts without a restart: for a load
    at once, for what is in memory when the adapter folder is looked at next.
    """

    def __init__(self, *, trust: Sequence[Path], keyring: Path | None = None, keyring_text: str = "") -> None:
        self._trust = tuple(trust)
        self._keyring = keyring
        self._text = keyring_text

    def __call__(self) -> tuple[Trust, Keyring]:
        """Returns the keys; a trust file that is not there trusts nobody. Raises ConfigError for a damaged file."""
        return self.trust(), self._ring()

    def trust(self) -> Trust:
        """Returns whose signatures count; raises ConfigError for a damaged file."""
        return Trust.read_all(self._trust)

    def check(self) -> None:
        """Reads all files once and logs whom they trust; raises ConfigError."""
        trust, ring = self()
        if not trust.keys:
            log.warning(
                "no signing key is trusted, so every adapter will be refused: set GENERATOR_ADAPTER_TRUST_FILES"
            )
        about = {"signing_keys": ",".join(sorted(trust.keys)), "encryption_keys": ",".join(sorted(ring.ciphers))}
        log.info("adapter keys read", extra=about)

    def _ring(self) -> Keyring:
        if self._keyring is not None:
            return Keyring.read(self._keyring)
        return Keyring.parse(self._text, source="GENERATOR_ADAPTER_KEYS") if self._text else Keyring()
