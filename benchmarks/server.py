"""A real generator process for a measurement: free ports, tokens of its own, stopped whatever happens."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tandem.client import AsyncGeneratorClient
from tandem.config import inherited_environment
from tandem.security import Principal, issue, write_secret
from tandem.supervisor import Spec, Supervisor, free_port

_START_S = 300.0
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
    own = {"LISTEN": target, "METRICS_LISTEN": metrics, "TOKEN_FILE": str(home / "tokens.json"), **settings}
    environment = inherited | {f"GENERATOR_{key}": value for key, value in own.items()}
    spec = Spec("generator", "tandem.v1.GeneratorService", target, metrics, environment)
    async with Supervisor([spec], home=home).running() as supervisor:
        await supervisor.wait_ready(timeout_s=_START_S)
        yield Server(target, f"http://{metrics}/metrics", tokens, supervisor)


def copy_adapter(source: Path, target: Path, *, number: int) -> None:
    """Copies an adapter under another name and hash: one weight differs in its least bits."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    weights = bytearray((source / "adapter_model.safetensors").read_bytes())
    weights[-2] = number % 256  # little-endian: the low byte of the last weight
    scratch = target / "adapter_model.partial"
    scratch.write_bytes(weights)
    scratch.replace(target / "adapter_model.safetensors")


def end_tokens(model: Path) -> list[int]:
    """Returns the tokens that end a turn of a model in Hugging Face layout."""
    end = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    return end if isinstance(end, list) else [end]
