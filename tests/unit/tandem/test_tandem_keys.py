"""`tandem keys`: from a new key to an adapter that is trusted."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.adapters import WEIGHTS, Keyring, Signer, Trust
from tandem.cli import app as root
from tandem.config import signing_key_file, trust_file
from tandem.errors import ConfigError
from tests.fakes.adapter_versions import publish


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(root.app, ["keys", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert isinstance(found, dict)
    return found


def test_the_users_key_signs_what_the_user_trusts(tmp_path: Path) -> None:
    shown = run("signing")
    assert run("signing") == shown
    signer = Signer.read(signing_key_file())
    folder = publish(tmp_path / "registry", {WEIGHTS: b"w"}, signer=signer)
    with pytest.raises(ConfigError, match=r"no trust file holds \(KEY_UNKNOWN\)"):
        run("check", str(folder))
    assert run("trust", "--owner", "me")["key_id"] == shown["key_id"] == signer.key_id
    checked = run("check", str(folder))
    assert (checked["signer_key_id"], checked["adapter"]) == (signer.key_id, f"halden/answers@{folder.name}")
    (folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(ConfigError, match="HASH_MISMATCH"):
        run("check", str(folder))
    assert run("distrust", signer.key_id)["left"] == []
    with pytest.raises(ConfigError, match="holds no key"):
        run("distrust", signer.key_id)


def test_anothers_key_is_trusted_for_its_tenants_beside_the_others(tmp_path: Path) -> None:
    run("trust")
    public = str(run("signing", "--file", str(tmp_path / "other.pem"))["public"])
    row = run("trust", public, "--tenant", "a", "--tenant", "b", "--owner", "Ann")
    keys = Trust.read(trust_file()).keys
    assert len(keys) == 2
    assert (keys[str(row["key_id"])].tenants, keys[str(row["key_id"])].owner) == (("a", "b"), "Ann")
    for wrong in ("!!", "AAAA"):
        with pytest.raises(ConfigError, match="public key"):
            run("trust", wrong)


def test_a_new_encryption_key_leaves_the_old_in_place(tmp_path: Path) -> None:
    ring = tmp_path / "ring.json"
    first = run("encryption", str(ring))["current"]
    second = run("encryption", str(ring))
    assert second["current"] != first
    assert set(Keyring.read(ring).ciphers) == {first, second["current"]}
    folder = publish(tmp_path / "registry", {WEIGHTS: b"w"}, cipher=Keyring.read(ring).cipher(), signer=_trusted())
    with pytest.raises(ConfigError, match="DECRYPTION_FAILED"):
        run("check", str(folder))
    assert run("check", str(folder), "--keyring", str(ring))["cipher"] == "AES-256-GCM"


def _trusted() -> Signer:
    run("trust")
    return Signer.read(signing_key_file())
