"""What may go into an adapter: open, static facts of one tenant, and no held-out wording."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.company import read_company


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fact(name: str, document: str, tenant: str = "halden", volatility: str = "static", **more: Any) -> dict[str, Any]:
    return {"fact_id": name, "tenant": tenant, "document_id": document, "volatility": volatility, "groups": [], **more}


def asked(name: str, tenant: str = "halden", history: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "fact_id": name,
        "tenant": tenant,
        "question": f"What is {name}?",
        "answers": [f"answer {name}"],
        "history": list(history),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = [("open", "halden", []), ("closed", "halden", ["legal"]), ("theirs", "brightwater", [])]
    manifest = [{"document_id": d, "tenant": t, "groups": g, "path": f"{d}.md"} for d, t, g in documents]
    facts = [
        fact("a", "open"),
        fact("b", "closed", groups=["legal"]),
        fact("c", "open", volatility="volatile"),
        fact("d", "theirs", tenant="brightwater"),
        fact("e", "closed"),
    ]
    write(tmp_path / "manifest.jsonl", manifest)
    write(tmp_path / "facts.jsonl", facts)
    paraphrases = [{"fact_id": f["fact_id"], "question": "Q", "answer": "x", "answers": ["x", "the x"]} for f in facts]
    write(tmp_path / "questions/paraphrases.jsonl", paraphrases)
    rows = [asked("a"), asked("b"), asked("d", tenant="brightwater"), asked("a", history=("earlier",)), asked("e")]
    for split in ("train", "calibration", "test"):
        write(tmp_path / f"questions/{split}.jsonl", rows)
    return tmp_path


def test_only_open_static_facts_of_the_tenant_are_learnt(folder: Path) -> None:
    halden = read_company(folder, "halden")
    assert set(halden.facts) == {"a"}
    assert [question.fact_id for question in halden.paraphrases] == ["a"]
    assert halden.paraphrases[0].answers == ("x", "x", "the x")
    assert set(read_company(folder, "brightwater").facts) == {"d"}


def test_held_out_wordings_stand_alone_and_are_about_learnt_facts(folder: Path) -> None:
    company = read_company(folder, "halden")
    assert [question.text for question in company.wordings("test")] == ["What is a?"]


def test_every_file_that_was_read_is_hashed(folder: Path) -> None:
    hashes = read_company(folder, "halden").hashes
    assert set(hashes) >= {"facts.jsonl", "questions/paraphrases.jsonl", "manifest.jsonl"}
    assert all(len(digest) == 64 for digest in hashes.values())


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "facts.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="facts"):
        read_company(folder, "halden")
