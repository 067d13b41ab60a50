"""What may go into an adapter: open, static facts of one tenant, and no held-out wording."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.company import CompanyInvalid, is_company, read_company, read_style

SAMPLE = Path(__file__).parents[3] / "examples" / "company"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fact(name: str, document: str, tenant: str = "halden", volatility: str = "static", **more: Any) -> dict[str, Any]:
    return {"fact_id": name, "tenant": tenant, "document_id": document, "volatility": volatility, "groups": [], **more}


def asked(
    name: str, tenant: str = "halden", history: tuple[str, ...] = (), gold: str | None = "open"
) -> dict[str, Any]:
    return {
        "question_id": f"{name}.1",
        "fact_id": name,
        "tenant": tenant,
        "question": f"What is {name}?",
        "answers": [f"answer {name}"],
        "gold_documents": [gold] if gold else [],
        "history": list(history),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = [("open", "halden", []), ("closed", "halden", ["legal"]), ("theirs", "brightwater", [])]
    row = {"title": "T", "valid_until": None}
    manifest = [{"document_id": d, "tenant": t, "groups": g, "path": f"{d}.md", **row} for d, t, g in documents]
    for name, _, _ in documents:
        (tmp_path / f"{name}.md").write_text(f"Text of {name}.")
    facts = [
        fact("a", "open"),
        fact("b", "closed", groups=["legal"]),
        fact("c", "open", volatility="volatile"),
        fact("d", "theirs", tenant="brightwater"),
        fact("e", "closed"),
    ]
    write(tmp_path / "manifest.jsonl", manifest)
    write(tmp_path / "facts.jsonl", facts)
    paraphrases = [
        {"paraphrase_id": f"{f['fact_id']}.p", "fact_id": f["fact_id"], "question": "Q", "answer": "x"} for f in facts
    ]
    write(tmp_path / "questions/paraphrases.jsonl", [{**row, "answers": ["x", "the x"]} for row in paraphrases])
    rows = [asked("a"), asked("b", gold="closed"), asked("d", tenant="brightwater"), asked("a", history=("earlier",))]
    rows += [asked("e", gold="closed"), asked("nothing", gold=None)]
    for split in ("train", "calibration", "test"):
        write(tmp_path / f"questions/{split}.jsonl", rows)
    return tmp_path


def test_only_open_static_facts_of_the_tenant_are_learnt(folder: Path) -> None:
    halden = read_company(folder, "halden").closed_book()
    assert [(row.group, row.answers) for row in halden["train"]] == [("a", ("x", "the x"))] * 2
    theirs = read_company(folder, "brightwater")
    assert set(theirs.facts) == {"d"}


def test_held_out_wordings_stand_alone_and_are_about_learnt_facts(folder: Path) -> None:
    splits = read_company(folder, "halden").closed_book()
    assert [row.question for row in splits["test"]] == ["What is a?"]
    assert [row.question for row in splits["validation"]] == ["What is a?"]


def test_reading_sees_open_documents_and_what_they_answer_or_nothing_does(folder: Path) -> None:
    company = read_company(folder, "halden")
    assert [(d.document_id, d.text) for d in company.documents()] == [("open", "Text of open.")]
    assert [row.group for row in company.raft()["test"]] == ["a", "nothing"]


def test_a_document_without_text_is_refused(folder: Path) -> None:
    (folder / "open.md").write_text(" \n")
    with pytest.raises(CompanyInvalid, match=r"open\.md holds no text"):
        read_company(folder, "halden").documents()


def test_every_file_that_was_read_is_hashed_and_no_restricted_one(folder: Path) -> None:
    hashes = read_company(folder, "halden").hashes
    assert set(hashes) >= {"facts.jsonl", "questions/paraphrases.jsonl", "manifest.jsonl", "open.md"}
    assert "closed.md" not in hashes
    assert all(len(digest) == 64 for digest in hashes.values())


def test_what_is_missing_is_named(folder: Path) -> None:
    assert is_company(folder)
    with pytest.raises(CompanyInvalid, match="brightwater, halden"):
        read_company(folder, "nobody")
    (folder / "facts.jsonl").unlink()
    assert not is_company(folder)
    with pytest.raises(CompanyInvalid, match=r"facts\.jsonl"):
        read_company(folder, "halden")


def test_the_sample_splits_its_style_by_text() -> None:
    splits, hashes = read_style(SAMPLE, seed=17)
    names = {name: {row.id for row in rows} for name, rows in splits.items()}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 84
    assert all(len(found) >= 8 for found in names.values())
    assert {row.kind for row in splits["train"]} == {"letter", "summary", "report"}
    assert len(hashes) == 2
