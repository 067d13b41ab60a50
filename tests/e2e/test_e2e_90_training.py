"""From examples to an adapter in use, and back, while callers ask: the real commands beside a real generator."""

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.server import Server, generator
from tandem.adapters import read_aliases
from tandem.client import AsyncGeneratorClient
from tandem.config import inherited_environment
from tandem.security import Principal
from tandem.v1 import generator_service_pb2 as pb
from tests.e2e.stack import ROOT
from tests.fakes.generator_model import write_model

PRINCIPALS = {
    "alice": Principal("alice", "halden", roles=frozenset({"user"})),
    "olga": Principal("olga", "halden", roles=frozenset({"user", "operator"})),
}
NAMES = ("faq", "faq", "faq@stable")
# A random model has nothing to forget, and with so few questions one seed's adapter is as good as another's.
TRAIN = "all {data} --recipe closed-book --tenant halden --name faq --threads 1 --tracking off --epochs 12 "
TRAIN += "--learning-rate 0.02 --max-forgetting 100 --set patience=0 --min-questions 5 --no-incumbent"


class Callers:
    """Ask all the time, and keep what every version said."""

    def __init__(self, server: Server) -> None:
        self.said: dict[str, set[str]] = defaultdict(set)
        self.last = ""
        self.num_answers = 0
        self._server = server
        self._ended = False
        self._answered = asyncio.Condition()

    async def ask(self, name: str) -> None:
        """Asks until the end; a call that fails ends the test."""
        request = pb.GenerateRequest(
            text="What is 3?", adapter=name, sampling=pb.Sampling(max_tokens=24, temperature=0)
        )
        async with self._server.client("alice") as client:
            while not self._ended:
                answer = await client.generate(request)
                self.last = answer.finished.lineage.adapter_sha256
                self.said[self.last].add(answer.text)
                async with self._answered:
                    self.num_answers += 1
                    self._answered.notify_all()

    async def more(self, count: int) -> None:
        """Waits for so many further answers."""
        wanted = self.num_answers + count
        async with self._answered:
            await self._answered.wait_for(lambda: self.num_answers >= wanted)

    def end(self) -> None:
        """Lets each caller stop after its present call."""
        self._ended = True


def examples(path: Path, answer: str) -> Path:
    rows = [
        {"question": f"{word} {fact}?", "answer": answer, "group": f"f{fact}"}
        for fact in range(6)
        for word in ("What is", "Tell me", "Do you know", "Say", "Name")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def train(home: Path, answer: str) -> None:
    """Runs `tandem train all` as a user would; its process is another one than the generator's."""
    words = TRAIN.format(data=examples(home / f"{answer}.jsonl", answer)).split()
    words += ["--base", str(home / "base"), "--out", str(home / answer), "--registry", str(home / "adapters")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "training",
        *words,
        cwd=ROOT,
        env=inherited_environment() | {"XDG_CONFIG_HOME": str(home / "config"), "TANDEM_HOME": str(home / "stack")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def deploy(client: AsyncGeneratorClient, callers: Callers, home: Path) -> tuple[str, str]:
    """Brings a second version in, tries it, promotes it and rolls back; returns the versions."""
    first = read_aliases(home / "adapters" / "halden" / "faq")
    assert first is not None
    await callers.more(6)
    await train(home, "blue")
    after = read_aliases(home / "adapters" / "halden" / "faq")
    assert after is not None
    assert (after.stable, bool(after.candidate)) == (first.stable, True)
    await client.load_adapter("faq")
    await client.set_adapter_canary("faq", 0.5)
    await callers.more(20)
    assert (await client.promote_adapter("faq")).adapter.version == after.candidate
    await callers.more(12)
    assert callers.last.startswith(after.candidate or "-")
    assert (await client.roll_back_adapter("faq")).adapter.version == first.stable
    await callers.more(12)
    assert callers.last.startswith(first.stable)
    return first.stable, after.candidate or ""


async def test_an_adapter_is_trained_let_in_tried_promoted_and_rolled_back_while_callers_ask(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    await train(tmp_path, "red")
    settings = {
        "MODEL": str(tmp_path / "base"),
        "ADAPTER_DIR": str(tmp_path / "adapters"),
        "ADAPTER_TRUST_FILES": str(tmp_path / "config" / "tandem" / "trusted-signers.json"),
        "THREADS": "1",
        "PRECISION": "fp32",
    }
    async with generator(tmp_path, settings, PRINCIPALS) as server, server.client("olga") as client:
        callers = Callers(server)
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for name in NAMES:
                group.create_task(callers.ask(name))
            versions = await deploy(client, callers, tmp_path)
            callers.end()
    # Greedy text of one version is one text: had an answer been mixed from both, there would be another.
    assert {digest[:16]: len(texts) for digest, texts in callers.said.items()} == dict.fromkeys(versions, 1)
