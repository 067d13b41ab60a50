"""A real generator process for a measurement: free ports, tokens of its own, stopped whatever happens."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tandem.adapters import (
    CONFIG,
    MANIFEST,
    VERSIONS,
    WEIGHTS,
    Aliases,
    Manifest,
    Signer,
    Trust,
    read_aliases,
    write_aliases,
    write_version,
)
from tandem.client import AsyncGeneratorClient
from tandem.config import inherited_environment
from tandem.security import Principal, issue, write_secret
from tandem.supervisor import Spec, Supervisor, free_port

_START_S = 300.0
_KEY = "signing-key.pem"
_OURS = ("TANDEM_", "GENERATOR_", "OTEL_")
USER = {"bench": Principal("bench", "bench", roles=frozenset({"user"}))}


@dataclass(frozen=True)
class Server:
    """Is a running generator."""

    target: str
    metrics: str
    tokens: Mapping[str, str]
    supervisor: Supervisor

    @property
    def pid(self) -> int:
        """The process; another one after a restart."""
        return self.supervisor.pids()["generator"]

    def client(self, principal: str = "bench", *, timeout_s: float = 600) -> AsyncGeneratorClient:
        """Opens a client that acts as a principal."""
        return AsyncGeneratorClient(self.target, token=self.tokens[principal], timeout=timeout_s)


@asynccontextmanager
async def generator(
    home: Path, settings: Mapping[str, str], principals: Mapping[str, Principal] = USER
) -> AsyncIterator[Server]:
    """Runs a generator with these settings (names without their prefix); its log is home/logs/generator.log."""
    text, tokens = issue(principals)
    write_secret(home / "tokens.json", text)
    target, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    inherited = {key: value for key, value in inherited_environment().items() if not key.startswith(_OURS)}
    Trust.of(Signer.read_or_make(home / _KEY), owner="a measurement").write(home / "trust.json")
    own = {
        "LISTEN": target,
        "METRICS_LISTEN": metrics,
        "TOKEN_FILE": str(home / "tokens.json"),
        "ADAPTER_TRUST_FILES": str(home / "trust.json"),
        **settings,
    }
    environment = inherited | {f"GENERATOR_{key}": value for key, value in own.items()}
    spec = Spec("generator", "tandem.v1.GeneratorService", target, metrics, environment)
    async with Supervisor([spec], home=home).running() as supervisor:
        await supervisor.wait_ready(timeout_s=_START_S)
        yield Server(target, f"http://{metrics}/metrics", tokens, supervisor)


def copy_adapter(source: Path, target: Path, *, number: int) -> None:
    """Makes a copy of an adapter's stable version the stable one of `target`, <home>/adapters/<tenant>/<name>.

    Its hash is another one, since one weight differs in its least bits; there are sixteen such copies.
    """
    aliases = read_aliases(source)
    if aliases is None:
        raise FileNotFoundError(source)
    original = source / VERSIONS / aliases.stable
    weights = bytearray((original / WEIGHTS).read_bytes())
    weights[-2] = number % 16  # little-endian: the low byte of the last weight
    manifest = replace(
        Manifest.from_bytes((original / MANIFEST).read_bytes()),
        tenant=target.parent.name,
        name=target.name,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_by="a measurement",
    )
    folder = target / VERSIONS / manifest.version
    if not folder.exists():
        files = {CONFIG: (original / CONFIG).read_bytes(), WEIGHTS: bytes(weights)}
        write_version(folder, manifest, files, signer=Signer.read_or_make(target.parents[2] / _KEY))
    write_aliases(target, Aliases(stable=manifest.version))


def end_tokens(model: Path) -> list[int]:
    """Returns the tokens that end a turn of a model in Hugging Face layout."""
    end = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    return end if isinstance(end, list) else [end]
