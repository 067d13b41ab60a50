"""A whole Tandem on this machine: `tandem up` as a real process, and what tests need to know of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.rpc.channel import connect, connect_sync
from tandem.security import Principal, issue, write_secret

ROOT = Path(__file__).resolve().parents[2]
COMPANY = ROOT / "examples" / "company"
HEALTH = {name: f"tandem.v1.{name.capitalize()}Service" for name in ("embedder", "retriever", "generator", "router")}
# Principals of the tests' own: members of the sample's other groups, and tenants that no other test looks at.
EXTRA = {
    "underwriter": Principal("underwriter", "halden", frozenset({"underwriting"}), frozenset({"user"})),
    "lawyer": Principal("lawyer", "halden", frozenset({"legal"}), frozenset({"user"})),
    "loader": Principal("loader", "library", roles=frozenset({"user", "editor", "auditor", "platform"})),
    "fuzzer": Principal("fuzzer", "noise", roles=frozenset({"user", "editor", "auditor", "operator", "platform"})),
    "nobody": Principal("nobody", "noise"),
}
_OURS = ("TANDEM_", "EMBEDDER_", "RETRIEVER_", "GENERATOR_", "ROUTER_", "OTEL_")


class Stack:
    """Is a running stack. All waiting has an end; what went wrong is in the message."""

    def __init__(self, home: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "tandem"), "up", "--port", "0", "--home", str(home), *arguments],
            cwd=ROOT,
            env=environment() | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._scraped: dict[str, list[str]] = defaultdict(list)
        self._output: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.address: dict[str, str] = {}
        self.metrics: dict[str, str] = {}
        self.tokens: dict[str, str] = {}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._output.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        """What `tandem up` has printed."""
        with self._news:
            return "".join(self._output)

    def wait_serving(self, *, timeout_s: float = 400) -> None:
        """Waits until everything is up and the demo is over."""
        with self._news:
            self._news.wait_for(lambda: self._ended or any("is serving" in row for row in self._output), timeout_s)
        assert "is serving" in self.output, f"tandem up did not get there:\n{self.output}\n{self.logs()}"
        rows = json.loads((self.home / "endpoints.json").read_text())
        self.address = {name: row["grpc"] for name, row in rows.items()}
        self.metrics = {name: row["metrics"] for name, row in rows.items()}
        self.tokens = json.loads((self.home / "credentials.json").read_text())

    def admit(self, principals: dict[str, Principal]) -> None:
        """Adds principals to the token file; the running services take note by themselves."""
        text, tokens = issue(principals)
        rows = json.loads((self.home / "tokens.json").read_text())["tokens"] + json.loads(text)["tokens"]
        write_secret(self.home / "tokens.json", json.dumps({"tokens": rows}))
        self.tokens |= tokens

    def channel(self, service: str, principal: str | None, **more: object) -> grpc.aio.Channel:
        """Opens a channel as a principal; None presents no token."""
        token = None if principal is None else self.tokens[principal]
        return connect(self.address[service], token=token, **more)

    def blocking_channel(self, service: str, principal: str | None, **more: object) -> grpc.Channel:
        """Opens a blocking channel as a principal; None presents no token."""
        token = None if principal is None else self.tokens[principal]
        return connect_sync(self.address[service], token=token, **more)

    def pids(self) -> dict[str, int]:
        """The process of each service that is alive."""
        found = {}
        for pid, command, parent in processes():
            match = re.search(r"-m\0services\.(\w+)\0", command)
            if match and parent == self.process.pid:
                found[match[1]] = pid
        return found

    def store_pid(self) -> int:
        """The process of Milvus Lite, the retriever's child."""
        return next(pid for pid, command in self.family().items() if "milvus_lite/lib/milvus" in command)

    def family(self) -> dict[int, str]:
        """Every process that belongs to this stack: descendants, and any that names its folder."""
        everyone = list(processes())
        known = {self.process.pid}
        for _ in everyone:
            known |= {pid for pid, _, parent in everyone if parent in known}
        return {
            pid: command.replace("\0", " ")
            for pid, command, _ in everyone
            if pid != os.getpid() and (pid in known or str(self.home) in command)
        }

    def kill(self, service: str) -> int:
        """Sends SIGKILL to a service, or to the "store" of the retriever; returns the process id that it had."""
        self.scrape("retriever" if service == "store" else service)
        pid = self.store_pid() if service == "store" else self.pids()[service]
        os.kill(pid, signal.SIGKILL)
        return pid

    async def wait_ready(self, service: str, *, timeout_s: float = 120) -> None:
        """Waits until a service answers that it is ready."""
        end = time.monotonic() + timeout_s
        request = health_pb2.HealthCheckRequest(service=HEALTH[service])
        async with grpc.aio.insecure_channel(self.address[service]) as channel:
            while time.monotonic() < end:
                watch = health_pb2_grpc.HealthStub(channel).Watch(
                    request, wait_for_ready=True, timeout=max(0.1, end - time.monotonic())
                )
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for answer in watch:
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
        raise AssertionError(f"{service} did not come back:\n{self.logs(service)[-3000:]}")

    def scrape(self, service: str) -> str:
        """Returns a service's /metrics, and remembers it: counters begin anew in a process that replaces another."""
        with urllib.request.urlopen(f"http://{self.metrics[service]}/metrics", timeout=20) as reply:
            text: str = reply.read().decode()
        self._scraped[service].append(text)
        return text

    def scraped(self, service: str) -> list[str]:
        """Returns what was ever scraped of a service, the present state last."""
        self.scrape(service)
        return self._scraped[service]

    def logs(self, service: str | None = None) -> str:
        """Returns the log of one service, or of all."""
        folder = self.home / "logs"
        names = [f"{service}.log"] if service else sorted(os.listdir(folder)) if folder.exists() else []
        return "".join((folder / name).read_text(errors="replace") for name in names)

    def stop(self, *, timeout_s: float = 90) -> int:
        """Sends SIGINT and returns the exit status; a second call does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                for pid in self.family():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.returncode


def environment() -> dict[str, str]:
    """This process's environment without settings of Tandem's own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return inherited | {"COLUMNS": "200"}


def processes() -> Iterator[tuple[int, str, int]]:
    """Yields id, NUL-separated command line and parent of every process that is not a zombie."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            command = Path("/proc", entry, "cmdline").read_text(errors="replace")
            state, parent = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            yield int(entry), command, int(parent)
