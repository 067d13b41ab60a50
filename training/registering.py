"""Puts a candidate into the registry folder: a signed version in use or waiting, or one that is kept as rejected."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tandem.adapters import (
    CONFIG,
    NAME,
    TENANT,
    WEIGHTS,
    AdapterRefused,
    Aliases,
    Base,
    Cipher,
    Keyring,
    Manifest,
    Signer,
    Trust,
    read_aliases,
    read_version,
    version_folder,
    write_aliases,
    write_version,
)
from tandem.adapters.changing import changing_aliases
from tandem.errors import ConfigError
from training.gate.evaluation import Evaluation
from training.methods.record import Run


class RegistryError(ValueError):
    """Says why a candidate cannot be registered, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Is where an adapter lies in the registry."""

    root: Path
    tenant: str
    name: str

    def __post_init__(self) -> None:
        if not TENANT.fullmatch(self.tenant) or not NAME.fullmatch(self.name):
            raise RegistryError(
                f"{self.tenant}/{self.name} is no adapter: tenant and name are letters, digits, '.', '_' and '-', "
                "64 at most"
            )

    @property
    def folder(self) -> Path:
        """Returns the adapter's folder."""
        return self.root / self.tenant / self.name

    def stable(self) -> str | None:
        """Returns the version in use, None where there is none; raises RegistryError for damaged aliases."""
        try:
            aliases = read_aliases(self.folder)
        except (AdapterRefused, OSError) as error:
            raise RegistryError(f"the aliases of {self.tenant}/{self.name} cannot be read: {error}") from error
        return aliases.stable if aliases is not None else None


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """Is the adapter in use, opened and checked."""

    version: str
    base_sha256: str
    config: Mapping[str, Any]
    weights: bytes


def open_incumbent(place: Place, *, trust: Trust, ciphers: Keyring | None = None) -> Incumbent | None:
    """Returns the version in use, None where there is none; raises RegistryError where it cannot be trusted or read."""
    version = place.stable()
    if version is None:
        return None
    folder = version_folder(place.root, tenant=place.tenant, name=place.name, version=version)
    try:
        opened = read_version(folder, trust=trust, ciphers=ciphers)
        config = json.loads(opened.read(CONFIG))
        return Incumbent(
            version=version, base_sha256=opened.manifest.base.sha256, config=config, weights=opened.read(WEIGHTS)
        )
    except AdapterRefused as error:
        raise RegistryError(
            f"the version in use, {place.tenant}/{place.name}@{version}, is refused ({error.code}): {error.message}. "
            "Name its trust file with --trust and its keys with --keys, or compare with the base model alone: "
            "--no-incumbent"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Is what registering came to."""

    folder: Path
    manifest: Manifest
    accepted: bool
    alias: str
    """"stable" for an adapter's first version, "candidate" for later ones, "" for a rejected one, "history" for one
    that was in use before."""


def register(
    run: Run,
    evaluation: Evaluation,
    place: Place,
    *,
    signer: Signer,
    cipher: Cipher | None = None,
    created_by: str | None = None,
) -> Registered:
    """Writes the run's adapter as the verdict says, signed, and names it by an alias.

    What was registered before stays as it is, and is returned. Raises RegistryError where the evaluation is of other
    weights or of an outdated incumbent, or for a full fine-tune, which is a base model of its own.
    """
    if run.method.name == "full":
        raise RegistryError(serve_full(run))
    manifest = _manifest(run, evaluation, place, created_by=created_by or user())
    alias = alias_of(place, manifest.version)
    rejected = not evaluation.verdict.accepted and not alias
    folder = version_folder(
        place.root, tenant=place.tenant, name=place.name, version=manifest.version, rejected=rejected
    )
    if not alias:
        _check_evaluated(run, evaluation, place)
    files = {path.name: path for path in run.weights.iterdir() if path.name in (CONFIG, WEIGHTS)}
    try:
        try:
            written = write_version(folder, manifest, files, signer=signer, cipher=cipher)
        except FileExistsError:
            # Written before, and perhaps cut off before it got its name: what is left to do is done now.
            written = _written(folder, signer=signer, cipher=cipher)
        if not rejected and not alias:
            alias = _name(place, manifest.version)
    except TimeoutError:
        raise RegistryError(f"the aliases of {place.folder} are held by another process; try again") from None
    except AdapterRefused as error:
        raise RegistryError(f"{error.code}: {error.message}") from error
    except OSError as error:
        raise RegistryError(f"the registry {place.root} cannot be written: {error.strerror or error}") from error
    return Registered(folder=folder, manifest=written, accepted=not rejected, alias=alias)


def serve_full(run: Run) -> str:
    """Returns what to do with a full fine-tune."""
    return f"a full fine-tune is a base model, not an adapter: serve it with GENERATOR_MODEL={run.weights.resolve()}"


def _written(folder: Path, *, signer: Signer, cipher: Cipher | None) -> Manifest:
    """Returns the manifest of a version that is there; raises RegistryError where it is kept otherwise than asked."""
    written = read_version(folder, trust=Trust.of(signer)).manifest
    held = written.encryption.key_id if written.encryption else None
    wanted = cipher.key_id if cipher else None
    if held != wanted:
        told = f"encrypted with the key {held}" if held else "not encrypted"
        raise RegistryError(f"these very weights are registered already, {told}, in {folder}")
    return written


def trust_signer(signer: Signer, path: Path, *, owner: str) -> bool:
    """Adds the signer to the user's own trust file, so that a stack on this machine loads what it signed.

    Returns whether it was added; it may be there already.
    """
    trust = Trust.read(path) if path.exists() else Trust()
    if signer.key_id in trust.keys:
        return False
    try:
        trust.with_signer(signer, owner=owner).write(path)
    except OSError as error:
        raise ConfigError(f"cannot write the trust file {path}: {error.strerror}") from error
    return True


def _check_evaluated(run: Run, evaluation: Evaluation, place: Place) -> None:
    again = f"; evaluate it again: tandem train evaluate {run.folder}"
    if evaluation.about.get("weights_sha256") != run.result["weights_sha256"]:
        raise RegistryError(f"the evaluation in {run.folder} is of other weights{again}")
    if evaluation.about.get("dataset_sha256") != run.record["dataset"]["sha256"]:
        raise RegistryError(f"the evaluation in {run.folder} was made on another dataset{again}")
    judged, stable = evaluation.about.get("incumbent"), place.stable()
    waived = evaluation.about.get("incumbent_waived", False)
    if evaluation.verdict.accepted and judged != stable and not waived:
        raise RegistryError(
            f"{place.tenant}/{place.name} has {f'the version {stable}' if stable else 'no version'} in use, and the "
            f"candidate was compared with {f'the version {judged}' if judged else 'the base model alone'}{again}"
        )


def _manifest(run: Run, evaluation: Evaluation, place: Place, *, created_by: str) -> Manifest:
    record, result = run.record, run.result
    row = evaluation.to_json()
    return Manifest(
        tenant=place.tenant,
        name=place.name,
        method=run.method.name,
        recipe=record["dataset"]["recipe"],
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        created_by=created_by,
        code_version=record["code_version"],
        base=Base(name=record["base"]["name"], sha256=record["base"]["sha256"]),
        weights_sha256=result["weights_sha256"],
        parent=evaluation.about.get("incumbent"),
        data={**record["dataset"]["inputs"], **record["dataset"]["files"]},
        num_examples=record["dataset"]["counts"],
        config={
            "method": record["method"],
            "dataset": {key: record["dataset"][key] for key in ("sha256", "seed", "config", "prompts_version")},
            "versions": record["versions"],
            "hardware": record["hardware"],
            "device": record["device"],
        },
        metrics={
            "training": {key: value for key, value in result.items() if key not in ("files", "weights_sha256")},
            "arms": {name: arm["metrics"] for name, arm in row["arms"].items()},
            "gains": row["gains"],
            "num_questions": evaluation.num_questions,
            "num_groups": evaluation.num_groups,
            "perplexity": evaluation.perplexity,
            "forgetting": evaluation.forgetting,
        },
        gate={"metric": evaluation.metric, "candidate": evaluation.candidate, **row["verdict"], **row["settings"]},
    )


def _name(place: Place, version: str) -> str:
    """Makes the version the candidate, or stable where it is the first; returns which."""
    with changing_aliases(place.folder):
        aliases = read_aliases(place.folder)
        if aliases is None:
            write_aliases(place.folder, Aliases(stable=version))
            return "stable"
        # A new candidate starts without a share of the calls, whatever the one before it had.
        write_aliases(place.folder, replace(aliases, candidate=version, canary_share=0.0))
        return "candidate"


def alias_of(place: Place, version: str) -> str:
    """Returns what a version is in use as: "stable", "candidate", "history" for one that was, else ""."""
    aliases = read_aliases(place.folder)
    if aliases is None:
        return ""
    if version == aliases.stable:
        return "stable"
    if version == aliases.candidate:
        return "candidate"
    return "history" if version in aliases.history else ""


def user() -> str:
    """Returns who registers, for the manifest and the trust file."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process whose user has no name
        return "unknown"
