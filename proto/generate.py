"""Generates the stubs in tandem/v1 from the contracts, lints them, and checks them for breaking changes.

    python proto/generate.py            write the stubs (and the image, when there is none)
    python proto/generate.py --check    fail on stale stubs, lint, or a change that breaks a client

The image (proto/released.binpb) is the contract as last released; `--release` replaces it.
"""

import argparse
import difflib
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import google.rpc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "tandem" / "v1"
IMAGE = PROTO / "released.binpb"
HEADER = '"""Generated from proto/tandem/v1 by `make proto`. Do not edit."""\n'


def googleapis() -> Path:
    """Returns the folder that holds google/rpc/*.proto, from the googleapis-common-protos package."""
    return Path(next(iter(google.rpc.__path__))).parent.parent


def generate(target: Path) -> None:
    """Writes the stubs of every contract under target/tandem/v1."""
    well_known = resources.files("grpc_tools") / "_proto"
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{well_known}", f"-I{googleapis()}",
        f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}", f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}", *files,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    (target / "tandem" / "v1" / "__init__.py").write_text(HEADER)


def buf(arguments: list[str], workspace: Path) -> bool:
    """Runs buf in workspace and tells whether it was content."""
    tool = Path(sys.executable).parent / "buf"
    return subprocess.run([str(tool), *arguments], cwd=workspace, check=False).returncode == 0


def make_workspace(folder: Path) -> Path:
    """Lays out a buf workspace: our contracts, and beside them the google/rpc files they import."""
    shutil.copytree(PROTO, folder / "proto")
    imported = folder / "googleapis" / "google" / "rpc"
    imported.mkdir(parents=True)
    shutil.copy(googleapis() / "google" / "rpc" / "status.proto", imported)
    config = (ROOT / "buf.yaml").read_text()
    (folder / "buf.yaml").write_text(config.replace("  - path: proto\n", "  - path: proto\n  - path: googleapis\n"))
    return folder


def stale(fresh: Path) -> list[str]:
    """Returns a line of difference for each stub that the committed tree lacks, has too many, or has otherwise."""
    faults = []
    ours = {path.name for path in STUBS.iterdir() if path.is_file()}
    theirs = {path.name for path in fresh.iterdir() if path.is_file()}
    faults += [f"tandem/v1/{name}: present on one side only" for name in sorted(ours ^ theirs)]
    for name in sorted(ours & theirs):
        before, after = (STUBS / name).read_text(), (fresh / name).read_text()
        if before != after:
            diff = difflib.unified_diff(before.splitlines(), after.splitlines(), f"committed {name}", f"fresh {name}")
            faults.append("\n".join(list(diff)[:20]))
    return faults


def check(workspace: Path, fresh: Path) -> bool:
    """Tells whether lint, stubs and compatibility are all in order, printing what is not."""
    linted = buf(["lint", "proto"], workspace)
    compatible = buf(["breaking", "proto", "--against", str(IMAGE)], workspace)
    faults = stale(fresh)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print("stubs are stale: run `make proto` and commit the result", file=sys.stderr)
    return linted and compatible and not faults


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on any difference")
    parser.add_argument("--release", action="store_true", help="replace the image that changes are held against")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "stubs")
        target.mkdir()
        generate(target)
        workspace = make_workspace(Path(scratch, "workspace"))
        if options.check:
            return 0 if check(workspace, target / "tandem" / "v1") else 1
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(target / "tandem" / "v1", STUBS)
        if options.release or not IMAGE.exists():
            return 0 if buf(["build", "proto", "-o", str(IMAGE)], workspace) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
