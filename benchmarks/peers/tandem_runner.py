"""Runs a generator process and talks to it over gRPC with tandem.client, as an application would."""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from benchmarks.peers.protocol import Piece, Prompt, Submit, private_output, serve
from benchmarks.server import end_tokens, generator
from tandem.client import AsyncGeneratorClient
from tandem.v1 import generator_service_pb2 as pb


def request(text: str, *, max_tokens: int, ban: Iterable[int], adapter: str = "") -> pb.GenerateRequest:
    """Returns a greedy request that no token of `ban` ends."""
    bias = [pb.LogitBias(token_id=token, bias=-100) for token in ban]
    return pb.GenerateRequest(
        chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=text)]),
        adapter=adapter,
        sampling=pb.Sampling(max_tokens=max_tokens, temperature=0, logit_bias=bias),
    )


def submitter(client: AsyncGeneratorClient, *, ban: Iterable[int], adapters: Iterable[str] = ("",)) -> Submit:
    """Returns what sends one prompt and yields its text as it comes; the adapters take turns."""
    ban, names, sent = list(ban), list(adapters), 0

    async def submit(prompt: Prompt, max_tokens: int) -> AsyncIterator[Piece]:
        nonlocal sent
        sent += 1
        asked = request(prompt.text, max_tokens=max_tokens, ban=ban, adapter=names[sent % len(names)])
        async for event in client.stream(asked):
            if event.HasField("delta"):
                yield Piece(0, event.delta.text)
            elif event.HasField("finished"):
                usage = event.finished.usage
                if prompt.ids and usage.input_tokens != len(prompt.ids):
                    raise RuntimeError(f"the prompt has {usage.input_tokens} tokens, not {len(prompt.ids)}")
                yield Piece(usage.output_tokens, late=True)

    return submit


async def _main() -> None:
    output = private_output()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", required=True)
    options = parser.parse_args()
    settings = {
        "MODEL": str(options.model), "PRECISION": options.precision, "THREADS": str(options.threads),
        "BACKEND": "torch", "MAX_RUNNING": "32", "PREFIX_SHARING": "false", "MAX_DEADLINE_SECONDS": "1800",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as home:
        async with generator(Path(home), settings) as server, server.client(timeout_s=1200) as client:
            submit = submitter(client, ban=end_tokens(options.model))
            await serve(output, submit, {"version": "this commit, over gRPC"})


if __name__ == "__main__":
    asyncio.run(_main())
