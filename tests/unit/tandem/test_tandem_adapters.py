"""Signed versions on disk, the keys that guard them, and the aliases that name them."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.adapters import (
    ALIASES,
    MANIFEST,
    WEIGHTS,
    AdapterRefused,
    Aliases,
    Cipher,
    FileEntry,
    Keyring,
    Manifest,
    Refusal,
    Signer,
    Trust,
    read_aliases,
    read_version,
    version_folder,
    write_aliases,
    write_version,
)
from tandem.errors import ConfigError
from tests.fakes.adapter_versions import CIPHER, SIGNER, TRUST, manifest, publish

FILES = {WEIGHTS: b"weights", "adapter_config.json": b"{}", "report.html": b"<html>"}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("cipher", [None, CIPHER], ids=["plain", "encrypted"])
def test_what_is_written_is_read(tmp_path: Path, cipher: Cipher | None) -> None:
    folder = publish(tmp_path, FILES, cipher=cipher, metrics={"f1": 0.5}, parent="a" * 16)
    opened = read_version(folder, trust=TRUST, ciphers=Keyring.of(CIPHER))
    assert {name: opened.read(name) for name in FILES} == FILES
    assert (opened.key_id, opened.cipher) == (SIGNER.key_id, (cipher and "AES-256-GCM") or "")
    assert (opened.manifest.metrics, opened.manifest.parent) == ({"f1": 0.5}, "a" * 16)
    on_disk = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert on_disk.keys() == FILES.keys() | {MANIFEST, "manifest.sig"}
    assert all((on_disk[name] == FILES[name]) is (cipher is None) for name in FILES)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_files_are_copied_from_paths(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"w" * 3_000_000)
    for number, cipher in enumerate((None, CIPHER)):
        made = manifest(b"w" * 3_000_000, name=f"n{number}")
        folder = version_folder(tmp_path, tenant="halden", name=made.name, version=made.version)
        written = write_version(folder, made, {WEIGHTS: tmp_path / "made"}, signer=SIGNER, cipher=cipher)
        assert written.files[WEIGHTS].size == (folder / WEIGHTS).stat().st_size
        opened = read_version(folder, trust=TRUST, ciphers=Keyring.of(CIPHER))
        assert opened.manifest == written
        assert opened.read(WEIGHTS) == b"w" * 3_000_000


def test_a_version_is_written_once(tmp_path: Path) -> None:
    publish(tmp_path, FILES)
    made = manifest(FILES[WEIGHTS])
    folder = version_folder(tmp_path, tenant="halden", name="answers", version=made.version)
    with pytest.raises(FileExistsError, match="already there"):
        write_version(folder, made, FILES, signer=SIGNER)


def test_a_version_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    made = manifest(b"other weights")
    folder = version_folder(tmp_path, tenant="halden", name="answers", version=made.version)
    with pytest.raises(ValueError, match="not those of the manifest"):
        write_version(folder, made, FILES, signer=SIGNER)
    with pytest.raises(FileNotFoundError):
        write_version(folder, made, {WEIGHTS: tmp_path / "nowhere"}, signer=SIGNER)
    with pytest.raises(AdapterRefused) as caught:
        write_version(folder, made, {WEIGHTS: b"other weights", "model.bin": b""}, signer=SIGNER)
    assert caught.value.code is Refusal.PICKLE
    assert list(folder.parent.iterdir()) == []
    with pytest.raises(ValueError, match="lies in"):
        write_version(folder.with_name("0" * 16), made, {WEIGHTS: b"other weights"}, signer=SIGNER)


def test_of_writers_at_once_one_wins(tmp_path: Path) -> None:
    made = manifest(FILES[WEIGHTS])
    folder = version_folder(tmp_path, tenant="halden", name="answers", version=made.version)
    barrier, outcomes = threading.Barrier(4), []

    def write() -> None:
        barrier.wait(timeout=30)
        try:
            write_version(folder, made, FILES, signer=SIGNER)
            outcomes.append("written")
        except FileExistsError:
            outcomes.append("there")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["there", "there", "there", "written"]
    assert read_version(folder, trust=TRUST).read(WEIGHTS) == FILES[WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("tenant", "name", "version"), [("..", "n", "0" * 16), ("t", "a/b", "0" * 16), ("t", "n", "..")]
)
def test_a_place_outside_the_registry_has_no_folder(tmp_path: Path, tenant: str, name: str, version: str) -> None:
    with pytest.raises(ValueError, match="does not name a version"):
        version_folder(tmp_path, tenant=tenant, name=name, version=version)


def test_one_ciphertext_does_not_stand_in_for_another(tmp_path: Path) -> None:
    """Even whoever holds the signing key cannot pass one encrypted file off as another."""
    folder = publish(tmp_path, {WEIGHTS: b"same size", "other.json": b"same_size"}, cipher=CIPHER)
    opened = read_version(folder, trust=TRUST, ciphers=Keyring.of(CIPHER))
    encryption = opened.manifest.encryption
    assert encryption is not None
    swapped = {WEIGHTS: "other.json", "other.json": WEIGHTS}
    forged = replace(
        opened.manifest,
        files={name: opened.manifest.files[other] for name, other in swapped.items()},
        encryption=replace(encryption, nonces={name: encryption.nonces[other] for name, other in swapped.items()}),
    )
    data = {name: (folder / name).read_bytes() for name in swapped}
    for name, other in swapped.items():
        (folder / name).write_bytes(data[other])
    with pytest.raises(AdapterRefused) as caught:
        replace(opened, manifest=forged).read(WEIGHTS)
    assert caught.value.code is Refusal.DECRYPTION_FAILED


def test_nonces_are_never_used_twice(tmp_path: Path) -> None:
    seen = []
    for number in range(5):
        folder = publish(tmp_path, FILES, name=f"n{number}", cipher=CIPHER)
        seen += json.loads((folder / MANIFEST).read_bytes())["encryption"]["nonces"].values()
    assert len(set(seen)) == 15


@given(config=st.dictionaries(st.text(), JSON, max_size=3))
def test_a_manifest_survives_its_text(config: dict[str, object]) -> None:
    made = manifest(b"w", config=config)
    text = made.to_bytes()
    again = Manifest.from_bytes(text)
    assert again == made
    assert again.to_bytes() == text


@pytest.mark.parametrize(
    "edit",
    [
        {"tenant": "../x"},
        {"name": ""},
        {"name": "a@b"},
        {"method": "magic"},
        {"created": "yesterday"},
        {"created": "2026-11-22T10:00:00+02:00"},
        {"created": "2026-11-22T10:00:00"},
        {"base": {"name": "b"}},
        {"base": {"name": "b", "sha256": "x"}},
        {"base": None},
        {"weights_sha256": "f" * 63},
        {"weights_sha256": "f" * 64},
        {"version": "0" * 16},
        {"parent": "..", "schema": 1},
        {"data": {"a": 1}},
        {"num_examples": {"train": -1}},
        {"num_examples": {"train": True}},
        {"config": []},
        {"files": {"../x": {"sha256": "0" * 64, "size": 1}}},
        {"files": {MANIFEST: {"sha256": "0" * 64, "size": 1}}},
        {"files": {"a": {"sha256": "0" * 64, "size": "1"}}},
        {"files": {"a": {"sha256": "0" * 64, "size": -1}}},
        {"files": []},
        {"encryption": {"key_id": "0" * 16, "nonces": {"a": "AAAA"}}},
        {"encryption": {"key_id": "0", "nonces": {}}},
        {"surprise": 1},
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(edit: dict[str, object]) -> None:
    row = json.loads(manifest(b"w").to_bytes()) | edit
    with pytest.raises(AdapterRefused) as caught:
        Manifest.from_bytes(json.dumps(row).encode())
    assert caught.value.code is Refusal.MANIFEST_INVALID


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]x", b"[" * 100_000, b'{"schema":1,"schema":1}', b'{"a":NaN}'])
def test_what_is_no_json_is_no_manifest(text: bytes) -> None:
    with pytest.raises(AdapterRefused) as caught:
        Manifest.from_bytes(text)
    assert caught.value.code is Refusal.MANIFEST_INVALID


def test_later_schemas_and_ciphers_are_told_apart() -> None:
    row = json.loads(manifest(b"w").to_bytes())
    for edit in ({"schema": 2}, {"encryption": {"key_id": "0" * 16, "nonces": {}, "cipher": "ROT13"}}):
        with pytest.raises(AdapterRefused) as caught:
            Manifest.from_bytes(json.dumps(row | edit).encode())
        assert caught.value.code is Refusal.UNSUPPORTED
    with pytest.raises(AdapterRefused):
        manifest(b"w", files={"model.pkl": FileEntry(sha256="0" * 64, size=1)})


def test_a_signing_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    first = Signer.read_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.read_or_make(path).key_id == first.key_id
    Signer.generate().write(path)
    assert Signer.read(path).key_id == first.key_id
    assert [file.name for file in path.parent.iterdir()] == ["key.pem"]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Signer.read(path)


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_signing_key_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.pem"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key"):
        Signer.read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Signer.read(tmp_path / "none.pem")


def test_trust_files_are_read_as_one(tmp_path: Path) -> None:
    other = Signer.generate()
    TRUST.write(tmp_path / "a.json")
    Trust().with_signer(other, owner="o", tenants=("halden",)).write(tmp_path / "b.json")
    trust = Trust.read_all([tmp_path / "a.json", tmp_path / "none.json", tmp_path / "b.json"])
    assert trust.keys == TRUST.keys | Trust().with_signer(other, owner="o", tenants=("halden",)).keys


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"keys": []}',
        '{"keys": {"a": {}}}',
        '{"keys": {"a": {"public": "AAAA"}}}',
        json.dumps({"keys": {"0" * 16: {"public": "A" * 43 + "="}}}),
    ],
)
def test_a_damaged_trust_file_or_keyring_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ConfigError):
        Trust.read(tmp_path / "file.json")
    with pytest.raises(ConfigError):
        Keyring.read(tmp_path / "file.json")


def test_a_keyring_keeps_old_keys_and_names_the_current(tmp_path: Path) -> None:
    old, new = Keyring.generate().cipher(), Keyring.generate().cipher()
    ring = Keyring.of(new, old)
    ring.write(tmp_path / "ring.json")
    assert (tmp_path / "ring.json").stat().st_mode & 0o777 == 0o600
    assert Keyring.read(tmp_path / "ring.json") == ring
    assert Keyring.parse((tmp_path / "ring.json").read_bytes(), source="X").cipher().key_id == new.key_id
    with pytest.raises(ConfigError, match="no current key"):
        Keyring().cipher()
    with pytest.raises(ConfigError, match=r'X: "current"'):
        Keyring.parse('{"keys": {}, "current": "a"}', source="X")


def test_keys_do_not_show_in_text() -> None:
    ring = Keyring.of(CIPHER)
    assert repr(CIPHER.key)[2:20] not in repr(ring)
    with pytest.raises(ConfigError) as caught:
        Keyring.parse('{"keys": {"c2VjcmV0c2VjcmV0c2VjcmV0": "c2VjcmV0"}}', source="X")
    assert "c2VjcmV0c2VjcmV0c2VjcmV0" not in str(caught.value)


def test_aliases_are_replaced_in_one_step(tmp_path: Path) -> None:
    assert read_aliases(tmp_path) is None
    first = Aliases(stable="a" * 16)
    write_aliases(tmp_path, first)
    assert read_aliases(tmp_path) == first
    second = Aliases(stable="b" * 16, candidate="c" * 16, canary_share=0.25, history=("a" * 16,))
    write_aliases(tmp_path, second)
    assert read_aliases(tmp_path) == second
    assert [path.name for path in tmp_path.iterdir()] == [ALIASES]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"stable": null}',
        '{"stable": "../../etc"}',
        '{"stable": "aaaaaaaaaaaaaaaa", "candidate": "x"}',
        '{"stable": "aaaaaaaaaaaaaaaa", "canary_share": 1.5}',
        '{"stable": "aaaaaaaaaaaaaaaa", "canary_share": NaN}',
        '{"stable": "aaaaaaaaaaaaaaaa", "canary_share": true}',
        '{"stable": "aaaaaaaaaaaaaaaa", "history": "aaaa"}',
        '{"stable": "aaaaaaaaaaaaaaaa", "history": 7}',
        "[" * 100_000,
        " " * 2**21,
    ],
)
def test_damaged_aliases_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ALIASES).write_text(text)
    with pytest.raises(AdapterRefused) as caught:
        read_aliases(tmp_path)
    assert caught.value.code is Refusal.ALIASES_INVALID


def test_a_pipe_for_aliases_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ALIASES)
    with pytest.raises(AdapterRefused):
        read_aliases(tmp_path)


MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17])
def test_what_is_encrypted_in_one_piece_opens_in_pieces_and_only_whole(size: int) -> None:
    plain = bytes(range(256)) * (size // 256) + bytes(size % 256)
    nonce, sealed = CIPHER.encrypt(plain, b"place")
    assert CIPHER.decrypt(nonce, sealed, b"place") == plain
    for place in {0, size // 2, len(sealed) - 1}:
        harmed = bytearray(sealed)
        harmed[place] ^= 1
        assert CIPHER.decrypt(nonce, bytes(harmed), b"place") is None
    for wrong in ((nonce, sealed[:-1], b"place"), (nonce, sealed, b"other"), (bytes(12), sealed, b"place")):
        assert CIPHER.decrypt(*wrong) is None
    assert Cipher(b"?" * 32).decrypt(nonce, sealed, b"place") is None


@pytest.mark.parametrize("sealed", [b"", b"x" * 15, b"x" * 16])
def test_what_is_too_short_to_be_encrypted_does_not_open(sealed: bytes) -> None:
    assert CIPHER.decrypt(bytes(12), sealed, b"") is None
