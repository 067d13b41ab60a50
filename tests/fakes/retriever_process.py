"""A real retriever process, to be killed without warning."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tandem.rpc.channel import connect
from tandem.security import Principal, issue
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc
from tests.fakes.retriever import DIMENSION

ERIN = Principal("erin", "halden", frozenset(), frozenset({"user", "editor", "platform"}))


class House:
    """Is a retriever process on a folder, begun again as often as a test likes; ERIN calls it."""

    def __init__(self, folder: Path, embedder: str, **settings: str) -> None:
        text, tokens = issue({"erin": ERIN})
        (folder / "tokens.json").write_text(text)
        self.token = tokens["erin"]
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path.cwd()),
            "RETRIEVER_LISTEN": "127.0.0.1:0",
            "RETRIEVER_METRICS_LISTEN": "127.0.0.1:0",
            "RETRIEVER_TOKEN_FILE": str(folder / "tokens.json"),
            "RETRIEVER_MILVUS_URI": str(folder / "milvus.db"),
            "RETRIEVER_EMBEDDER_TARGET": embedder,
            "RETRIEVER_DIMENSION": str(DIMENSION),
            "RETRIEVER_LOG_FORMAT": "text",
            **settings,
        }
        self.log = b""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[tuple[psutil.Process, pb_grpc.RetrieverServiceStub]]:
        """Runs it until the block ends; yields the process and a stub."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.retriever", env=self.env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        reader = None
        try:
            address = ""
            async for line in process.stderr:
                self.log += line
                if b" ready" in line:
                    address = line.decode().split("address=")[1].split()[0]
                    break
            assert address, self.log.decode()
            reader = asyncio.create_task(process.stderr.read())
            async with connect(address, token=self.token, default_timeout_s=60) as channel:
                yield psutil.Process(process.pid), pb_grpc.RetrieverServiceStub(channel)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            if reader is not None:
                self.log += await reader


def engine_of(process: psutil.Process) -> psutil.Process:
    """Returns the process of Milvus Lite."""
    return next(child for child in process.children(recursive=True) if child.cmdline()[0].endswith("/milvus"))


def is_alive(process: psutil.Process) -> bool:
    """Tells whether a process still does anything: what an init has yet to reap does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_tree(process: psutil.Process, *, engine_too: bool) -> list[psutil.Process]:
    """Kills the service and its children at once; returns those that were left to themselves."""
    children = process.children(recursive=True)
    process.send_signal(signal.SIGSTOP)  # nothing can react to the death of the others
    for child in children:
        if engine_too or not child.cmdline()[0].endswith("/milvus"):
            child.kill()
    process.kill()
    return [] if engine_too else [child for child in children if child.is_running()]
