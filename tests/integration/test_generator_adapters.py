"""Adapters come and go while sequences run on them: each ends on the weights that it started on.

The fault to guard against is that of https://github.com/vllm-project/vllm/issues/47724: an adapter is loaded while
others decode, and a sequence in flight is silently served by another user's.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from services.generator.domain import Adapter
from services.generator.registry.holdings import Held, Holdings
from tandem.adapters import ALIASES, Aliases, write_aliases
from tandem.client import AsyncGeneratorClient
from tandem.errors import FailedPrecondition, NotFound, Overloaded, TandemError
from tandem.v1 import generator_service_pb2 as pb
from tests.fakes.generator_hosting import Running, endless, publish_random, running, tiny
from tests.fakes.generator_model import write_model

VERSIONS = 3
OPERATORS = {"olga": "halden", "bo": "brightwater"}
PROMPTS = ("Once upon", "The ferry")
LENGTH = 100


@dataclass
class House:
    """Is a generator with room for few adapters, and what each version says when nothing happens around it."""

    running: Running
    files: Path
    versions: dict[str, list[str]]
    """Of each tenant's adapter "answers"."""
    said: dict[tuple[str, str], str] = field(default_factory=dict)
    """By the hash of the weights and the prompt."""
    faults: list[str] = field(default_factory=list)
    num_checked: int = 0

    def put(self, tenant: str, version: int, candidate: int | None = None, share: float = 0.0) -> str:
        """Lets the aliases in the tenant's folder stand for these versions, and returns the first."""
        names = self.versions[tenant]
        wanted = names[candidate] if candidate is not None else None
        aliases = Aliases(stable=names[version], candidate=wanted, canary_share=share)
        write_aliases(self.files / "adapters" / tenant / "answers", aliases)
        return aliases.stable

    async def learn(self) -> None:
        """Notes what each version says alone."""
        for principal, tenant in OPERATORS.items():
            async with self.running.client(principal) as client:
                for version in range(VERSIONS):
                    self.put(tenant, version)
                    digest = (await client.load_adapter("answers")).adapter.sha256
                    for prompt in PROMPTS:
                        response = await client.generate(endless(prompt, adapter="answers", max_tokens=LENGTH))
                        assert response.finished.lineage.adapter_sha256 == digest
                        self.said[digest, prompt] = response.text
                await client.unload_adapter("answers")
        assert len(set(self.said.values())) == len(self.said) == len(OPERATORS) * VERSIONS * len(PROMPTS)

    async def generate(
        self, client: AsyncGeneratorClient, prompt: str, *, digest: str, started: Callable[[], object] = lambda: None
    ) -> None:
        """Runs a sequence and compares it with what the weights of this hash say alone."""
        text = ""
        try:
            async for event in client.stream(endless(prompt, adapter="answers", max_tokens=LENGTH)):
                if event.HasField("started"):
                    started()
                    self.compare("begun on", event.started.lineage.adapter_sha256, digest)
                if event.HasField("finished"):
                    self.compare("ended on", event.finished.lineage.adapter_sha256, digest)
                text += event.delta.text
        except TandemError as error:
            self.faults.append(f"failed: {error.code}")
            return
        finally:
            started()
        self.num_checked += 1
        self.compare("said", text, self.said[digest, prompt])

    async def checked(self, number: int) -> None:
        """Waits until so many answers have been compared."""
        for _ in range(6_000):
            if self.num_checked >= number:
                return
            await asyncio.sleep(0.01)
        raise TimeoutError(f"{number} answers were never compared")

    def compare(self, what: str, given: str, wanted: str) -> None:
        if given != wanted:
            self.faults.append(f"{what} {given!r} instead of {wanted!r}")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Files, and an empty place for what the versions say, which the first house fills."""
    files = tmp_path_factory.mktemp("house")
    write_model(files / "tiny")
    versions = {
        tenant: [
            publish_random(files, f"{tenant}/answers", seed=10 * index + version, rank=1 + version, stable=False).name
            for version in range(VERSIONS)
        ]
        for index, tenant in enumerate(OPERATORS.values())
    }
    return House(cast(Any, None), files, versions)


@asynccontextmanager
async def house(known: House) -> AsyncIterator[House]:
    for tenant in OPERATORS.values():
        (known.files / "adapters" / tenant / "answers" / ALIASES).unlink(missing_ok=True)
    async with running(tiny(known.files, max_adapters=4, max_running=8, kv_cache_tokens=2048)) as started:
        made = House(started, known.files, known.versions, known.said)
        if not made.said:
            await made.learn()
        yield made


async def churn(made: House, *, rounds: int) -> None:
    """Has both tenants run sequences while they load, replace and unload adapters of the same name."""

    async def live(principal: str, tenant: str) -> None:
        rng = random.Random(principal)
        async with made.running.client(principal) as client, asyncio.TaskGroup() as group:
            for turn in range(rounds):
                version = made.put(tenant, rng.randrange(VERSIONS))
                if turn % 4 == 3:
                    await client.unload_adapter("answers")
                while True:
                    try:
                        digest = (await client.load_adapter("answers")).adapter.sha256
                        break
                    except Overloaded:
                        await asyncio.sleep(0.01)
                made.compare("loaded", digest[:16], version)
                begun = asyncio.Event()
                prompt = rng.choice(PROMPTS)
                group.create_task(made.generate(client, prompt, digest=digest, started=begun.set))
                # The next version comes while this sequence, and those before it, are under way.
                await begun.wait()

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for principal, tenant in OPERATORS.items():
            group.create_task(live(principal, tenant))


async def test_every_sequence_ends_on_the_weights_it_started_on(known: House) -> None:
    async with house(known) as made:
        loads = made.running.metric("adapter_loads_total", outcome="loaded")
        await churn(made, rounds=24)
        assert made.faults == []
        assert made.num_checked >= 40
        assert made.running.metric("adapter_loads_total", outcome="loaded") > loads + 20
        await made.running.until("retired_adapters", 0)


def drop_at_once(holdings: Holdings, held: Held) -> None:
    """Lets go of retired weights whoever runs on them."""
    key = held.adapter.key
    if held.num_holds == 0 and key in holdings._versions:
        del holdings._versions[key]
        holdings._thread.submit(holdings._adapters.unload, key)


@pytest.mark.parametrize("sabotage", ["pins are ignored", "versions share a key", "tenants share a key"])
async def test_the_test_above_sees_the_fault(known: House, monkeypatch: pytest.MonkeyPatch, sabotage: str) -> None:
    async with house(known) as made:
        if sabotage == "pins are ignored":
            monkeypatch.setattr(Holdings, "_drop_if_free", drop_at_once)
        elif sabotage == "versions share a key":
            monkeypatch.setattr(Adapter, "key", property(lambda adapter: f"{adapter.tenant}/{adapter.name}"))
        else:
            monkeypatch.setattr(Adapter, "key", property(lambda adapter: adapter.name))
        await churn(made, rounds=8)
        assert made.faults


async def test_a_load_that_fails_leaves_sequences_and_calls_alone(known: House) -> None:
    async with house(known) as made, made.running.client("olga") as client:
        made.put("halden", 0)
        digest = (await client.load_adapter("answers")).adapter.sha256
        begun = asyncio.Event()
        going = asyncio.create_task(made.generate(client, PROMPTS[0], digest=digest, started=begun.set))
        await begun.wait()
        made.put("halden", 2)
        place = made.files / "adapters" / "halden" / "answers" / "versions" / made.versions["halden"][2]
        weights = place / "adapter_model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        for _ in range(3):
            with pytest.raises(FailedPrecondition) as caught:
                await client.load_adapter("answers")
            assert (caught.value.reason, caught.value.metadata["refusal"]) == ("ADAPTER_REFUSED", "TRUNCATED")
        weights.write_bytes(whole)
        await made.generate(client, PROMPTS[1], digest=digest)
        await going
        assert (made.faults, made.num_checked) == ([], 2)


async def test_an_adapter_that_was_unloaded_serves_those_who_had_it_and_no_others(known: House) -> None:
    async with house(known) as made, made.running.client("olga") as client:
        made.put("halden", 1)
        digest = (await client.load_adapter("answers")).adapter.sha256
        begun = asyncio.Event()
        going = asyncio.create_task(made.generate(client, PROMPTS[0], digest=digest, started=begun.set))
        await begun.wait()
        (listed,) = [row async for row in client.list_adapters()]
        assert listed.num_sequences <= 1
        await client.unload_adapter("answers")
        with pytest.raises(NotFound):
            await client.generate(pb.GenerateRequest(text="a", adapter="answers"))
        assert [row async for row in client.list_adapters()] == []
        await going
        assert (made.faults, made.num_checked) == ([], 1)
        await made.running.until("retired_adapters", 0)


async def test_promotion_canary_and_roll_back_under_a_stream_of_calls_mix_and_fail_none(known: House) -> None:
    async with house(known) as made, made.running.client("olga") as client:
        first, second = made.versions["halden"][:2]
        made.put("halden", 0, 1)
        await client.load_adapter("answers")
        ended, seen = asyncio.Event(), set[str]()

        async def ask(principal: str, prompt: str, name: str) -> None:
            async with made.running.client(principal) as caller:
                while not ended.is_set():
                    response = await caller.generate(endless(prompt, adapter=name, max_tokens=LENGTH))
                    digest = response.finished.lineage.adapter_sha256
                    seen.add(f"{name} {digest[:16]}")
                    made.num_checked += 1
                    if response.text != made.said[digest, prompt]:
                        made.faults.append(f"{digest[:16]} said {response.text!r}")

        async def change() -> None:
            for _ in range(4):
                await client.set_adapter_canary("answers", 0.5, version=second)
                assert (await client.promote_adapter("answers")).adapter.version == second
                assert (await client.roll_back_adapter("answers")).adapter.version == first
            await client.set_adapter_canary("answers", 0.5, version=second)
            await made.checked(made.num_checked + 24)
            ended.set()

        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for prompt in PROMPTS:
                for name in ("answers", "answers", "answers@stable"):
                    group.create_task(ask("alice", prompt, name))
            group.create_task(change())
        assert made.faults == []
        assert {f"answers {first}", f"answers {second}", f"answers@stable {first}"} <= seen
        await client.unload_adapter("answers")
        await made.running.until("retired_adapters", 0)


async def test_every_process_on_a_folder_follows_a_promotion(known: House) -> None:
    settings = tiny(known.files, adapter_refresh_seconds=0.01)
    async with house(known) as made, running(settings) as other, made.running.client("olga") as client:
        made.put("halden", 0, 1)
        await client.load_adapter("answers")
        await client.promote_adapter("answers")
        async with other.client("alice") as there:
            for _ in range(6_000):
                rows = [row async for row in there.list_adapters()]
                if [row.version for row in rows] == [made.versions["halden"][1]]:
                    break
                await asyncio.sleep(0.005)
            response = await there.generate(endless(PROMPTS[0], adapter="answers", max_tokens=LENGTH))
            digest = response.finished.lineage.adapter_sha256
            assert digest.startswith(made.versions["halden"][1])
            assert response.text == made.said[digest, PROMPTS[0]]
