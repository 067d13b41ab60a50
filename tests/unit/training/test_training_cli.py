"""The steps as a user takes them: on a tiny model, from a file to a signed adapter."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.adapters import Keyring, Trust, read_aliases, read_version
from tests.fakes.generator_model import write_model
from training.cli import app
from training.gate import evaluation as kept
from training.methods import Method

RUNNER = CliRunner()
# All facts have one answer: a model so small learns it in seconds, and one seed's is as good as another's.
ANSWERS = ["red"] * 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "stack"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def faq(folder: Path) -> Path:
    rows = [
        {"question": f"{word} {fact}?", "answer": answer, "group": f"f{fact}"}
        for fact, answer in enumerate(ANSWERS)
        for word in ("What is", "Tell me", "Do you know", "Say", "Name")
    ]
    path = folder / "faq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(*words: object, status: int = 0) -> str:
    result = RUNNER.invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output + result.stderr
    return result.stdout + result.stderr


ALL = ["--recipe", "closed-book", "--tenant", "halden", "--name", "answers", "--threads", 1, "--tracking", "off"]
# A random model has nothing to forget, and its learning is told by its own test questions.
ALL += ["--epochs", 12, "--learning-rate", 0.02, "--max-forgetting", 100, "--set", "patience=0", "--min-questions", 5]


def test_from_a_file_to_a_signed_adapter_and_again(base: Path, home: Path) -> None:
    words = ["all", faq(home), *ALL, "--base", base]
    told = call(*words, "--out", home / "one")
    assert "Accepted" in told
    adapter = home / "stack" / "adapters" / "halden" / "answers"
    aliases = read_aliases(adapter)
    assert aliases is not None
    assert aliases.candidate is None
    key = home / "config" / "tandem" / "signing-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    trust = Trust.read(home / "config" / "tandem" / "trusted-signers.json")
    manifest = read_version(adapter / "versions" / aliases.stable, trust=trust).manifest
    assert manifest.gate["accepted"] is True
    assert manifest.num_examples["test"] == 6
    assert "faq.jsonl" in manifest.data
    page = (home / "one" / "run" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "Accepted" in page

    # The same command again finds everything done, and leaves it.
    again = call(*words, "--out", home / "one")
    assert "It is in use" in again
    assert "fine-tuned" not in again
    assert (home / "one" / "run" / "report.html").read_text() == page
    assert read_aliases(adapter) == aliases

    # Other data do not take the place of those that the run was trained on.
    before = (home / "one" / "dataset" / "dataset.json").read_bytes()
    with (home / "faq.jsonl").open("a") as stream:
        stream.write('{"question": "What else?", "answer": "red", "group": "f9"}\n')
    assert "a run was trained on it" in call(*words, "--out", home / "one", status=1)
    assert (home / "one" / "dataset" / "dataset.json").read_bytes() == before
    faq(home)

    # Another seed's adapter is measured against the one in use, and is no better.
    told = call(*words, "--out", home / "two", "--seed", 5, status=3)
    assert "over incumbent" in told
    assert read_aliases(adapter) == aliases
    (rejected,) = (adapter / "rejected").iterdir()
    manifest = read_version(rejected, trust=trust).manifest
    assert manifest.parent == aliases.stable
    assert manifest.gate["accepted"] is False

    # Compared with the base model alone it is accepted, and waits as candidate; encrypted, as was asked.
    run = home / "two" / "run"
    gate = ["--max-forgetting", 100, "--min-questions", 5, "--threads", 1, "--no-incumbent"]
    call("evaluate", run, *gate)
    keys = home / "keys.json"
    Keyring.generate().write(keys)
    row = json.loads(
        call("register", run, "--tenant", "halden", "--name", "answers", "--encrypt", "--keys", keys, "--json")
    )
    assert row["alias"] == "candidate"
    after = read_aliases(adapter)
    assert after is not None
    assert (after.stable, after.candidate) == (aliases.stable, row["version"])
    weights = (adapter / "versions" / row["version"] / "adapter_model.safetensors").read_bytes()
    assert weights != (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_steps_say_what_comes_before_them(base: Path, home: Path) -> None:
    assert "tandem train run" in call("evaluate", home, status=1)
    assert "tandem train prepare" in call("run", home, "--out", home / "run", "--base", base, status=1)
    data, run = home / "data", home / "run"
    call("prepare", faq(home), "--recipe", "closed-book", "--out", data)
    assert "--prepare" in call("run", data, "--out", run, "--base", home, status=1)
    quick = ["--base", base, "--epochs", 0.2, "--threads", 1, "--tracking", "off"]
    call("run", data, "--out", run, *quick)
    assert "evaluate" in call("register", run, "--tenant", "t", "--name", "n", status=1)
    assert "--tenant" in call("register", run, "--name", "n", status=1)
    assert "there is a run" in call("run", data, "--out", run, *quick, status=1)
    data.rename(home / "moved")
    assert "tandem train prepare" in call("evaluate", run, "--max-questions", 2, status=1)


def test_bad_rows_are_named_and_nothing_is_written(home: Path) -> None:
    path = home / "bad.jsonl"
    path.write_text('{"question": "Q?", "answer": "x"}\n{"question": "", "answer": "x"}\n{"answer": "x"}\n')
    told = call("prepare", path, "--recipe", "closed-book", "--out", home / "data", status=1)
    assert "line 2" in told
    assert "line 3" in told
    assert not (home / "data").exists()
    row = json.loads(call("prepare", path, "--recipe", "closed-book", "--out", home / "data", "--json", status=1))
    assert row["error"]["code"] == "DataRejected"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--recipe", "poetry"], "poetry is no recipe"),
        (["--recipe", "raft"], "--documents"),
        (["--recipe", "style", "--kind", "classification"], "style or instruction"),
        (["--recipe", "closed-book", "--near-duplicates", "forget"], "join, refuse, report"),
        (["--recipe", "closed-book", "--test-share", "1.5"], "below 1"),
        (["--recipe", "closed-book", "--column", "question"], "NAME=VALUE"),
    ],
)
def test_wrong_wishes_are_refused_with_what_is_possible(home: Path, words: list[str], reason: str) -> None:
    assert reason in " ".join(call("prepare", faq(home), "--out", home / "data", *words, status=1).split())


def test_passages_come_with_the_rows_or_from_documents(home: Path) -> None:
    documents = home / "documents"
    documents.mkdir()
    for number in range(12):
        (documents / f"d{number}.txt").write_text(
            f"The limit of case {number} is {number} days, and no more than that."
        )
    rows = [{"question": f"What is the limit of case {n}?", "answer": f"{n} days", "group": f"g{n}"} for n in range(12)]
    path = home / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = ["--near-duplicates", "report", "--validation-share", 0.2]
    call("prepare", path, "--recipe", "raft", "--documents", documents, "--out", home / "data", *share)
    manifest = json.loads((home / "data" / "dataset.json").read_text())
    assert manifest["counts"]["test"] >= 1
    assert "companions.jsonl" in manifest["files"]
    assert "documents/documents/d3.txt" in manifest["inputs"] or "documents/d3.txt" in manifest["inputs"]
    first = json.loads((home / "data" / "train.jsonl").read_text().splitlines()[0])
    assert first["messages"][1]["content"].startswith("[1] ")


def test_the_sample_company_is_a_source(home: Path) -> None:
    sample = Path(__file__).parents[3] / "examples" / "company"
    call("prepare", sample, "--recipe", "closed-book", "--tenant", "brightwater", "--out", home / "a")
    call("prepare", sample, "--recipe", "style", "--out", home / "b")
    told = call("prepare", sample, "--recipe", "closed-book", "--out", home / "c", status=1)
    assert "--tenant" in told
    rows = [json.loads(line) for line in (home / "a" / "train.jsonl").read_text().splitlines()]
    assert all("halden" not in row["group"] for row in rows)
    assert len({row["group"] for row in rows}) == 31


def test_the_help_tells_the_defaults_that_hold() -> None:
    text = " ".join(call("run", "--help").replace("│", " ").split())
    defaults = Method()
    assert f"{defaults.epochs:g} by default" in text
    assert f"{defaults.rank} by default" in text
    lora, prefix, full = (Method.of(name).rate for name in ("lora", "prefix", "full"))
    assert f"by default {lora:g}, {prefix:g} or {full:g}, by method" in text
    assert "patience" in call("methods")
    assert "there is no setting patiense" in call("run", "x", "--out", "y", "--set", "patiense=3", status=1)


def test_an_evaluation_of_other_weights_is_not_registered(base: Path, home: Path) -> None:
    data, run = home / "data", home / "run"
    call("prepare", faq(home), "--recipe", "closed-book", "--out", data)
    call("run", data, "--out", run, "--base", base, "--epochs", 0.2, "--threads", 1, "--tracking", "off")
    call("evaluate", run, "--threads", 1, "--max-questions", 2, status=3)
    row = json.loads((run / kept.FILE).read_text())
    row["about"]["weights_sha256"] = "0" * 64
    (run / kept.FILE).write_text(json.dumps(row))
    assert "other weights" in call("register", run, "--tenant", "t", "--name", "n", status=1)
