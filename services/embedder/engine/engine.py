"""Takes texts of many calls, runs them in shared batches on one model, and hands each call its vectors."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.trace import Tracer

from services.embedder.domain import EmbeddedText, Encoder, Limits, ModelInfo, TokenizedText
from services.embedder.engine.admission import Admission
from services.embedder.engine.batching import BatchQueue, Entry
from services.embedder.metrics import EmbedderMetrics
from tandem.errors import ConfigError, FieldViolation, Internal, InvalidInput, Overloaded, Unavailable

log = logging.getLogger(__name__)

_MIN_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 30.0
_RATE_MEMORY = 0.9
"""Share of its weight that a batch keeps in the estimate of throughput with each batch after it."""


@dataclass(eq=False, slots=True)
class _Call:
    """Is one RPC's place in the queue."""

    held: int = 0
    """Tokens that the call holds in admission: its texts that are being tokenised or wait for a batch."""


@dataclass(eq=False, slots=True)
class _Text:
    """Is one text on its way to its vector."""

    call: _Call
    tokens: TokenizedText
    arrived: float
    result: asyncio.Future[EmbeddedText] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Engine:
    """Embeds texts. Used from one event loop; ``start`` before the first call, ``stop`` after the last.

    Tokenisation and inference have one thread each, so that the next batch is being tokenised while one runs.
    """

    def __init__(
        self, load: Callable[[], Encoder], *, limits: Limits, metrics: EmbedderMetrics, tracer: Tracer
    ) -> None:
        self._load = load
        self._limits = limits
        self._metrics = metrics
        self._tracer = tracer
        self._encoder: Encoder | None = None
        self._queue: BatchQueue[_Text] = BatchQueue(
            max_tokens=limits.max_batch_tokens, max_texts=limits.max_batch_texts
        )
        self._admission = Admission(max_tokens=limits.max_queue_tokens)
        self._tokenizer_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        self._model_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")
        self._arrival = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._recent_tokens = 0.0
        self._recent_seconds = 0.0
        metrics.queue_texts.set_function(lambda: len(self._queue))
        metrics.queue_tokens.set_function(lambda: self._admission.held)

    @property
    def model(self) -> ModelInfo:
        """Describes the model; raises Unavailable before it is loaded and after the engine has stopped."""
        return self._ready().info

    async def start(self) -> None:
        """Loads the model and runs it once on its longest input. Raises ConfigError when it cannot be served."""
        loop = asyncio.get_running_loop()
        encoder = await loop.run_in_executor(self._model_thread, self._load)
        if encoder.info.max_tokens > self._limits.max_batch_tokens:
            raise ConfigError(
                f"max_batch_tokens is {self._limits.max_batch_tokens}, but one text of {encoder.info.name} may have "
                f"{encoder.info.max_tokens} tokens"
            )
        longest = await loop.run_in_executor(
            self._tokenizer_thread, encoder.tokenize, ["warm up", "warm up " * encoder.info.max_tokens]
        )
        started = time.perf_counter()
        await loop.run_in_executor(self._model_thread, encoder.encode, [tokens.ids for tokens in longest])
        self._remember(sum(len(tokens.ids) for tokens in longest), time.perf_counter() - started)
        self._encoder = encoder
        self._runner = asyncio.create_task(self._run(encoder), name="embedder-batches")
        log.info("model ready", extra={"model": encoder.info.name, "sha256": encoder.info.sha256})

    async def stop(self) -> None:
        """Waits for the batch that runs and refuses everything else. Safe to call more than once."""
        self._encoder = None
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        while entries := self._queue.take():
            _fail(entries, lambda: Unavailable("the embedder is stopping"))
        for thread in (self._tokenizer_thread, self._model_thread):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    async def embed(self, texts: Sequence[str], *, truncate: bool = True) -> list[EmbeddedText]:
        """Returns the vectors of ``texts`` in their order.

        Raises InvalidInput for a text that the model cannot read whole unless ``truncate``, Overloaded when the queue
        is full, Unavailable while there is no model, Internal when the model fails.
        """
        encoder, arrived = self._ready(), time.perf_counter()
        demand = _demand(encoder.info, texts)
        if excess := self._admission.excess(demand):
            raise Overloaded("the embedder's queue is full", retry_after_s=self._seconds_for(excess))
        self._admission.take(demand)
        with self._in_queue(_Call(held=demand)) as call:
            with self._tracer.start_as_current_span("embedder.tokenize", attributes={"num_texts": len(texts)}):
                tokenized = await self._tokenize(encoder, texts)
            if not truncate:
                _refuse_long(tokenized, encoder.info)
            waiting = self._enqueue(call, tokenized, demand=demand, arrived=arrived)
            embedded = await asyncio.gather(*(text.result for text in waiting))
        self._trace(embedded)
        return embedded

    async def stream(self, texts: AsyncIterator[str]) -> AsyncGenerator[EmbeddedText, None]:
        """Yields the vector of each text in the order of arrival, cutting texts that are too long.

        Reads ahead by at most ``max_stream_texts`` and only while the queue has room, so a slow model or a slow reader
        slows ``texts`` down. A failure of ``texts`` is raised after the vectors before it. Close the generator when
        leaving it early.
        """
        encoder = self._ready()
        results: asyncio.Queue[asyncio.Future[EmbeddedText] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(self._limits.max_stream_texts)
        with self._in_queue(_Call()) as call:

            async def read() -> None:
                try:
                    async for text in texts:
                        await slots.acquire()
                        results.put_nowait(await self._enqueue_one(encoder, call, text))
                finally:
                    results.put_nowait(None)

            reader = asyncio.create_task(read(), name="embedder-stream")
            try:
                while (result := await results.get()) is not None:
                    yield await result
                    slots.release()
                await reader
            finally:
                reader.cancel()
                await asyncio.wait([reader])
                if not reader.cancelled():
                    reader.exception()  # seen: either raised above, or overtaken by the failure that ends the stream

    def _ready(self) -> Encoder:
        if self._encoder is None:
            raise Unavailable("the embedding model is not loaded", retry_after_s=1.0)
        return self._encoder

    @contextmanager
    def _in_queue(self, call: _Call) -> Iterator[_Call]:
        """Takes what is left of the call out of the queue at the end, however it ends."""
        try:
            yield call
        finally:
            self._queue.discard(call)
            self._admission.release(call.held)
            call.held = 0

    async def _enqueue_one(self, encoder: Encoder, call: _Call, text: str) -> asyncio.Future[EmbeddedText]:
        arrived, demand = time.perf_counter(), _demand(encoder.info, [text])
        await self._admission.wait(demand)
        call.held += demand
        tokenized = await self._tokenize(encoder, [text])
        return self._enqueue(call, tokenized, demand=demand, arrived=arrived)[0].result

    async def _tokenize(self, encoder: Encoder, texts: Sequence[str]) -> list[TokenizedText]:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, encoder.tokenize, texts)

    def _enqueue(self, call: _Call, tokenized: Sequence[TokenizedText], *, demand: int, arrived: float) -> list[_Text]:
        self._ready()  # the engine may have stopped during tokenisation
        correction = sum(len(tokens.ids) for tokens in tokenized) - demand
        call.held += correction
        self._admission.take(correction)
        waiting = [_Text(call, tokens, arrived) for tokens in tokenized]
        self._queue.push(call, [(len(text.tokens.ids), text) for text in waiting])
        self._arrival.set()
        return waiting

    async def _run(self, encoder: Encoder) -> None:
        """Runs batches until cancelled; the owner of all model work."""
        while True:
            entries = self._queue.take()
            if not entries:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            for entry in entries:
                entry.payload.call.held -= entry.num_tokens
            self._admission.release(sum(entry.num_tokens for entry in entries))
            try:
                await self._infer(encoder, entries)
            except asyncio.CancelledError:
                _fail(entries, lambda: Unavailable("the embedder is stopping"))
                raise
            except Exception:  # a task root: whatever the model throws ends these calls, not the service
                log.exception("inference failed", extra={"num_texts": len(entries)})
                self._metrics.failed_batches.inc()
                _fail(entries, lambda: Internal("the embedding model failed"))

    async def _infer(self, encoder: Encoder, entries: Sequence[Entry[_Text]]) -> None:
        batch = [entry.payload.tokens.ids for entry in entries]
        started = time.perf_counter()
        vectors = await asyncio.get_running_loop().run_in_executor(self._model_thread, encoder.encode, batch)
        seconds = time.perf_counter() - started
        self._record(entries, seconds=seconds)
        for entry, vector in zip(entries, vectors, strict=True):
            text = entry.payload
            queued = started - text.arrived
            self._metrics.queue_seconds.observe(queued)
            if not text.result.done():
                text.result.set_result(
                    EmbeddedText(vector, entry.num_tokens, text.tokens.truncated, queued, infer_seconds=seconds)
                )

    def _record(self, entries: Sequence[Entry[_Text]], *, seconds: float) -> None:
        num_tokens = sum(entry.num_tokens for entry in entries)
        padded = max(entry.num_tokens for entry in entries) * len(entries)
        self._remember(num_tokens, seconds)
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_texts.observe(len(entries))
        self._metrics.batch_tokens.observe(padded)
        self._metrics.texts.inc(len(entries))
        self._metrics.tokens.inc(num_tokens)
        self._metrics.padding_tokens.inc(padded - num_tokens)
        self._metrics.truncated_texts.inc(sum(entry.payload.tokens.truncated for entry in entries))

    def _remember(self, num_tokens: int, seconds: float) -> None:
        self._recent_tokens = _RATE_MEMORY * self._recent_tokens + num_tokens
        self._recent_seconds = _RATE_MEMORY * self._recent_seconds + seconds

    def _seconds_for(self, tokens: int) -> float:
        """Estimates from recent batches how long the model takes for so many tokens."""
        seconds = tokens * self._recent_seconds / self._recent_tokens
        return min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)

    def _trace(self, embedded: Sequence[EmbeddedText]) -> None:
        """Writes the spans of the slowest text, which ended just now."""
        slowest = max(embedded, key=lambda text: text.seconds)
        end = time.time_ns()
        middle = end - round(slowest.infer_seconds * 1e9)
        start = middle - round(slowest.queue_seconds * 1e9)
        self._tracer.start_span("embedder.queue", start_time=start).end(middle)
        self._tracer.start_span("embedder.infer", start_time=middle).end(end)


def _demand(info: ModelInfo, texts: Sequence[str]) -> int:
    """Guesses the tokens of texts before they are tokenised: about one for each character is the worst case."""
    return sum(min(info.max_tokens, len(text) + 2) for text in texts)


def _refuse_long(tokenized: Sequence[TokenizedText], info: ModelInfo) -> None:
    violations = [
        FieldViolation(f"texts[{index}]", f"is longer than the {info.max_tokens} tokens that the model reads")
        for index, tokens in enumerate(tokenized)
        if tokens.truncated
    ]
    if violations:
        raise InvalidInput(f"{len(violations)} of {len(tokenized)} texts are too long for the model", violations)


def _fail(entries: Sequence[Entry[_Text]], error: Callable[[], Exception]) -> None:
    for entry in entries:
        if not entry.payload.result.done():
            entry.payload.result.set_exception(error())
            entry.payload.result.exception()  # a stream that has already failed asks no more
