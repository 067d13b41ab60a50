"""The checks of adapters on disk: what they let through, and what they refuse and why."""

import base64
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.domain import Adapter
from services.generator.registry import KeyFiles, verify
from tandem.adapters import (
    CONFIG,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    AdapterRefused,
    Base,
    Cipher,
    Keyring,
    Refusal,
    Signer,
    Trust,
)
from tests.fakes.adapter_versions import CIPHER, SIGNER, TRUST
from tests.fakes.generator_adapters import GOOD_CONFIG, PREFIX, place, rules, safetensors_bytes, tensors

GOOD = safetensors_bytes(tensors())


def shaped(a: list[int], b: list[int]) -> dict[str, object]:
    """Returns the rows of two matrices, one after the other."""
    middle, end = 2 * a[0] * a[1], 2 * (a[0] * a[1] + b[0] * b[1])
    return {
        f"{PREFIX}.lora_A.weight": {"dtype": "F16", "shape": a, "data_offsets": [0, middle]},
        f"{PREFIX}.lora_B.weight": {"dtype": "F16", "shape": b, "data_offsets": [middle, end]},
    }


def header(row: dict[str, object], size: int = 40, *, encoding: str = "utf-8") -> bytes:
    """Returns a sound file but for what its header says more, or otherwise."""
    sound = json.loads(GOOD[8 : 8 + struct.unpack("<Q", GOOD[:8])[0]])
    text = json.dumps({**sound, **row}).encode(encoding)
    return struct.pack("<Q", len(text)) + text + GOOD[-size:]


def test_a_good_adapter_is_described(tmp_path: Path) -> None:
    adapter = verify(place(tmp_path), rules())
    assert (adapter.tenant, adapter.name, adapter.rank, adapter.scale) == ("halden", "answers", 2, 2.0)
    assert adapter.num_parameters == 2 * 4 + 6 * 2
    assert (adapter.signer_key_id, adapter.cipher, adapter.cipher_key_id) == (SIGNER.key_id, "", "")
    assert adapter.read() == GOOD


def test_an_encrypted_adapter_is_opened_and_says_so(tmp_path: Path) -> None:
    folder = place(tmp_path, cipher=CIPHER)
    adapter = verify(folder, rules())
    assert (adapter.cipher, adapter.cipher_key_id) == ("AES-256-GCM", CIPHER.key_id)
    assert adapter.read() == GOOD
    assert GOOD[8:40] not in (folder / WEIGHTS).read_bytes()
    assert b"LORA" not in (folder / CONFIG).read_bytes()


def test_rank_stabilised_adapters_scale_with_the_root(tmp_path: Path) -> None:
    config = {**GOOD_CONFIG, "r": 4, "lora_alpha": 4, "use_rslora": True}
    assert verify(place(tmp_path, config=config, data=safetensors_bytes(tensors(rank=4))), rules()).scale == 2.0


PREFIX_SHAPES = {f"model.layers.{n}.self_attn.{part}_proj": (6, 4) for n in range(2) for part in "qkv"}
PREFIX_CONFIG = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "prefix_projection": False}


def place_prefix(
    root: Path, *, values: int = 2 * 2 * 6, config: object = None, name: str = "prompt_embeddings"
) -> Path:
    data = safetensors_bytes({name: [3, values]})
    return place(root, config=config or PREFIX_CONFIG, data=data, method="prefix")


def test_a_prefix_is_described(tmp_path: Path) -> None:
    adapter = verify(place_prefix(tmp_path), rules(shapes=PREFIX_SHAPES))
    assert (adapter.num_virtual, adapter.rank, adapter.num_parameters) == (3, 0, 3 * 24)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"values": 12}, Refusal.BASE_MISMATCH),
        ({"name": "prompt"}, Refusal.BASE_MISMATCH),
        ({"config": GOOD_CONFIG}, Refusal.UNSUPPORTED),
        ({"config": {**PREFIX_CONFIG, "num_virtual_tokens": 4}}, Refusal.BASE_MISMATCH),
        ({"config": {**PREFIX_CONFIG, "num_virtual_tokens": 0}}, Refusal.CONFIG_INVALID),
        ({"config": {**PREFIX_CONFIG, "num_virtual_tokens": "3"}}, Refusal.CONFIG_INVALID),
        ({"config": {**PREFIX_CONFIG, "prefix_projection": True}}, Refusal.UNSUPPORTED),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], code: Refusal) -> None:
    assert refusal(place_prefix(tmp_path, **changes), shapes=PREFIX_SHAPES).code is code


def refusal(folder: Path, **changes: object) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        verify(folder, rules(**changes))
    return caught.value


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return do


def flip(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


def sign_again(signer: Signer, *, claims: str) -> Callable[[Path], None]:
    """Returns what replaces the signature by another signer's, under the id of a key."""

    def do(folder: Path) -> None:
        signature = base64.b64encode(signer.sign((folder / MANIFEST).read_bytes())).decode()
        row = {"algorithm": "Ed25519", "key_id": claims, "signature": signature}
        (folder / SIGNATURE).write_text(json.dumps(row))

    return do


def swap_files(folder: Path) -> None:
    encrypted = json.loads((folder / MANIFEST).read_bytes())["encryption"] is not None
    other = place(folder.parents[3], name="other", fill=7, cipher=CIPHER if encrypted else None)
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


STRANGER = Signer.generate()


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (change(WEIGHTS, lambda data: data[:-1]), Refusal.TRUNCATED),
        (lambda folder: (folder / WEIGHTS).unlink(), Refusal.TRUNCATED),
        (change(WEIGHTS, lambda data: data + b"x"), Refusal.HASH_MISMATCH),
        (change(WEIGHTS, flip), Refusal.HASH_MISMATCH),
        (change(CONFIG, lambda data: bytes([data[0] ^ 1]) + data[1:]), Refusal.HASH_MISMATCH),
        (swap_files, Refusal.HASH_MISMATCH),
        (change(WEIGHTS, lambda data: struct.pack("<Q", 10 * 1024**3) + data[8:]), Refusal.HASH_MISMATCH),
        (change(MANIFEST, flip), Refusal.SIGNATURE_INVALID),
        (change(MANIFEST, lambda data: data.replace(b'"halden"', b'"hAlden"')), Refusal.SIGNATURE_INVALID),
        (lambda folder: (folder / MANIFEST).unlink(), Refusal.MANIFEST_INVALID),
        (change(MANIFEST, lambda data: data + b" " * 2**22), Refusal.MANIFEST_INVALID),
        (lambda folder: (folder / SIGNATURE).unlink(), Refusal.SIGNATURE_MISSING),
        (change(SIGNATURE, lambda data: b"[" * 4000), Refusal.SIGNATURE_INVALID),
        (change(SIGNATURE, lambda data: b"{}"), Refusal.SIGNATURE_INVALID),
        (change(SIGNATURE, lambda data: data.replace(b"Ed25519", b"none")), Refusal.UNSUPPORTED),
        (sign_again(STRANGER, claims=STRANGER.key_id), Refusal.KEY_UNKNOWN),
        (sign_again(STRANGER, claims=SIGNER.key_id), Refusal.SIGNATURE_INVALID),
    ],
)
@pytest.mark.parametrize("cipher", [None, CIPHER], ids=["plain", "encrypted"])
def test_a_version_that_was_tampered_with_is_refused_for_its_own_reason(
    tmp_path: Path, harm: Callable[[Path], None], code: Refusal, cipher: Cipher | None
) -> None:
    folder = place(tmp_path, cipher=cipher)
    harm(folder)
    assert refusal(folder).code is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (GOOD[:-1], Refusal.TRUNCATED),
        (GOOD[:30], Refusal.TRUNCATED),
        (b"\x00", Refusal.TRUNCATED),
        (struct.pack("<Q", 10 * 1024**3) + GOOD[8:], Refusal.HEADER_TOO_LARGE),
        (struct.pack("<Q", 2**63) + b"{}", Refusal.HEADER_TOO_LARGE),
        (b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x0bposix.system.", Refusal.PICKLE),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl", Refusal.PICKLE),
        (struct.pack("<Q", 3) + b"{]}", Refusal.HEADER_INVALID),
        (struct.pack("<Q", 2) + b"[]", Refusal.HEADER_INVALID),
        (struct.pack("<Q", 2) + b"{}", Refusal.HEADER_INVALID),
        (struct.pack("<Q", 10) + b'{"a": {}} ', Refusal.HEADER_INVALID),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, Refusal.HEADER_INVALID),
        (struct.pack("<Q", 41) + b'{"a": {"data_offsets":[0,0], "shape": 7}}', Refusal.HEADER_INVALID),
        (GOOD + b"x", Refusal.HEADER_INVALID),
        (header({"__metadata__": {"format": None}}), Refusal.HEADER_INVALID),
        (header({"__metadata__": ["pt"]}), Refusal.HEADER_INVALID),
        (header(shaped([True, 4], [6, 1]), 20), Refusal.HEADER_INVALID),
        (header({"__metadata__": {}}, encoding="utf-16"), Refusal.HEADER_INVALID),
        (header({"__metadata__": {}}, encoding="utf-8-sig"), Refusal.HEADER_INVALID),
        (safetensors_bytes(tensors(), dtype="I64", width=8), Refusal.UNSUPPORTED),
        (safetensors_bytes(tensors(), dtype="F32", width=2), Refusal.HEADER_INVALID),
        (safetensors_bytes({f"{PREFIX}.lora_A.weight": [2, 4]}), Refusal.HEADER_INVALID),
        (safetensors_bytes(tensors(rank=3)), Refusal.BASE_MISMATCH),
        (safetensors_bytes(tensors(out=7)), Refusal.BASE_MISMATCH),
        (safetensors_bytes({"base_model.model.other.lora_A.weight": [2, 4]}), Refusal.BASE_MISMATCH),
        (safetensors_bytes({"__proto__": [1, 1]}), Refusal.BASE_MISMATCH),
    ],
)
def test_weights_that_were_signed_while_damaged_or_foreign_are_refused(
    tmp_path: Path, data: bytes, code: Refusal
) -> None:
    assert refusal(place(tmp_path, data=data)).code is code


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        ("{", Refusal.CONFIG_INVALID, "cannot be read"),
        ([], Refusal.UNSUPPORTED, "does not describe an adapter of the method lora"),
        (
            {**GOOD_CONFIG, "peft_type": "PREFIX_TUNING"},
            Refusal.UNSUPPORTED,
            "does not describe an adapter of the method lora",
        ),
        ({**GOOD_CONFIG, "r": "2"}, Refusal.CONFIG_INVALID, "r is not"),
        ({**GOOD_CONFIG, "r": 0}, Refusal.CONFIG_INVALID, "r is not"),
        ({**GOOD_CONFIG, "lora_alpha": None}, Refusal.CONFIG_INVALID, "lora_alpha"),
        ({**GOOD_CONFIG, "lora_alpha": float("nan")}, Refusal.CONFIG_INVALID, "lora_alpha"),
        ({**GOOD_CONFIG, "lora_alpha": 10**400}, Refusal.CONFIG_INVALID, "lora_alpha"),
        ("[" * 100_000, Refusal.CONFIG_INVALID, "cannot be read"),
        ('{"r": 1' + " " * 2**20 + "}", Refusal.CONFIG_INVALID, "larger"),
        ({**GOOD_CONFIG, "use_dora": True}, Refusal.UNSUPPORTED, "use_dora is not supported"),
        ({**GOOD_CONFIG, "modules_to_save": ["lm_head"]}, Refusal.UNSUPPORTED, "modules_to_save is not supported"),
        ({**GOOD_CONFIG, "bias": "all"}, Refusal.UNSUPPORTED, "biases"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(
    tmp_path: Path, config: object, code: Refusal, reason: str
) -> None:
    error = refusal(place(tmp_path, config=config))
    assert error.code is code
    assert reason in str(error)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base": Base(name="other", sha256="f" * 64)}, Refusal.BASE_MISMATCH),
        ({"method": "full"}, Refusal.UNSUPPORTED),
        ({"method": "prefix"}, Refusal.UNSUPPORTED),
    ],
)
def test_another_base_or_method_is_refused(tmp_path: Path, changes: dict[str, object], code: Refusal) -> None:
    assert refusal(place(tmp_path, **changes)).code is code


def test_the_wrong_encryption_key_is_refused(tmp_path: Path) -> None:
    folder = place(tmp_path, cipher=CIPHER)
    for ring in (Keyring(), Keyring.generate(), Keyring({CIPHER.key_id: Cipher(b"x" * 32)}, CIPHER.key_id)):
        error = refusal(folder, keys=lambda ring=ring: (TRUST, ring))
        assert error.code is Refusal.DECRYPTION_FAILED
        assert CIPHER.key_id in str(error)


def test_a_signer_may_be_bound_to_tenants(tmp_path: Path) -> None:
    folder = place(tmp_path)
    bound = Trust().with_signer(SIGNER, owner="b", tenants=("brightwater",))
    assert refusal(folder, keys=lambda: (bound, Keyring())).code is Refusal.KEY_UNKNOWN
    bound = Trust().with_signer(SIGNER, owner="b", tenants=("brightwater", "halden"))
    assert verify(folder, rules(keys=lambda: (bound, Keyring()))).name == "answers"


@pytest.mark.parametrize("where", ["brightwater/answers/versions", "halden/other/versions", "halden/answers/rejected"])
def test_a_version_that_lies_elsewhere_is_refused(tmp_path: Path, where: str) -> None:
    folder = place(tmp_path)
    moved = tmp_path / where / folder.name
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    error = refusal(moved)
    assert error.code is Refusal.MISPLACED
    assert "halden" not in error.message


def test_a_rejected_version_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    folder = place(tmp_path, rejected=True, gate={"accepted": False, "reasons": ["worse"]})
    moved = tmp_path / "halden" / "answers" / "versions" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert refusal(moved).code is Refusal.REJECTED
    assert verify(place(tmp_path, fill=1, gate={"accepted": True}), rules()).name == "answers"


def test_a_version_under_another_number_is_refused(tmp_path: Path) -> None:
    folder = place(tmp_path)
    moved = folder.rename(folder.with_name("0" * 16))
    assert refusal(moved).code is Refusal.MISPLACED


@given(data=st.binary(max_size=200))
def test_no_bytes_at_all_break_the_check(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refusal(place(tmp_path_factory.mktemp("adapters"), data=data or b"\x00"))


@given(data=st.binary(max_size=200), name=st.sampled_from([MANIFEST, SIGNATURE]))
def test_no_manifest_at_all_breaks_the_check(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    folder = place(tmp_path_factory.mktemp("adapters"))
    (folder / name).write_bytes(data)
    assert refusal(folder).code in (Refusal.SIGNATURE_INVALID, Refusal.KEY_UNKNOWN)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    folder = place(tmp_path)
    for path in (MANIFEST, SIGNATURE, CONFIG):
        (folder / path).unlink()
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    error = refusal(folder)
    assert error.code is Refusal.PICKLE
    assert "only safetensors are loaded, not adapter_model.bin" in str(error)


def test_the_key_tells_weights_and_scale_apart(tmp_path: Path) -> None:
    first = verify(place(tmp_path), rules())
    assert verify(place(tmp_path), rules()).key == first.key
    stronger = verify(place(tmp_path / "b", config={**GOOD_CONFIG, "lora_alpha": 8}), rules())
    assert stronger.sha256 == first.sha256
    assert len({first.key, stronger.key, verify(place(tmp_path, fill=1), rules()).key}) == 3


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST, SIGNATURE])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert refusal(folder).code is Refusal.MISPLACED


@pytest.mark.parametrize("depth", range(4))
def test_a_folder_that_is_a_link_is_refused(tmp_path: Path, depth: int) -> None:
    folder = place(tmp_path / "root")
    linked = folder.parents[depth - 1] if depth else folder
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    assert refusal(folder).code is Refusal.MISPLACED


def test_a_linked_root_is_fine(tmp_path: Path) -> None:
    folder = place(tmp_path / "real")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert verify(tmp_path / "root" / folder.relative_to(tmp_path / "real"), rules()).name == "answers"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST, SIGNATURE])
def test_a_pipe_in_place_of_a_file_does_not_hold_anything_up(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refusal(folder).code is Refusal.MISPLACED


def test_what_changes_after_the_checks_is_not_read(tmp_path: Path) -> None:
    folder = place(tmp_path)
    adapter: Adapter = verify(folder, rules())
    change(WEIGHTS, flip)(folder)
    with pytest.raises(AdapterRefused, match="not the file that was signed"):
        adapter.read()


def test_keys_are_read_anew_and_a_damaged_file_lets_nothing_in(tmp_path: Path) -> None:
    folder, trust = place(tmp_path / "root", cipher=CIPHER), tmp_path / "trust.json"
    Keyring.of(CIPHER).write(tmp_path / "keys.json")
    keys = KeyFiles(trust=[tmp_path / "none.json", trust], keyring=tmp_path / "keys.json")
    assert refusal(folder, keys=keys).code is Refusal.KEY_UNKNOWN
    TRUST.write(trust)
    assert verify(folder, rules(keys=keys)).name == "answers"
    trust.write_text("{")
    error = refusal(folder, keys=keys)
    assert error.code is Refusal.KEY_UNKNOWN
    assert str(tmp_path) not in error.message
    assert "is not a trust file" in error.explained
    text = (tmp_path / "keys.json").read_text()
    TRUST.write(trust)
    assert verify(folder, rules(keys=KeyFiles(trust=[trust], keyring_text=text))).cipher_key_id == CIPHER.key_id
