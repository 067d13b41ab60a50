"""Runs OpenVINO GenAI's continuous batching on a GGUF file of the same weights."""

import argparse
import asyncio
import importlib
import threading
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.peers.protocol import Piece, Prompt, private_output, serve

# By name, because only the peer's environment has them.
numpy: Any = importlib.import_module("numpy")
openvino: Any = importlib.import_module("openvino")
genai: Any = importlib.import_module("openvino_genai")


class Pipeline:
    """Steps the pipeline in a thread of its own while there is anything to do."""

    def __init__(self, model: str, *, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1  # GiB
        scheduler.max_num_seqs = 32
        scheduler.max_num_batched_tokens = 512
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
        self._pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", options)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._running: dict[int, tuple[Any, asyncio.AbstractEventLoop, asyncio.Queue[list[int] | None]]] = {}
        self._next = 0
        threading.Thread(target=self._run, daemon=True).start()

    async def submit(self, prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        """Yields the output of one prompt."""
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        news: asyncio.Queue[list[int] | None] = asyncio.Queue()
        with self._lock:
            self._next += 1
            ids = openvino.Tensor(numpy.array([prompt.ids], dtype=numpy.int64))
            handle = self._pipeline.add_request(self._next, ids, config)
            self._running[self._next] = (handle, asyncio.get_running_loop(), news)
        self._wake.set()
        tokens: list[int] = []
        while (new := await news.get()) is not None:
            tokens += new
            yield Piece(len(new))
        yield Piece(0, self._tokenizer.decode(tokens), late=True)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            with self._lock:
                self._wake.clear()
                if self._pipeline.has_non_finished_requests():
                    self._wake.set()
                    self._pipeline.step()
                self._deliver()

    def _deliver(self) -> None:
        for key, (handle, loop, news) in list(self._running.items()):
            while handle.can_read():
                for output in handle.read().values():
                    loop.call_soon_threadsafe(news.put_nowait, list(output.generated_ids))
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del self._running[key]
                loop.call_soon_threadsafe(news.put_nowait, None)


async def _main() -> None:
    output = private_output()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    pipeline = Pipeline(options.model, threads=options.threads)
    await serve(output, pipeline.submit, {"version": f"openvino-genai {genai.__version__}"})


if __name__ == "__main__":
    asyncio.run(_main())
