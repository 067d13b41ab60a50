"""How long the generator's steps take, beside what the machine's memory and arithmetic allow.

    python -m benchmarks.generator_steps [--precision bf16 int8] [--threads 1] [--adapter answers]

The runner is driven without scheduler and wire: what is left of a served
token's time is theirs. Each figure is the fastest and the median of several
steps, for the machine may be shared; with one thread it is processor time,
which does not count the time that others had the processor. An adapter's own
products are not in what the machine allows.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.generator_divergence import opened
from services.generator.backend.linear import make_linear
from services.generator.backend.runner import PagedRunner
from services.generator.domain import Draw, Sampling, Step, Work

ROWS = (1, 4, 16, 32)
CHUNKS = (16, 32, 48, 64, 128, 256, 512)
BLOCK = 16


@dataclass(frozen=True)
class Taken:
    """Is the time that one step takes, in seconds."""

    best: float
    typical: float


def measured(call: Callable[[], object], *, seconds: float, least: int = 5) -> Taken:
    """Runs a call for about that long, twice before without counting."""
    call()
    call()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        started = clock()
        call()
        times.append(clock() - started)
    return Taken(min(times), median(times))


def works(rows: int, *, tokens: int, start: int) -> tuple[Work, ...]:
    """Works of equally many tokens after `start` others, each in blocks of its own."""
    each = -(-(start + tokens) // BLOCK)
    return tuple(
        Work(
            stream=row,
            tokens=[(row * 31 + place * 7) % 49_000 + 20 for place in range(tokens)],
            start=start,
            blocks=range(row * each, (row + 1) * each),
        )
        for row in range(rows)
    )


def step(rows: int, *, tokens: int = 1, start: int, adapters: list[str] | None = None) -> Step:
    """A step in which every work draws its next token."""
    planned = works(rows, tokens=tokens, start=start)
    if adapters:
        planned = tuple(
            Work(stream=w.stream, tokens=w.tokens, start=w.start, blocks=w.blocks, adapter=adapters[i % len(adapters)])
            for i, w in enumerate(planned)
        )
    draws = [
        Draw(sequence=i, works=(i,), sampling=Sampling(seed=0), history=(), position=0) for i in range(len(planned))
    ]
    return Step(planned, tuple(draws))


def arithmetic(precision: str) -> float:
    """The rate of a large matrix product as the runner computes it, in operations a second."""
    size, rows = 1536, 512
    layer = make_linear(torch.randn(size, size) / 40, precision=precision)
    x = torch.randn(rows, size).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * rows * size * size / measured(lambda: layer(x), seconds=0.5).best


def bandwidth() -> float:
    """The rate at which memory is read, in bytes a second."""
    numbers = torch.ones(64 * 1024 * 1024)
    return numbers.numel() * 4 / measured(lambda: numbers.sum(), seconds=0.5).best


def report(precision: str, *, model: str, adapter: str, start: int, seconds: float) -> None:
    """Prints the figures of one precision."""
    loaded, key = opened(precision, model, adapter)
    keys = [key] if key else None
    runner = loaded.runner
    if not isinstance(runner, PagedRunner):
        raise TypeError("only the paged runner is measured")
    shape = runner._model.shape
    linears = shape.layers * sum(out * into for out, into in loaded.shapes.values()) // shape.layers
    head = shape.vocabulary * shape.hidden
    width = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    position = shape.layers * 2 * shape.kv_heads * shape.head_dim * (4 if precision == "fp32" else 2)
    read, rate = bandwidth(), arithmetic(precision)
    print(f"\n{precision}, {torch.get_num_threads()} threads: {read / 1e9:.1f} GB/s, {rate / 1e9:.0f} Gop/s")
    print(f"{'step':28} {'best ms':>8} {'median':>8} {'tokens/s':>9} {'of bound':>9}")

    def line(name: str, planned: Step, rows: int, tokens: int, context: int) -> None:
        taken = measured(lambda: runner.run(planned), seconds=seconds)
        total = rows * tokens
        attended = 4 * total * (context + tokens / 2) * shape.heads * shape.head_dim * shape.layers
        bytes_read = (linears + head) * width + rows * context * position
        bound = max(bytes_read / read, (2 * total * linears + 2 * rows * head + attended) / rate)
        print(
            f"{name:28} {taken.best * 1e3:8.1f} {taken.typical * 1e3:8.1f} {total / taken.best:9.0f} "
            f"{bound / taken.best:9.0%}"
        )

    for rows in ROWS:
        line(f"decode {rows} rows at {start}", step(rows, start=start, adapters=keys), rows, 1, start)
    for tokens in CHUNKS:
        line(f"prefill {tokens} from 0", step(1, tokens=tokens, start=0, adapters=keys), 1, tokens, 0)
    for tokens in (48, 256):
        line(f"prefill {tokens} from 512", step(1, tokens=tokens, start=512, adapters=keys), 1, tokens, 512)


def main() -> None:
    """Prints the figures of each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "int8"], choices=("fp32", "bf16", "int8"))
    parser.add_argument("--adapter", default="", help="an adapter of the tenant halden; none is the base model")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--start", type=int, default=325, help="positions that decoding rows have behind them")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each step is repeated")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for precision in args.precision:
        report(precision, model=args.model, adapter=args.adapter, start=args.start, seconds=args.seconds)


if __name__ == "__main__":
    main()
