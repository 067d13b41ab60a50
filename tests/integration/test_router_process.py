"""The router as a process: settings, the chain's lock, the exit, and what is not loaded."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

HEAVY = ("torch", "transformers", "pymilvus", "sklearn", "scipy")


def environment(folder: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    return kept | {
        "ROUTER_LISTEN": "127.0.0.1:0",
        "ROUTER_METRICS_LISTEN": "127.0.0.1:0",
        "ROUTER_AUDIT_URL": f"sqlite:///{folder}/audit.db",
        **extra,
    }


@asynccontextmanager
async def process(folder: Path, **extra: str) -> AsyncIterator[Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.router", stderr=PIPE, env=environment(folder, **extra)
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def until(running: Process, message: str) -> None:
    assert running.stderr is not None
    async with asyncio.timeout(60):
        while line := await running.stderr.readline():
            if f'"message": "{message}"' in line.decode():
                return
    raise AssertionError(f"the router ended before it said {message}")


async def test_one_process_for_a_chain_and_a_clean_exit(tmp_path: Path):
    async with process(tmp_path) as first:
        await until(first, "ready")
        async with process(tmp_path) as second:
            _, said = await second.communicate()
            assert second.returncode == 1
            assert b"ROUTER_WRITER" in said
        async with process(tmp_path, ROUTER_WRITER="router-2") as third:
            await until(third, "ready")
        first.send_signal(signal.SIGTERM)
        await first.wait()
        assert first.returncode == 0
    async with process(tmp_path) as again:
        await until(again, "ready")


async def test_a_misspelt_setting_stops_the_start(tmp_path: Path):
    async with process(tmp_path, ROUTER_CASCADE_TRESHOLD="0.5") as running:
        _, said = await running.communicate()
    assert running.returncode == 2
    assert b"ROUTER_CASCADE_THRESHOLD" in said


def test_no_heavy_library_is_loaded():
    check = f"import services.router.__main__, sys; print([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


async def test_a_folder_of_domains_that_is_none_stops_the_start(tmp_path: Path):
    async with process(tmp_path, ROUTER_DOMAINS_DIR=str(tmp_path / "gone")) as running:
        _, said = await running.communicate()
    assert running.returncode == 1
    assert b"ROUTER_DOMAINS_DIR" in said
