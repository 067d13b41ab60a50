"""Runs a Milvus 2.3.5 server on a folder until its standard input closes; prints its address once it is healthy.

Milvus binds every interface and many fixed ports. So it runs in a network namespace of its own, where nothing else is
and from where nothing else can be reached. Its address is a port on this machine's loopback, opened before the
namespace was entered, from which each connection is handed on to the server as it is: TLS ends at the server.

Run by the Python of .venv/milvus-server (`make .venv/milvus-server`), which has nothing but the wheel milvus:
.venv/milvus-server/bin/python tests/peers/milvus_server.py FOLDER [--tls FOLDER] [--users]
"""

import argparse
import asyncio
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import milvus

UNPACKED = Path(sys.prefix) / "unpacked"
PROXY_PORT, HEALTH = 19530, "http://127.0.0.1:9091/healthz"
START_S = 120
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP, _PR_SET_PDEATHSIG = 0x8913, 0x8914, 1, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where it keeps its data and logs")
    parser.add_argument("--tls", type=Path, help="folder with server.pem, server.key and ca.pem: clients need one too")
    parser.add_argument("--users", action="store_true", help="ask for user and password; the first is root:Milvus")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tick-ms", type=int, default=200, help="Milvus' own default is 200; Strong reads wait for it")
    parser.add_argument("--unpack", action="store_true", help="only unpack the server's files, once for all starts")
    parser.add_argument("--door", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.unpack:
        milvus._initialize_data_files(str(UNPACKED))
    elif args.door is None:
        enter_namespace(args.port)
    else:
        asyncio.run(serve(args, socket.socket(fileno=args.door)))


def enter_namespace(port: int) -> None:
    """Opens the door in this namespace and begins this program again in one of its own."""
    door = socket.create_server(("127.0.0.1", port))
    door.set_inheritable(True)
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--net", *rights, sys.executable, *sys.argv, "--door", str(door.fileno())]
    os.execvp(command[0], command)


async def serve(args: argparse.Namespace, door: socket.socket) -> None:
    raise_loopback()
    process = start(args)
    try:
        wait_until_healthy(process, args.folder)
        async with await asyncio.start_server(hand_on, sock=door):
            host, port = door.getsockname()
            print(f"{host}:{port}", flush=True)
            await asyncio.to_thread(sys.stdin.buffer.read)
    finally:
        process.kill()  # it would take its time, and its data are of no use to anybody
        process.wait()
    # Connections that are still open would hold up the end.
    os._exit(0)


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def start(args: argparse.Namespace) -> subprocess.Popen[bytes]:
    config = milvus.MilvusServerConfig(data_dir=str(args.folder))
    settings: dict[str, object] = {
        "etcd_log_level": "error",
        "log.level": "warn",
        # Collections load sooner, and a server that follows a killed one does not wait half a minute for it to go.
        "queryCoord.checkInterval": 100,
        "queryCoord.distPullInterval": 100,
        "common.session.ttl": 5,
        "proxy.timeTickInterval": args.tick_ms,
        "authorization_enabled": args.users,
    }
    if args.tls is not None:
        settings |= {
            "tls_mode": 2,
            "server_pem_path": str(args.tls / "server.pem"),
            "server_key_path": str(args.tls / "server.key"),
            "ca_pem_path": str(args.tls / "ca.pem"),
        }
    for name, value in settings.items():
        config.set(name, value)
    config.resolve()
    if not (UNPACKED / "bin" / "milvus").exists():
        milvus._initialize_data_files(str(UNPACKED))
    environment = {
        **os.environ,
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": "9091",
        "MILVUS_RUN_DIR": str(args.folder / "run"),
        "LD_LIBRARY_PATH": str(UNPACKED / "bin"),
    }
    with (args.folder / "logs" / "stdout.log").open("ab") as log:
        return subprocess.Popen(
            [UNPACKED / "bin" / "milvus", "run", "standalone"],
            cwd=args.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until_healthy(process: subprocess.Popen[bytes], folder: Path) -> None:
    # Told in JSON, it names its components: before they are there it calls itself healthy too.
    question = urllib.request.Request(HEALTH, headers={"Content-Type": "application/json"})
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(question, timeout=5) as answer:
                if any(component["name"] == "proxy" for component in json.load(answer)["detail"] or ()):
                    return
        except OSError:
            pass
        time.sleep(0.1)  # nothing tells when it is
    status = "is not healthy" if process.poll() is None else f"ended with {process.returncode}"
    sys.exit(f"Milvus {status}: see {folder / 'logs'}")


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", PROXY_PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    main()
