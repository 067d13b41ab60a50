"""`tandem up --json` for programs: every line is an event."""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.stack import ROOT


def test_up_tells_its_events_as_json_lines(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "tandem"),
        "up",
        "--once",
        "--json",
        "--port",
        "0",
        "--home",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ready", "stopped"]
    assert set(events[0]["endpoints"]) == {"embedder", "retriever", "generator", "router"}


def test_up_tells_its_failure_as_json(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "tandem"), "up", "--json", "--port", "0", "--home", str(tmp_path)]
    command += ["--sample", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "CONFIG"
