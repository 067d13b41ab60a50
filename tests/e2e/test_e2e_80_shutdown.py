"""Ctrl-C leaves nothing behind: no process, no port, no lock."""

import fcntl
import socket
from pathlib import Path

import pytest

from tandem.stack import Home
from tandem.supervisor import exclusive
from tests.e2e.stack import Stack


def test_ctrl_c_leaves_nothing_behind(stack: Stack) -> None:
    family = stack.family()
    assert len(family) >= 5
    assert stack.stop() == 0, stack.output
    assert "all services have stopped" in stack.output
    assert stack.family() == {}
    assert not [pid for pid in family if Path("/proc", str(pid)).exists()]
    for address in [*stack.address.values(), *stack.metrics.values()]:
        host, _, port = address.rpartition(":")
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect((host, int(port)))
    with exclusive(stack.home):
        pass
    for lock in (stack.home / "data").glob("*.lock"):
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not Home(stack.home).endpoints.exists()
    for name in ("embedder", "retriever", "generator", "router"):
        assert '"message": "stopped"' in stack.logs(name).splitlines()[-1]
    assert '"level": "error"' not in stack.logs().rpartition('"message": "draining"')[2]
