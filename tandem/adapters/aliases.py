"""Which version of an adapter its name stands for: the file aliases.json beside its versions."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from tandem.adapters.manifest import VERSION
from tandem.adapters.refusal import AdapterRefused, Refusal

ALIASES = "aliases.json"
_MAX_BYTES = 1024 * 1024
_MAX_HISTORY = 1000


@dataclass(frozen=True, kw_only=True)
class Aliases:
    """Names the versions in use. Raises AdapterRefused when it is made with what does not hold.

    `history` is what was stable before, oldest first; rolling back returns to
    its last entry.
    """

    stable: str
    candidate: str | None = None
    canary_share: float = 0.0
    """Share of the calls for the bare name that the candidate answers, 0 to 1."""
    history: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        versions = [self.stable, *([self.candidate] if self.candidate is not None else []), *self.history]
        if not all(isinstance(version, str) and VERSION.fullmatch(version) for version in versions):
            raise _invalid("names something that is no version")
        share = self.canary_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise _invalid("has a canary_share that is not from 0 to 1")
        if len(self.history) > _MAX_HISTORY:
            raise _invalid(f"has a history of more than {_MAX_HISTORY} versions")


def read_aliases(folder: Path) -> Aliases | None:
    """Returns the aliases in an adapter's folder <root>/<tenant>/<name>; None where there are none yet.

    Raises AdapterRefused (ALIASES_INVALID) for a file that is damaged, and OSError where it cannot be read.
    """
    path = folder / ALIASES
    if not path.exists():
        return None
    # Only a file of a sane size is opened: a pipe of that name would never end.
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _MAX_BYTES:
        raise _invalid("is not a plain file of a sane size")
    try:
        row = json.loads(path.read_bytes())
        return Aliases(
            stable=row["stable"],
            candidate=row.get("candidate"),
            canary_share=row.get("canary_share", 0.0),
            history=tuple(row.get("history", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid("cannot be read") from error


def write_aliases(folder: Path, aliases: Aliases) -> None:
    """Replaces the aliases in an adapter's folder in one step; raises OSError.

    Of two writers at once the later wins: whoever changes what it has read
    keeps others out for that time.
    """
    row = {
        "stable": aliases.stable,
        "candidate": aliases.candidate,
        "canary_share": aliases.canary_share,
        "history": list(aliases.history),
    }
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{ALIASES}.{secrets.token_hex(8)}"
    try:
        with scratch.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(row, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(folder / ALIASES)
    finally:
        scratch.unlink(missing_ok=True)


def _invalid(what: str) -> AdapterRefused:
    return AdapterRefused(Refusal.ALIASES_INVALID, f"its {ALIASES} {what}")
