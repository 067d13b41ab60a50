"""Peers of the router that die and come back, over real gRPC."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.config import ServerConfig
from tandem.rpc.server import App, serving
from tandem.telemetry import Telemetry
from tests.fakes.router import World
from tests.fakes.router_peers import TOKENS, Seen, peer_apps, routing
from tests.fakes.rpc_peer import KnownTokens


@dataclass
class Mortal:
    """Is a peer whose server can be ended, with what it was doing, and started again at the same address."""

    name: str
    app: App
    address: str = "127.0.0.1:0"
    _life: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def rise(self) -> None:
        """Serves until it dies."""
        settings = ServerConfig(listen=self.address, drain_seconds=0)
        host = serving(self.app, settings, Telemetry(self.name), authenticator=KnownTokens(TOKENS))
        self.address = await self._life.enter_async_context(host)

    async def die(self) -> None:
        """Ends at once; does nothing where it is dead."""
        await self._life.aclose()


@dataclass
class MortalWorld:
    """Is a router among peers that die."""

    world: World
    peers: dict[str, Mortal]
    address: str
    telemetry: Telemetry

    async def kill(self, *names: str) -> None:
        """Ends peers."""
        for name in names:
            await self.peers[name].die()

    def breaker(self, name: str) -> float | None:
        """Returns what the metric tells of a peer's breaker."""
        return self.telemetry.registry.get_sample_value("tandem_router_breaker_state", {"component": name})


@asynccontextmanager
async def mortal(world: World, folder: Path, **config: Any) -> AsyncIterator[MortalWorld]:
    """Serves the three peers and the router before them."""
    peers = {name: Mortal(name, app) for name, app in peer_apps(world, Seen()).items()}
    telemetry = Telemetry("router")
    async with AsyncExitStack() as running:
        for peer in peers.values():
            running.push_async_callback(peer.die)
            await peer.rise()
        targets = {name: peer.address for name, peer in peers.items()}
        address = await running.enter_async_context(routing(targets, folder, telemetry=telemetry, **config))
        yield MortalWorld(world, peers, address, telemetry)
