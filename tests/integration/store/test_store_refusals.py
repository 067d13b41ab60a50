"""Who is not let in by a Milvus server, or lets in none, is told why: real retrievers that do not start.

Each in a process of its own, as pymilvus and gRPC share connections within one.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.fakes.milvus_server import Credentials, Running

REFUSALS: dict[str, tuple[dict[str, str | None], str]] = {
    "wrong authority": ({"CA_FILE": "other-ca.pem"}, "not signed by"),
    "unknown authority": (
        {"CA_FILE": None, "CERT_FILE": None, "KEY_FILE": None},
        "not signed by an authority that this machine trusts: set RETRIEVER_MILVUS_CA_FILE",
    ),
    "another name": ({"SERVER_NAME": "other.example"}, "set RETRIEVER_MILVUS_SERVER_NAME"),
    "no client certificate": ({"CERT_FILE": None, "KEY_FILE": None}, "RETRIEVER_MILVUS_CERT_FILE"),
    "wrong password": ({"TOKEN_FILE": None, "TOKEN": "root:wrong"}, "does not accept the user and password"),
    "no password": ({"TOKEN_FILE": None}, "asks for user and password"),
    "no TLS": (
        {"URI": "http://", "CA_FILE": None, "CERT_FILE": None, "KEY_FILE": None, "SERVER_NAME": None},
        "if it speaks TLS, RETRIEVER_MILVUS_URI must begin https://",
    ),
}


async def start(settings: dict[str, object], change: dict[str, str | None], folder: Path) -> tuple[int | None, str]:
    """Starts a retriever with changed settings; returns its exit status and what it said."""
    env = {f"RETRIEVER_{name.upper()}": str(value) for name, value in settings.items()}
    for name, value in change.items():
        variable = f"RETRIEVER_MILVUS_{name}"
        plain = env.pop(variable, "")
        if value is not None:
            env[variable] = {"URI": plain.replace("https://", "http://"), "CA_FILE": str(folder / value)}.get(
                name, value
            )
    env |= {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
        "RETRIEVER_LISTEN": "127.0.0.1:0",
        "RETRIEVER_METRICS_LISTEN": "127.0.0.1:0",
        "RETRIEVER_SPOOL_DIR": str(folder / "spool"),
        "RETRIEVER_LOG_FORMAT": "text",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.retriever", env=env,
        stderr=asyncio.subprocess.STDOUT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_ends_the_start_and_says_what_to_do(
    case: str, secure_server: Running, credentials: Credentials
) -> None:
    change, message = REFUSALS[case]
    status, said = await start(credentials.settings(secure_server.address), change, credentials.folder)
    assert status == 1
    (line,) = [line for line in said.splitlines() if "cannot start" in line]
    assert message in line
    assert "Traceback" not in said
    assert "root:" not in said
