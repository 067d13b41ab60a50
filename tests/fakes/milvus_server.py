"""Runs real Milvus servers for tests, each in a process and a network namespace of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority

PEER = Path(__file__).parents[1] / "peers" / "milvus_server.py"
PYTHON = Path(sys.prefix) / "milvus-server" / "bin" / "python"
SERVER_NAME = "milvus.example"
ROOT = "root:Milvus"


@dataclass(frozen=True)
class Running:
    """Is a server and what its clients need."""

    address: str
    log: Path


@dataclass(frozen=True)
class Credentials:
    """Names the files that let a client in, and some that do not."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> "Credentials":
        """Makes a server's and a client's certificate of one authority, another authority, and the password."""
        authority = Authority.make("tandem tests")
        authority.write(folder / "ca.pem")
        authority.issue("server", folder, names=(SERVER_NAME,))
        authority.issue("client", folder)
        Authority.make("tandem tests").write(folder / "other-ca.pem")
        (folder / "token").write_text(f"{ROOT}\n")
        return cls(folder)

    def settings(self, address: str) -> dict[str, object]:
        """Returns the fields of a RetrieverConfig that is let in."""
        return {
            "milvus_uri": f"https://{address}",
            "milvus_ca_file": self.folder / "ca.pem",
            "milvus_cert_file": self.folder / "client.pem",
            "milvus_key_file": self.folder / "client.key",
            "milvus_server_name": SERVER_NAME,
            "milvus_token_file": self.folder / "token",
        }


@contextmanager
def milvus_server(folder: Path, *options: str, port: int = 0) -> Iterator[Running]:
    """Serves the folder's data until the block ends, and then dies at once; skips the test where it cannot."""
    if not PYTHON.exists():
        pytest.skip("the Milvus server is not installed: make .venv/milvus-server")
    command = [PYTHON, PEER, folder, "--port", str(port), *options]
    with (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            process.wait()
            said: list[str] = (folder / "peer.log").read_text().strip().splitlines() or [
                f"it ended with {process.returncode}"
            ]
            pytest.skip(f"the Milvus server does not run here: {said[-1]}")
        yield Running(address, folder / "logs" / "stdout.log")
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()
