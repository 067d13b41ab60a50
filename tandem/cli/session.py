"""Which server a command talks to, and as whom."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tandem import config
from tandem.config import setting
from tandem.errors import ConfigError
from tandem.stack import DEFAULT_PORT, Home

As = Annotated[
    str | None, typer.Option("--as", help="Principal to act as, by its name in credentials.json.", show_default=False)
]


@dataclass(frozen=True, kw_only=True)
class CliConfig:
    """Holds the knobs of the command line."""

    home: Path = setting(Path(".tandem"), help="Folder of the local stack; where addresses and tokens are found.")
    token: str = setting("", help="Bearer token to present; overrides --as.")
    principal: str = setting("", help="Principal to act as when --as is not given.")
    router: str = setting("", help="Address of the router, when it is not the local stack's.")
    retriever: str = setting("", help="Address of the retriever, when it is not the local stack's.")
    generator: str = setting("", help="Address of the generator, when it is not the local stack's.")
    embedder: str = setting("", help="Address of the embedder, when it is not the local stack's.")
    timeout: float = setting(120.0, help="Longest wait for one call.", unit="s", minimum=0.1, maximum=86_400)


@dataclass(frozen=True)
class Target:
    """Is where a client connects, and with which token."""

    address: str
    token: str | None
    timeout: float


def settings() -> CliConfig:
    """Reads TANDEM_* from the environment."""
    return config.load(CliConfig, "TANDEM")


def target(service: str, principal: str | None) -> Target:
    """Returns where and as whom to call a service; raises ConfigError when no token can be found."""
    knobs = settings()
    home = Home(knobs.home)
    given: str = getattr(knobs, service)
    token = knobs.token or credential(home, principal or knobs.principal or None)
    return Target(address=given or endpoint(home, service), token=token, timeout=knobs.timeout)


def endpoint(home: Home, service: str) -> str:
    """Returns a service's address: that of the local stack, or the default port."""
    try:
        address: str = json.loads(home.endpoints.read_text())[service]["grpc"]
        return address
    except (OSError, ValueError, KeyError):
        offset = ["router", "embedder", "retriever", "generator"].index(service)
        return f"127.0.0.1:{DEFAULT_PORT + offset}"


def credential(home: Home, principal: str | None) -> str:
    """Returns a principal's token; the first one's when none is named."""
    try:
        tokens: dict[str, str] = json.loads(home.credentials.read_text())
    except OSError:
        raise ConfigError(f"no token: set TANDEM_TOKEN, or run `tandem up` first ({home.credentials})") from None
    name = principal or next(iter(tokens))
    if name not in tokens:
        raise ConfigError(f"no principal {name!r} in {home.credentials}; known are {', '.join(tokens)}")
    return tokens[name]
