"""Runs the server of llama.cpp on one GGUF model until it is terminated; prints its address once it listens.

Run by the Python of .venv/llama-server (`make .venv/llama-server`), which has nothing but the wheel xllamacpp:
.venv/llama-server/bin/python tests/peers/llama_server.py MODEL.gguf [--port 8080] [--slots 4] [--context 4096]
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=4, help="sequences at a time")
    parser.add_argument("--context", type=int, default=4096, help="tokens of all slots together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--api-key", default="")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.context
    params.cpuparams.n_threads = args.threads
    params.warmup = False
    params.verbosity = 1
    if args.api_key:
        params.api_keys = [args.api_key]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
