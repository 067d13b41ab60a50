"""Nobody's input causes INTERNAL, UNKNOWN, a crash or a hang: tens of thousands of hostile calls, all RPCs.

E2E_FUZZ_SEED and E2E_FUZZ_CASES choose what is tried; E2E_FUZZ_CASE=N replays one case of a seed.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from tandem.client import AsyncRetrieverClient
from tandem.rpc.status import DETAILS_KEY, from_rpc_error
from tandem.v1 import retriever_service_pb2 as retriever
from tests.e2e import fuzzing
from tests.e2e.stack import Stack

SEED = int(os.environ.get("E2E_FUZZ_SEED", "20261122"))
CASES = int(os.environ.get("E2E_FUZZ_CASES", "20016"))
ONLY = os.environ.get("E2E_FUZZ_CASE")
WORKERS, TIMEOUT_S = 48, 10.0
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}
REFUSALS |= {"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ALREADY_EXISTS"}
# Right for valid work on a busy machine: tried again alone, such a call must end otherwise.
LATE = {"DEADLINE_EXCEEDED", "UNAVAILABLE"}


def raw(data: bytes) -> bytes:
    return data


class Fuzzer:
    """Makes the calls, and keeps what must not have happened."""

    def __init__(
        self,
        channels: dict[tuple[str, str | None], grpc.aio.Channel],
        blocking: dict[tuple[str, str | None], grpc.Channel],
    ) -> None:
        self._channels = channels
        self._blocking = blocking
        # Few uploads are served at once; the others would only be refused for that.
        self._uploads = asyncio.Semaphore(3)
        self.codes: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []
        self.late: list[fuzzing.Case] = []

    async def send(self, case: fuzzing.Case, timeout_s: float) -> tuple[str, grpc.RpcError | None]:
        server, method = fuzzing.METHODS[case.method]
        channel = self._channels[server, case.principal]
        path = f"/{case.method}"

        options = {"timeout": timeout_s, "metadata": case.metadata}
        try:
            if method.client_streaming:
                await self._upload(case, options)
            elif method.server_streaming:
                async for _ in channel.unary_stream(path, raw, raw)(case.frames[0], **options):
                    pass
            else:
                await channel.unary_unary(path, raw, raw)(case.frames[0], **options)
        except grpc.RpcError as error:
            return error.code().name, error
        return "OK", None

    async def _upload(self, case: fuzzing.Case, options: dict) -> None:
        # Blocking: grpc.aio reports INTERNAL when a server refuses while the client writes (grpc/grpc issue 36066).
        server, _ = fuzzing.METHODS[case.method]
        channel = self._blocking[server, case.principal]

        def work() -> None:
            for _ in channel.stream_stream(f"/{case.method}", raw, raw)(iter(case.frames), **options):
                pass

        async with self._uploads:
            await asyncio.to_thread(work)

    async def run(self, case: fuzzing.Case, timeout_s: float = TIMEOUT_S, *, patient: bool = False) -> None:
        try:
            async with asyncio.timeout(timeout_s + 30):
                code, error = await self.send(case, timeout_s)
        except TimeoutError:
            code, error = "NO ANSWER", None
        self.codes[case.method.rpartition("/")[2], code] += 1
        if code in LATE and not patient:
            self.late.append(case)
        elif code != "OK" and code not in REFUSALS:
            self.fault(case, f"{code} {error.details() if error else ''}")
        elif error is not None and not explained(error) and max(map(len, case.frames), default=0) <= fuzzing.LIMIT:
            self.fault(case, f"{code} without ErrorInfo: {error.details()}")

    def fault(self, case: fuzzing.Case, words: str) -> None:
        replay = f"E2E_FUZZ_SEED={SEED} E2E_FUZZ_CASE={case.number}"
        shown = [frame[:200] for frame in case.frames]
        self.faults.append(f"{replay}: {case.method} {case.kind} as {case.principal}: {words}\n    {shown}")


def explained(error: grpc.RpcError) -> bool:
    """Tells whether a failure carries its reason; gRPC's own refusal of an oversized message cannot."""
    own = {key for key, _ in error.trailing_metadata() or ()}
    return DETAILS_KEY in own and from_rpc_error(error).reason != "UNKNOWN"


@asynccontextmanager
async def snapshot(stack: Stack) -> AsyncIterator[None]:
    """Builds one that can be searched, compared and promoted; in the end the live one alone is left."""
    async with AsyncRetrieverClient(stack.address["retriever"], token=stack.tokens["fuzzer"], timeout=60) as client:
        made = await client.create_snapshot(fuzzing.SNAPSHOT)
        async with asyncio.timeout(240):
            while made.state == retriever.Snapshot.STATE_BUILDING:
                await asyncio.sleep(0.2)
                made = await client.get_snapshot(fuzzing.SNAPSHOT)
        assert made.state == retriever.Snapshot.STATE_READY, made
        yield
        async for row in client.list_snapshots():
            if row.state != retriever.Snapshot.STATE_LIVE:
                await client.delete_snapshot(row.snapshot_id)


async def test_no_input_breaks_anything(stack: Stack, capsys) -> None:
    before = stack.pids()
    numbers = iter([int(ONLY)] if ONLY else range(CASES))
    start = time.perf_counter()
    async with snapshot(stack), AsyncExitStack() as opened:
        ends = [(server, principal) for server in stack.address for principal in ("fuzzer", "nobody", None)]
        wide = {"max_message_bytes": 4 * fuzzing.LIMIT}
        channels = {end: await opened.enter_async_context(stack.channel(*end, **wide)) for end in ends}
        blocking = {end: opened.enter_context(stack.blocking_channel(*end, **wide)) for end in ends}
        fuzzer = Fuzzer(channels, blocking)

        async def work() -> None:
            for number in numbers:
                await fuzzer.run(fuzzing.make(SEED, number))

        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(work())
        late, fuzzer.late = fuzzer.late, []
        for case in late:
            await fuzzer.run(case, 240.0, patient=True)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        total = sum(fuzzer.codes.values()) - len(late)
        print(f"\n  seed {SEED}: {total} calls in {seconds:.0f} s, {len(late)} tried again; ", end="")
        codes = Counter(code for (_, code), count in fuzzer.codes.items() for _ in range(count))
        print(", ".join(f"{code} {count}" for code, count in codes.most_common()))
    assert not fuzzer.faults, f"{len(fuzzer.faults)} faults:\n" + "\n".join(fuzzer.faults[:20])
    assert len(late) <= CASES // 100
    assert stack.pids() == before
    if not ONLY:
        # Every method was reached behind the checks of its messages.
        reached = {method for method, code in fuzzer.codes if code in ("OK", "NOT_FOUND")}
        assert reached == {method.rpartition("/")[2] for method in fuzzing.METHODS}


def test_a_case_is_made_of_its_seed_and_number_alone() -> None:
    numbers = random.Random(0).sample(range(20_000), 200)
    assert [fuzzing.make(1, n) for n in numbers] == [fuzzing.make(1, n) for n in numbers]
    assert len({tuple(fuzzing.make(1, n).frames) for n in numbers}) > 100
