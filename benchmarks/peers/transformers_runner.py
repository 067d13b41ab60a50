"""Runs transformers: `sequential` (one after the other), `static` (padded batches), `continuous` (its own batching)."""

import argparse
import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.streamers import BaseStreamer

from benchmarks.peers.protocol import Piece, Prompt, private_output, serve

_GATHER_S = 0.02  # how long a static batch waits for company once one request is there


@dataclass
class _Request:
    ids: list[int]
    max_tokens: int
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece | None]" = field(default_factory=asyncio.Queue)

    def tell(self, piece: Piece | None) -> None:
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class _PerRow(BaseStreamer):  # type: ignore[misc]
    """Tells each request of a batch of its tokens; the first call brings the prompts."""

    def __init__(self, requests: list[_Request]) -> None:
        self._requests, self._prompt_seen = requests, False

    def put(self, value: Any) -> None:
        if self._prompt_seen:
            for request in self._requests:
                request.tell(Piece(1))
        self._prompt_seen = True

    def end(self) -> None:
        pass


class Batches:
    """Generates in a thread of its own; every request that waits joins the next batch, up to a limit."""

    def __init__(self, model: Any, tokenizer: Any, *, limit: int) -> None:
        self._model, self._tokenizer, self._limit = model, tokenizer, limit
        self._waiting: queue.Queue[_Request] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    async def submit(self, prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        """Yields the output of one prompt."""
        request = _Request(prompt.ids, max_tokens, asyncio.get_running_loop())
        self._waiting.put(request)
        while (piece := await request.pieces.get()) is not None:
            yield piece

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._limit:
                try:
                    batch.append(self._waiting.get(timeout=_GATHER_S))
                except queue.Empty:
                    break
            self._generate(batch)

    def _generate(self, batch: list[_Request]) -> None:
        width, count = max(len(request.ids) for request in batch), batch[0].max_tokens
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r.ids)) + r.ids for r in batch])
        mask = torch.tensor([[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in batch])
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, streamer=_PerRow(batch),
                min_new_tokens=count, max_new_tokens=count,
            )  # fmt: skip
        for request, row in zip(batch, output, strict=True):
            request.tell(Piece(0, self._tokenizer.decode(row[width:]), late=True))
            request.tell(None)


class Continuous:
    """Hands every request to the continuous batching of transformers, which runs in a thread of its own."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        config = transformers.GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=-1, pad_token_id=2)
        # No sharing, as everywhere here; 160 blocks of 256 positions hold 32 sequences of this load.
        batching = ContinuousBatchingConfig(
            allow_block_sharing=False, num_blocks=160, max_batch_tokens=512, max_requests_per_batch=32
        )
        self._manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
        self._manager.start()

    async def submit(self, prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        """Yields the output of one prompt."""
        request = _Request(prompt.ids, max_tokens, asyncio.get_running_loop())
        told = 0

        def take(output: Any) -> None:
            nonlocal told
            if output.error:
                raise RuntimeError(output.error)
            told, new = len(output.generated_tokens), len(output.generated_tokens) - told
            text = self._tokenizer.decode(output.generated_tokens) if output.is_finished() else ""
            request.tell(Piece(new, text))
            if output.is_finished():
                request.tell(None)

        key = f"r{id(request)}"
        self._manager.register_result_handler(key, lambda output: take(output))
        self._manager.add_request(prompt.ids, request_id=key, max_new_tokens=max_tokens, streaming=True)
        while (piece := await request.pieces.get()) is not None:
            yield piece


async def _main() -> None:
    output = private_output()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--mode", choices=("sequential", "static", "continuous"), required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.precision))
    runner: Batches | Continuous
    if options.mode == "continuous":
        runner = Continuous(model, tokenizer)
    else:
        runner = Batches(model, tokenizer, limit=1 if options.mode == "sequential" else 32)
    await serve(
        output, runner.submit, {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    )


if __name__ == "__main__":
    asyncio.run(_main())
