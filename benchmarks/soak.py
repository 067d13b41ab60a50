"""Random load against a real generator for half an hour: `make soak`, see README.md. Exits with 1 on any fault.

Every minute the callers pause, and what the server holds is looked at: nothing may be running, waiting, held in the
cache by a sequence, or kept of an adapter that was replaced.
"""

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.prompts import COMPANY
from benchmarks.server import Server, copy_adapter, generator
from benchmarks.soak_calls import Calls, Ended
from benchmarks.stats import slope
from tandem.errors import Overloaded, TandemError
from tandem.security import Principal

TENANTS = ("ash", "birch", "cedar")
NAMES = ("a", "b", "c")
ADAPTER = COMPANY / "adapters" / "halden" / "reading"
# Small on purpose: sequences must give way to one another, and the queue must fill up.
SETTINGS = {
    "BACKEND": "torch", "MAX_RUNNING": "8", "MAX_WAITING": "12", "KV_CACHE_TOKENS": "1024", "MAX_ADAPTERS": "16",
    "MAX_PREFILL_TOKENS": "256",
}  # fmt: skip
_CALLERS, _MAX_CALL_S, _SETTLE_S = 14, 240.0, 20.0
_MIN_SAMPLES = 10  # minutes before which memory is reported and not judged: the allocator still warms up
_CALM = {  # what must be 0 when nobody calls
    "running": "tandem_generator_running_sequences",
    "waiting": "tandem_generator_waiting_sequences",
    "used blocks": 'tandem_generator_kv_blocks{state="used"}',
    "retired adapters": "tandem_generator_retired_adapters",
}


@dataclass
class Record:
    """Is what has happened so far."""

    begun: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # minutes, MiB
    metrics: dict[str, float] = field(default_factory=dict)


class Soak:
    """Owns the callers and the pauses."""

    def __init__(self, server: Server, adapters: Path, *, seed: int) -> None:
        self._server, self._adapters = server, adapters
        self._random = random.Random(seed)  # noqa: S311
        self._calls = Calls(_text(), self._random, NAMES)
        self._users = {tenant: server.client(f"{tenant}-user", timeout_s=120) for tenant in TENANTS}
        self._operators = {tenant: server.client(f"{tenant}-operator", timeout_s=60) for tenant in TENANTS}
        self._open = asyncio.Event()
        self._inside, self._empty = 0, asyncio.Condition()
        self._pid, self._begin = server.pid, time.monotonic()
        self.record = Record()

    async def run(self, minutes: float) -> None:
        """Calls for so long, pausing every minute; returns early on a fault."""
        self._open.set()
        workers = [self._caller() for _ in range(_CALLERS)] + [self._operator()]
        tasks = [asyncio.create_task(worker) for worker in workers]
        try:
            while not self.record.faults and (left := 60 * minutes - self._elapsed()) > 0:
                done, _ = await asyncio.wait(tasks, timeout=min(60, left), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a worker never ends by itself: raises why
                await self._pause()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in (*self._users.values(), *self._operators.values()):
                await client.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._begin

    async def _caller(self) -> None:
        while True:
            await self._open.wait()
            tenant = self._random.choice(TENANTS)
            name, call, leaves_after = self._calls.draw()
            self.record.begun += 1
            self._inside += 1
            try:
                outcome = await _bounded(call(self._users[tenant]), leaves_after)
            finally:
                self._inside -= 1
                async with self._empty:
                    self._empty.notify_all()
            self.record.ended[f"{name}: {outcome.name}"] += 1
            if outcome.fault:
                self.record.faults.append(f"{name} on {tenant}: {outcome.fault}")
            await asyncio.sleep(outcome.wait_s)

    async def _operator(self) -> None:
        """Loads, replaces and unloads adapters."""
        number = 10
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 4))
            await self._open.wait()
            tenant, name = self._random.choice(TENANTS), self._random.choice(NAMES)
            number += 1
            try:
                if self._random.random() < 0.15:
                    await self._operators[tenant].unload_adapter(name)
                    self.record.ended["unload: done"] += 1
                else:
                    await asyncio.to_thread(copy_adapter, ADAPTER, self._adapters / tenant / name, number=number)
                    await self._operators[tenant].load_adapter(name)
                    self.record.ended["load: done"] += 1
            except TandemError as error:
                self.record.ended[f"operator: {error.code}"] += 1
                if not isinstance(error, Overloaded) and error.code != "NOT_FOUND":
                    self.record.faults.append(f"operator: {error.code} {error.message}")

    async def _pause(self) -> None:
        """Stops the callers, waits for the last to return, and looks at what is left."""
        self._open.clear()
        async with self._empty:
            await asyncio.wait_for(self._empty.wait_for(lambda: self._inside == 0), _MAX_CALL_S + 30)
        record, end = self.record, time.monotonic() + _SETTLE_S
        while left := self._left_over(await asyncio.to_thread(_scrape, self._server.metrics)):
            if time.monotonic() > end:
                record.faults.append(f"{_SETTLE_S:.0f} s after the last call: {left}")
                break
            await asyncio.sleep(0.2)  # the figures follow within a step; nothing tells when
        if self._server.pid != self._pid:
            record.faults.append("the server died and was started again")
        calls = sum(
            count for name, count in record.ended.items() if not name.startswith(("load", "unload", "operator"))
        )
        if record.begun != calls:
            record.faults.append(f"{record.begun} calls begun, {calls} ended")
        memory = _resident_mib(self._server.pid)
        record.memory.append((self._elapsed() / 60, memory))
        preempted = record.metrics.get("tandem_generator_preemptions_total", 0)
        print(f"minute {self._elapsed() / 60:5.1f}: {calls} calls, {preempted:.0f} preemptions, {memory:.0f} MiB, "
              f"{len(record.faults)} faults", flush=True)  # fmt: skip
        self._open.set()

    def _left_over(self, metrics: dict[str, float]) -> dict[str, float]:
        self.record.metrics = metrics
        missing = {what: -1.0 for what, name in _CALM.items() if name not in metrics}
        return missing | {what: metrics[name] for what, name in _CALM.items() if metrics.get(name, 0) != 0}


async def _bounded(call: Any, leaves_after: float | None) -> Ended:
    """Awaits a call, leaves it when it is time, and tells how it ended; a call that hangs is a fault."""
    task: asyncio.Task[Ended] = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=_MAX_CALL_S if leaves_after is None else leaves_after)
        if done:
            return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
    if leaves_after is None:
        return Ended("hung", fault=f"no end within {_MAX_CALL_S:.0f} s, in spite of its deadline")
    return Ended("left by its caller")


def _text() -> str:
    return "\n".join(file.read_text() for file in sorted(COMPANY.glob("sources/**/*.md")))


def _scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address, timeout=20) as reply:  # noqa: S310
        text: str = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(tandem_generator_\S+) (\S+)$", text, re.MULTILINE)}


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def growth(memory: list[tuple[float, float]]) -> tuple[float, float]:
    """Returns growth (late third less early third, MiB) and slope (MiB a minute), the first fifth left out."""
    steady = memory[len(memory) // 5 :]
    third = max(1, len(steady) // 3)
    late, early = median(m for _, m in steady[-third:]), median(m for _, m in steady[:third])
    return late - early, slope(steady)


def _judge(record: Record, max_growth: float) -> dict[str, Any]:
    grown, per_minute = growth(record.memory)
    if len(record.memory) >= _MIN_SAMPLES:
        if grown > max_growth:
            record.faults.append(f"memory grew by {grown:.0f} MiB, more than {max_growth:.0f}")
        if not record.metrics.get("tandem_generator_preemptions_total"):
            record.faults.append("no sequence ever gave way: the soak did not press on the cache")
    if failed := record.metrics.get('tandem_generator_sequences_total{reason="failed"}'):
        record.faults.append(f"{failed:.0f} sequences failed inside the server")
    return {
        "calls": record.begun,
        "ended": dict(sorted(record.ended.items())),
        "memory_growth_mib": round(grown, 1),
        "memory_slope_mib_per_minute": round(per_minute, 2),
        "memory_mib": [[round(at, 2), round(mib, 1)] for at, mib in record.memory],
        "metrics": {name: value for name, value in record.metrics.items() if "_bucket" not in name},
        "faults": record.faults,
    }


def _page(found: dict[str, Any], minutes: float) -> str:
    rows = "\n".join(f"| {name} | {count} |" for name, count in found["ended"].items())
    preempted = found["metrics"].get("tandem_generator_preemptions_total", 0)
    return (
        f"# Soak: {minutes:g} minutes of random load\n\n{found['calls']} calls, {preempted:.0f} preemptions, memory "
        f"{found['memory_growth_mib']:+.1f} MiB ({found['memory_slope_mib_per_minute']:+.2f} MiB a minute), faults: "
        f"{len(found['faults'])}.\n\n" + "".join(f"- FAULT: {fault}\n" for fault in found["faults"]) +
        f"\n| how it ended | calls |\n|---|---|\n{rows}\n"
    )  # fmt: skip


async def _main(options: argparse.Namespace) -> int:
    about = report.conditions()
    with tempfile.TemporaryDirectory(prefix="tandem-soak-") as folder:
        home = Path(folder)
        for number, place in enumerate(f"{tenant}/{name}" for tenant in TENANTS for name in NAMES):
            copy_adapter(ADAPTER, home / "adapters" / place, number=number)
        settings = SETTINGS | {"ADAPTER_DIR": str(home / "adapters"), "PRECISION": options.precision}
        async with generator(home, settings, _principals()) as server:
            soak = Soak(server, home / "adapters", seed=options.seed)
            try:
                await soak.run(options.minutes)
            finally:
                log = (home / "logs" / "generator.log").read_text(errors="replace")
        soak.record.faults += _alarms(log)
    found = _judge(soak.record, options.max_growth)
    page = _page(found, options.minutes)
    print("\n" + page)
    about |= {"seed": options.seed, "minutes": options.minutes, "settings": settings | {"ADAPTER_DIR": "..."}}
    print(report.write("soak", about, page, found, folder=options.output))
    return 1 if found["faults"] else 0


def _alarms(log: str) -> list[str]:
    errors = [line for line in log.splitlines() if '"level": "ERROR"' in line or "Traceback" in line]
    return [f"the server's log: {line[:300]}" for line in errors[:10]]


def _principals() -> dict[str, Principal]:
    def made(tenant: str, role: str) -> Principal:
        return Principal(role, tenant, roles=frozenset({role}))

    return {f"{tenant}-{role}": made(tenant, role) for tenant in TENANTS for role in ("user", "operator")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--max-growth", type=float, default=128, help="MiB that memory may grow after the warm-up")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(_options())))
