"""A whole service process around the scripted peer, for tests of tandem.rpc.server.run.

`ECHO_LOAD_SECONDS` is how long it takes to load; a text of the form "sleep 0.5" takes that long to embed, and the text
"fail" makes the app say that it can serve no longer.
"""

import asyncio
import sys
from dataclasses import dataclass

from tandem.config import ServerConfig, setting
from tandem.errors import ConfigError
from tandem.rpc.server import App, run
from tandem.telemetry import Telemetry
from tandem.v1 import embedder_service_pb2 as embedder
from tests.fakes.rpc_peer import Script
from tests.fakes.rpc_peer import app as scripted


@dataclass(frozen=True, kw_only=True)
class EchoConfig(ServerConfig):
    """Holds the knobs of the echo."""

    load_seconds: float = setting(0.0, help="How long the start takes.", unit="s", minimum=0)
    fail_start: str = setting("", help="Why the start fails; empty means that it does not.")
    crash_start: str = setting("", help="What the start dies of; empty means of nothing.")


async def build(config: EchoConfig, telemetry: Telemetry) -> App:
    """Wires the app."""

    async def start() -> None:
        await asyncio.sleep(config.load_seconds)
        if config.fail_start:
            raise ConfigError(config.fail_start)
        if config.crash_start:
            raise RuntimeError(config.crash_start)

    async def stop() -> None:
        print("let go", file=sys.stderr, flush=True)

    async def embed(request: embedder.EmbedRequest) -> embedder.EmbedResponse:
        word, _, seconds = request.texts[0].partition(" ")
        await asyncio.sleep(float(seconds) if word == "sleep" else 0)
        if word == "fail":
            app.failed.set()
        return embedder.EmbedResponse()

    app = scripted(Script(embed=embed), start=start, stop=stop)
    return app


if __name__ == "__main__":
    sys.exit(run("echo", EchoConfig, build))
