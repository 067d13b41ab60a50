"""The command line without a server: what it reads, and how it fails."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.cli import app as root
from tandem.cli import documents, sample
from tandem.cli.output import printable
from tandem.cli.search import conditions
from tandem.cli.session import target
from tandem.errors import ConfigError, InvalidInput
from tandem.stack import DEVELOPER, Home, prepare

SAMPLE = Path("examples/company")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    return Home(tmp_path)


def test_a_folder_is_walked_and_ids_come_from_paths(tmp_path: Path) -> None:
    (tmp_path / "Claims").mkdir()
    (tmp_path / "Claims" / "First Call.MD").write_text("# First call")
    (tmp_path / "skip.exe").write_bytes(b"MZ")
    found = list(documents.find(tmp_path, groups=["legal"]))
    assert [(item.document_id, item.source, item.groups) for item in found] == [
        ("claims-first-call.md", "First Call.MD", ("legal",))
    ]


def test_the_sample_gives_each_tenant_its_documents_and_an_editor() -> None:
    company = sample.read(SAMPLE)
    uploads = company.uploads()
    assert set(uploads) == {"halden", "brightwater"}
    for tenant in uploads:
        assert company.principals[company.editor(tenant)].tenant == tenant


def test_a_document_of_the_sample_is_valid_through_its_last_day() -> None:
    rows = [json.loads(line) for line in (SAMPLE / "manifest.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["valid_until"] and row["tenant"] == "halden")
    upload = next(u for u in sample.read(SAMPLE).uploads()["halden"] if u.document_id == row["document_id"])
    last = datetime.fromisoformat(row["valid_until"]).replace(tzinfo=UTC, hour=23, minute=59)
    assert upload.valid_until is not None
    assert last < upload.valid_until


def test_a_folder_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a sample company"):
        sample.read(tmp_path)


def test_the_token_of_the_named_principal_is_presented(home: Home) -> None:
    prepare(home, DEVELOPER)
    assert target("router", "dev").token == json.loads(home.credentials.read_text())["dev"]
    with pytest.raises(ConfigError, match="known are dev"):
        target("router", "nobody")


def test_without_tokens_the_way_to_get_them_is_told(home: Home) -> None:
    with pytest.raises(ConfigError, match="tandem up"):
        target("router", None)


def test_a_misspelt_variable_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_ROUTR", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="TANDEM_ROUTER"):
        target("router", None)


def test_every_command_explains_itself_and_takes_json() -> None:
    runner = CliRunner()
    for command in (
        "advise",
        "ask",
        "domains",
        "policies",
        "ingest",
        "search",
        "documents",
        "show",
        "delete",
        "embed",
        "generate",
        "score",
        "adapters",
        "adapters list",
        "adapters load",
        "adapters unload",
        "adapters canary",
        "adapters promote",
        "adapters rollback",
        "jobs",
        "jobs list",
        "jobs show",
        "jobs cancel",
        "snapshots",
        "snapshots list",
        "snapshots create",
        "snapshots diff",
        "snapshots promote",
        "snapshots roll-back",
        "snapshots delete",
    ):
        result = runner.invoke(root.app, [*command.split(), "--help"])
        assert result.exit_code == 0
        assert "--json" in result.output, command


@pytest.mark.parametrize("words", ["adapters --as bea unload x", "jobs --as bea cancel x", "snapshots --json delete x"])
def test_options_before_the_subcommand_are_not_silently_dropped(words: str) -> None:
    result = CliRunner().invoke(root.app, words.split(), env={"TANDEM_TOKEN": "t"})
    assert result.exit_code == 2
    assert f"options go after {words.split()[-2]}" in result.output


def test_a_wrong_date_names_the_option() -> None:
    for command in ("ask", "search"):
        result = CliRunner().invoke(root.app, [command, "When?", "--as-of", "tomorrow"], env={"TANDEM_TOKEN": "t"})
        assert isinstance(result.exception, InvalidInput)
        assert result.exception.violations[0].field == "--as-of"


def test_conditions_are_read_as_they_are_written() -> None:
    found = [(one.key, list(one.values), one.excluded) for one in conditions(["kind", "kind=a=b", "kind!=", "é x!=!"])]
    assert found == [("kind", [], False), ("kind", ["a=b"], False), ("kind", [""], True), ("é x", ["!"], True)]
    for term in ("", "=a", "!=a", "kind!a"):
        with pytest.raises(InvalidInput) as caught:
            conditions([term])
        assert caught.value.violations[0].field == "--where"


def test_tokens_are_never_drawn_over_others(tmp_path: Path) -> None:
    principals = tmp_path / "principals.json"
    principals.write_text('{"ann": {"subject": "ann", "tenant": "acme", "roles": ["user"]}}')
    runner = CliRunner()
    first = runner.invoke(root.app, ["tokens", "create", str(principals), "--out", str(tmp_path / "out"), "--json"])
    assert json.loads(first.output)["principals"] == ["ann"]
    second = runner.invoke(root.app, ["tokens", "create", str(principals), "--out", str(tmp_path / "out")])
    assert isinstance(second.exception, ConfigError)


def test_what_a_document_or_a_model_says_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\x9b1mc\u202ed\ne\tf é") == "a[2Jb1mcd\ne\tf é"
