"""The supervisor with a real service: what it starts is restarted, and dies with it however it ends."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import psutil
import pytest

from tandem.stack import Home, prepare, specs
from tandem.supervisor import Supervisor, command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a service outlives a killed supervisor")
# A supervisor of a router alone, in the folder that it is told.
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from tandem.stack import Home, prepare, specs
from tandem.supervisor import Supervisor

async def main(home):
    prepare(home, {})
    async with Supervisor([specs(home, port=0)[-1]], home=home.path).running() as supervisor:
        await supervisor.wait_ready(timeout_s=60)
        print(supervisor.pids()["router"], flush=True)
        await supervisor.wait_failure()

asyncio.run(main(Home(Path(sys.argv[1]))))
"""


async def test_a_service_dies_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISOR, str(tmp_path), stdout=PIPE)
    try:
        assert supervisor.stdout is not None
        async with asyncio.timeout(60):
            router = psutil.Process(int(await supervisor.stdout.readline()))
        assert router.cmdline()[1:] == ["-m", "services.router"]
        assert os.getsid(router.pid) == router.pid
    finally:
        supervisor.kill()
        await supervisor.communicate()
    assert await asyncio.to_thread(router.wait, 20) is None


async def test_a_service_that_is_killed_is_started_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare(home, {})
    async with asyncio.timeout(120), Supervisor([specs(home, port=0)[-1]], home=home.path).running() as supervisor:
        await supervisor.wait_ready(timeout_s=60)
        before = supervisor.pids()["router"]
        psutil.Process(before).kill()
        # The supervisor tells nobody of a restart.
        while supervisor.pids()["router"] == before or supervisor.states()["router"] != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert supervisor.states() == {"router": "stopped"}


def test_a_service_whose_supervisor_is_gone_already_never_begins() -> None:
    argv = command("this")  # a module of the standard library, which prints
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    assert "Zen of Python" in told.stdout
    place = argv.index(str(os.getpid()))
    late = subprocess.run([*argv[:place], "1", *argv[place + 1 :]], capture_output=True, check=True, timeout=20)
    assert late.stdout == b""
