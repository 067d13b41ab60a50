"""Folders to measure on: what stands in which part, and that no question stands in two."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import evaluation_sets as sets
from benchmarks.evaluation import MEASURED, domain_file, main
from evaluation.answers.questions import read
from evaluation.arms.folder import read_folder

COMPANY = Path(__file__).parents[3] / "examples" / "company"


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def data(tmp_path):
    """Is a folder of public sets in small: 20 articles of two passages with a question each, some unanswerable."""
    folder = tmp_path / "data"
    passages = [{"_id": f"s{n}", "title": f"article {n // 2}", "text": f"The sum is {n} pounds."} for n in range(40)]
    lines(folder / "squad_rag" / "corpus.jsonl.gz", passages)
    asked = [
        {
            "_id": f"a{n}",
            "question": f"What is sum {n}?",
            "answers": [""] if n % 5 == 0 else [f"{n}", f"{n}"],
            "gold": f"s{n}",
        }
        | {"is_impossible": n % 5 == 0}
        for n in range(40)
    ]
    lines(
        folder / "squad_rag" / "questions.jsonl", [*asked, {**asked[1], "_id": "again", "question": " what is SUM 1?"}]
    )
    lines(folder / "stackfaq" / "corpus.jsonl", [{"_id": "d0_0", "title": "", "text": "Use tildes."}])
    return folder


def test_the_company_is_laid_out_with_who_may_ask(tmp_path):
    folder = read_folder(sets.company(COMPANY, tmp_path))
    asked = {one.question_id: one for one in (*folder.questions, *read(tmp_path / "calibration.jsonl"))}
    assert len(read(tmp_path / "calibration.jsonl")) >= 300
    assert {one.principal for one in asked.values()} == {"alice", "lena", "erin"}
    assert not folder.has_documents
    origin = {
        row["question_id"]: row
        for split in ("test", "calibration")
        for row in map(json.loads, (COMPANY / "questions" / f"{split}.jsonl").read_text().splitlines())
    }
    principals = json.loads((COMPANY / "principals.json").read_text())
    for name, one in asked.items():
        row = origin[name]
        assert row["tenant"] == "halden"
        assert set(row["groups"]) <= set(principals[one.principal]["groups"])
        if row["label"] == "not_permitted":
            assert one.answers == ()
            assert sorted(row["groups"]) == sorted(principals[one.principal]["groups"])
        if one.kind == "static":
            assert not row["groups"]
        if row["label"] == "volatile":
            assert one.kind == "volatile"


def test_whole_articles_of_squad_are_in_one_part(data, tmp_path):
    folder = read_folder(sets.squad_rag(data, tmp_path / "squad"))
    parts = [read(folder.path / name) for name in ("train.jsonl", "calibration.jsonl", "questions.jsonl")]
    articles = [{int(one.group[1:]) // 2 for one in part} for part in parts]
    assert sum(map(len, articles)) == len(set().union(*articles)) == 20
    assert sum(map(len, parts)) == 40
    assert all(
        (one.answers == ()) == (int(one.question_id[1:]) % 5 == 0)
        for part in parts
        for one in part
        if one.question_id != "again"
    )
    assert sum(1 for _ in folder.uploads()) == 40
    learnt = list(sets.squad_training(data))
    assert {row["question"] for row in learnt} == {one.question for one in parts[0] if one.answers}
    assert all("context" in row for row in learnt)


def test_the_mixed_set_keeps_the_splits_of_what_was_trained(data, tmp_path):
    for split in ("train", "validation", "test"):
        row = {"id": f"q-{split}", "group": "q0", "golds": ["Use tildes."]}
        row["messages"] = [{"role": "system", "content": "x"}, {"role": "user", "content": f"How, {split}?"}]
        lines(tmp_path / "dataset" / f"{split}.jsonl", [row])
    folder = read_folder(sets.mixed(data, tmp_path / "dataset", tmp_path / "mixed"))
    tested = {one.question_id: one for one in folder.questions}
    assert (tested["q-test"].match, tested["q-test"].kind, tested["q-test"].source) == ("nearest", "static", "stackfaq")
    assert {one.kind for one in folder.questions} == {"static", "volatile"}
    calibrating = {one.question_id for one in read(folder.path / "calibration.jsonl")}
    assert "q-validation" in calibrating
    assert not calibrating & tested.keys()
    assert sum(1 for _ in folder.uploads()) == 41


def test_scope_texts_are_inside_where_the_adapter_learnt_them(tmp_path):
    sets.company(COMPANY, tmp_path)
    rows = [json.loads(line) for line in sets.scope_texts(tmp_path, tmp_path / "t.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"in", "out"}


def test_a_set_that_is_not_there_is_left_out_and_told(tmp_path, capsys):
    assert main(["--only", "squad_rag,clinc150", "--work", str(tmp_path / "work")]) == 0
    assert capsys.readouterr().out.count("name the folder of public sets with --data") == 2
    assert main(["--only", "clinc150", "--work", str(tmp_path / "work"), "--data", str(tmp_path)]) == 0
    assert "data_full.json is not there" in capsys.readouterr().out


def test_a_domains_file_names_what_is_there(tmp_path):
    from services.router.domain import Domain
    from services.router.domains import DomainReader

    path, results = tmp_path / "d" / "mixed.toml", tmp_path / "d" / "r.json"
    domain_file(path, MEASURED["squad_rag"], "mixed", calibration=tmp_path / "none.json", results=results)
    reader = DomainReader(base=Domain(), policies=("auto", "rag"), calibration=lambda *_, **__: None)
    assert reader.read(path).fault == ""
    assert "results" not in path.read_text()
    results.write_text('{"arms": []}')
    domain_file(path, MEASURED["squad_rag"], "", calibration=tmp_path / "none.json", results=results)
    assert 'results = "r.json"' in path.read_text()
    found = reader.read(path)
    assert found.domain.tenants == {"default"}
    assert (found.domain.policy, found.domain.answer_adapter) == ("auto", "reading")
