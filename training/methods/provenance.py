"""Says what a run was made with: code, libraries and machine."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")


def now() -> str:
    """Returns the time as RFC 3339 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def code_version() -> str:
    """Returns the package's version, with the commit where it runs from a checkout: "0.1.0+g1a2b3c4d5e6f.dirty"."""
    version = importlib.metadata.version("tandem")
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    dirty = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{version}+g{commit}{'.dirty' if dirty else ''}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide what comes out."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def hardware(device: str) -> dict[str, Any]:
    """Returns what the machine is, as far as it bears on speed and on the last bits of a result."""
    found: dict[str, Any] = {"machine": platform.machine(), "processor": _processor(), "cpus": os.cpu_count()}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
