"""Poisoned adapters before a generator that serves: each is refused for its own reason, and no call notices."""

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from services.generator.backend.weights import weights_sha256
from tandem.adapters import MANIFEST, SIGNATURE, WEIGHTS, Cipher, Signer
from tandem.errors import FailedPrecondition
from tests.fakes.adapter_versions import CIPHER, publish
from tests.fakes.generator_hosting import Running, asking, endless, publish_random, running, tiny
from tests.fakes.generator_model import write_adapter, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Kitchen:
    """Makes poisoned versions of halden's adapter of that name; all but the poison in them is sound."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.base = weights_sha256(files / "tiny")
        self.name = "poison"
        self._number = 0

    def sound(self, edit: Callable[[bytes], bytes] = lambda data: data, **changes: object) -> Path:
        """Signs an adapter whose weights were edited before."""
        self._number += 1
        made = write_adapter(self.files / "made" / str(self._number), seed=self._number)
        files = {path.name: path.read_bytes() for path in made.iterdir()}
        files[WEIGHTS] = edit(files[WEIGHTS])
        return publish(self.files / "adapters", files, name=self.name, **{"base_sha256": self.base, **changes})  # type: ignore[arg-type]

    def harmed(self, name: str, edit: Callable[[bytes], bytes]) -> None:
        """Changes a file after it was signed."""
        path = self.sound() / name
        path.write_bytes(edit(path.read_bytes()))

    def unsigned(self) -> None:
        """Takes the signature away."""
        (self.sound() / SIGNATURE).unlink()

    def pickled(self) -> None:
        """Leaves what torch.save leaves."""
        folder = self.sound()
        for path in folder.iterdir():
            path.unlink()
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")

    def swapped(self) -> None:
        """Puts the weights of another signed version in."""
        other = (self.sound() / WEIGHTS).read_bytes()
        (self.sound() / WEIGHTS).write_bytes(other)


def claim(length: int) -> Callable[[bytes], bytes]:
    """Returns what makes a header claim a length."""
    return lambda data: struct.pack("<Q", length) + data[8:]


def flip(data: bytes) -> bytes:
    """Changes one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


STRANGER = Signer.generate()
POISONS: list[tuple[str, Callable[[Kitchen], object], str]] = [
    ("cut short after signing", lambda k: k.harmed(WEIGHTS, lambda data: data[:-1]), "TRUNCATED"),
    ("cut short before signing", lambda k: k.sound(lambda data: data[:-100]), "TRUNCATED"),
    ("a pickle", lambda k: k.pickled(), "PICKLE"),
    ("a signed pickle by another name", lambda k: k.sound(lambda _: b"\x80\x04\x95" + bytes(30)), "PICKLE"),
    ("one byte of the manifest", lambda k: k.harmed(MANIFEST, flip), "SIGNATURE_INVALID"),
    ("no signature", lambda k: k.unsigned(), "SIGNATURE_MISSING"),
    ("a stranger's signature", lambda k: k.sound(signer=STRANGER), "KEY_UNKNOWN"),
    ("another base model", lambda k: k.sound(base_sha256="f" * 64), "BASE_MISMATCH"),
    ("10 GB of header", lambda k: k.sound(claim(10 * 1024**3)), "HEADER_TOO_LARGE"),
    ("10 GB of header after signing", lambda k: k.harmed(WEIGHTS, claim(10 * 1024**3)), "HASH_MISMATCH"),
    ("another encryption key", lambda k: k.sound(cipher=Cipher(b"?" * 32)), "DECRYPTION_FAILED"),
    ("swapped weights", lambda k: k.swapped(), "HASH_MISMATCH"),
    ("one bit of the weights", lambda k: k.harmed(WEIGHTS, flip), "HASH_MISMATCH"),
    ("a prefix", lambda k: k.sound(method="prefix"), "UNSUPPORTED"),
]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    files = tmp_path_factory.mktemp("poisoned")
    write_model(files / "tiny")
    publish_random(files, "halden/answers", seed=100, cipher=CIPHER)
    return Kitchen(files)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(kitchen: Kitchen) -> AsyncIterator[Running]:
    async with running(tiny(kitchen.files, adapter_refresh_seconds=0)) as started:
        yield started


@pytest.mark.parametrize(("cook", "code"), [row[1:] for row in POISONS], ids=[row[0] for row in POISONS])
async def test_poison_is_refused_for_its_own_reason_and_nobody_notices(
    service: Running, kitchen: Kitchen, cook: Callable[[Kitchen], object], code: str
) -> None:
    request = endless("The ferry", adapter="answers", max_tokens=60)
    alone = (await service.generate(request)).text
    going = asyncio.create_task(service.generate(request))
    cook(kitchen)
    async with service.client("olga") as client:
        with pytest.raises(FailedPrecondition) as caught:
            await client.load_adapter("poison")
        assert (caught.value.reason, caught.value.metadata["refusal"]) == ("ADAPTER_REFUSED", code)
        assert [row.name async for row in client.list_adapters()] == ["answers"]
    assert (await going).text == alone
    assert (await service.generate(request)).text == alone


async def test_poison_at_the_start_keeps_nothing_from_starting(kitchen: Kitchen) -> None:
    for number, (_, cook, _) in enumerate(POISONS):
        kitchen.name = f"poison-{number}"
        cook(kitchen)
    shutil.rmtree(kitchen.files / "adapters" / "halden" / "poison", ignore_errors=True)
    async with running(tiny(kitchen.files)) as started:
        assert started.metric("loaded_adapters") == 1
        assert started.metric("adapters_refused_total") == len(POISONS)
        await started.generate(asking(adapter="answers"))
