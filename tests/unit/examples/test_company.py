"""The sample company keeps what its README promises: documents, facts, splits, permissions and generated files."""

import importlib.util
import io
import json
import re
import zipfile
from collections import Counter
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import docx
import pypdf
import pytest
from bs4 import BeautifulSoup

COMPANY = Path(__file__).resolve().parents[3] / "examples" / "company"
TODAY = date(2026, 11, 22)
SPLITS = ("train", "calibration", "test")
PRINCIPALS = {"alice": ("halden", []), "lena": ("halden", ["claims-leads"]), "bram": ("brightwater", [])}


def rows(path: str) -> list[dict[str, Any]]:
    """Reads a JSON-lines file of the sample company."""
    return [json.loads(line) for line in (COMPANY / path).read_text(encoding="utf-8").splitlines()]


@cache
def script(name: str) -> ModuleType:
    """Imports one of the sample company's scripts by its path."""
    spec = importlib.util.spec_from_file_location(f"company_{name}", COMPANY / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extract(path: Path) -> str:
    """Returns the text of a document with runs of white space collapsed."""
    if path.suffix == ".pdf":
        text = "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
    elif path.suffix == ".docx":
        document = docx.Document(str(path))
        cells = [cell.text for table in document.tables for line in table.rows for cell in line.cells]
        text = "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells])
    elif path.suffix == ".html":
        text = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").get_text(" ")
    else:
        text = path.read_text(encoding="utf-8")
    return " ".join(text.split())


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, Any]]:
    return {entry["document_id"]: entry for entry in rows("manifest.jsonl")}


@pytest.fixture(scope="module")
def texts(manifest: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {document_id: extract(COMPANY / entry["path"]) for document_id, entry in manifest.items()}


@pytest.fixture(scope="module")
def facts() -> dict[str, dict[str, Any]]:
    return {fact["fact_id"]: fact for fact in rows("facts.jsonl")}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return {name: rows(f"questions/{name}.jsonl") for name in SPLITS}


@pytest.fixture(scope="module")
def questions(splits: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [entry for name in SPLITS for entry in splits[name]]


def visible(document: dict[str, Any], tenant: str, groups: list[str]) -> bool:
    """Whether somebody of this tenant and these groups may see the document."""
    return document["tenant"] == tenant and (not document["groups"] or bool(set(document["groups"]) & set(groups)))


def test_manifest_names_every_document_once(manifest: dict[str, dict[str, Any]]) -> None:
    assert len(manifest) == len(rows("manifest.jsonl"))
    on_disk = {str(path.relative_to(COMPANY)) for path in (COMPANY / "documents").rglob("*") if path.is_file()}
    assert {entry["path"] for entry in manifest.values()} == on_disk
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", document_id) for document_id in manifest)
    assert all(f"documents/{entry['tenant']}/" in entry["path"] for entry in manifest.values())


def test_somebody_may_do_each_thing() -> None:
    people = json.loads((COMPANY / "principals.json").read_text())
    may = {(role, row["tenant"]) for row in people.values() for role in row["roles"]}
    assert may >= {(role, tenant) for role in ("editor", "auditor", "operator") for tenant in ("halden", "brightwater")}
    # Whoever runs what all tenants share reads no more of one than anybody there, and changes nothing of it.
    (platform,) = (row for row in people.values() if "platform" in row["roles"])
    assert (platform["groups"], platform["roles"]) == ([], ["user", "platform"])


def test_corpus_has_five_formats_two_tenants_and_three_groups(manifest: dict[str, dict[str, Any]]) -> None:
    formats = Counter(Path(entry["path"]).suffix for entry in manifest.values())
    assert set(formats) == {".md", ".txt", ".html", ".pdf", ".docx"}
    assert min(formats.values()) >= 5
    assert {entry["tenant"] for entry in manifest.values()} == {"halden", "brightwater"}
    groups = {group for entry in manifest.values() for group in entry["groups"]}
    assert groups == {"claims-leads", "underwriting", "legal"}
    assert all((COMPANY / entry["path"]).stat().st_size < 100_000 for entry in manifest.values())


def test_titles_and_text_can_be_extracted(manifest: dict[str, dict[str, Any]], texts: dict[str, str]) -> None:
    for document_id, entry in manifest.items():
        assert entry["title"].lower() in texts[document_id].lower()


def test_docx_and_pdf_carry_real_structure() -> None:
    document = docx.Document(str(COMPANY / "documents/halden/halden-claims-manual.docx"))
    styles = Counter(paragraph.style.name for paragraph in document.paragraphs if paragraph.style)
    assert styles["Heading 1"] == 1
    assert styles["Heading 2"] == 7
    assert len(document.tables) == 1
    sizes: dict[str, float] = {}
    page = pypdf.PdfReader(COMPANY / "documents/halden/halden-motor-conditions.pdf").pages[0]
    page.extract_text(visitor_text=lambda text, _cm, _tm, _font, size: sizes.setdefault(text.strip(), size))
    assert sizes["1 Words we use"] > 10
    assert sizes["Halden Motor: policy conditions"] > sizes["1 Words we use"]


def test_supersession_chains_join_without_gap_or_cycle(manifest: dict[str, dict[str, Any]]) -> None:
    replaced = [entry["supersedes"] for entry in manifest.values() if entry["supersedes"]]
    assert len(replaced) == len(set(replaced))
    heads = [key for key, entry in manifest.items() if entry["supersedes"] and key not in replaced]
    assert len(heads) >= 4
    for entry in manifest.values():
        assert (entry["document_id"] in replaced) == (entry["valid_until"] is not None)
        seen = {entry["document_id"]}
        while entry["supersedes"]:
            older = manifest[entry["supersedes"]]
            assert older["document_id"] not in seen
            assert older["tenant"] == entry["tenant"]
            assert older["groups"] == entry["groups"]
            assert older["kind"] == entry["kind"]
            last_day = date.fromisoformat(older["valid_until"])
            assert last_day + timedelta(days=1) == date.fromisoformat(entry["valid_from"])
            seen.add(older["document_id"])
            entry = older


def test_every_answer_stands_in_its_document(facts: dict[str, dict[str, Any]], texts: dict[str, str]) -> None:
    assert len(facts) == len(rows("facts.jsonl")) >= 240
    for fact in facts.values():
        text = texts[fact["document_id"]]
        assert fact["answer"] in text, fact["fact_id"]
        assert fact["section"] in text, fact["fact_id"]
        assert fact["answer"] in fact["statement"], fact["fact_id"]
        assert fact["answer"] == fact["answers"][0], fact["fact_id"]
        for number in re.findall(r"\d[\d,.:/]*\d|\d", fact["statement"]):
            assert number in text, (fact["fact_id"], number)


def test_volatile_facts_come_from_the_document_in_force(
    facts: dict[str, dict[str, Any]], manifest: dict[str, dict[str, Any]], texts: dict[str, str]
) -> None:
    for fact in facts.values():
        entry = manifest[fact["document_id"]]
        assert entry["valid_until"] is None
        assert date.fromisoformat(entry["valid_from"]) <= TODAY
        assert (fact["volatility"] == "volatile") == (entry["supersedes"] is not None)
        assert not set(fact["superseded_answers"]) & set(fact["answers"])
        older = []
        while entry["supersedes"]:
            entry = manifest[entry["supersedes"]]
            older.append(texts[entry["document_id"]])
        assert all(any(value in text for text in older) for value in fact["superseded_answers"]), fact["fact_id"]


def test_counts_meet_the_promised_minimums(
    splits: dict[str, list[dict[str, Any]]], questions: list[dict[str, Any]]
) -> None:
    assert len(splits["train"]) >= 200
    assert len(splits["calibration"]) >= 320
    assert len(splits["test"]) >= 180
    labels = Counter(entry["label"] for entry in questions)
    assert set(labels) == {"static", "volatile", "out_of_scope", "not_permitted", "follow_up"}
    assert len(questions) >= 700
    assert min(labels.values()) >= 60
    assert len({entry["fact_id"] for entry in questions if not entry["abstain"]}) >= 200
    assert all({entry["label"] for entry in splits[name]} == set(labels) for name in SPLITS)


def test_no_fact_is_asked_in_two_splits(
    splits: dict[str, list[dict[str, Any]]], facts: dict[str, dict[str, Any]]
) -> None:
    by_statement = {fact["statement"]: fact["fact_id"] for fact in facts.values()}
    asked: dict[str, set[str]] = {}
    wordings: dict[str, set[str]] = {}
    for name, entries in splits.items():
        told = {by_statement[turn["answer"]] for entry in entries for turn in entry["history"]}
        asked[name] = {entry["fact_id"] for entry in entries if entry["fact_id"]} | told
        wordings[name] = {script("questions").normalise(e["question"]) for e in entries if e["label"] != "follow_up"}
    for left, right in (("train", "calibration"), ("train", "test"), ("calibration", "test")):
        assert not asked[left] & asked[right]
        assert not wordings[left] & wordings[right]


def test_labels_agree_with_facts_and_permissions(
    questions: list[dict[str, Any]], facts: dict[str, dict[str, Any]], manifest: dict[str, dict[str, Any]]
) -> None:
    assert len({entry["question_id"] for entry in questions}) == len(questions)
    for entry in questions:
        asker = (entry["tenant"], entry["groups"])
        assert entry["abstain"] == (entry["label"] in ("out_of_scope", "not_permitted")) == (not entry["answers"])
        assert bool(entry["history"]) == (entry["label"] == "follow_up")
        assert all(visible(manifest[key], *asker) for key in entry["gold_documents"])
        assert not any(visible(manifest[key], *asker) for key in entry["forbidden_documents"])
        if entry["label"] == "out_of_scope":
            assert entry["fact_id"] is None
            assert not entry["gold_documents"]
            continue
        fact = facts[entry["fact_id"]]
        if entry["label"] == "not_permitted":
            assert entry["forbidden_documents"] == [fact["document_id"]]
            assert not entry["gold_documents"]
            assert entry["forbidden_answers"] == fact["answers"]
        else:
            assert entry["gold_documents"] == [fact["document_id"]]
            assert entry["answers"] == fact["answers"]
            assert entry["label"] in (fact["volatility"], "follow_up")


def test_the_tenants_contradict_each_other_in_the_same_words(questions: list[dict[str, Any]]) -> None:
    contrasts = [entry for entry in questions if not entry["abstain"] and entry["forbidden_answers"]]
    assert len(contrasts) >= 8
    assert all(not set(entry["answers"]) & set(entry["forbidden_answers"]) for entry in contrasts)


@pytest.mark.parametrize(("name", "restricted"), [("paraphrases", False), ("paraphrases_restricted", True)])
def test_paraphrases_cover_static_facts_in_other_words(
    name: str, restricted: bool, facts: dict[str, dict[str, Any]], questions: list[dict[str, Any]]
) -> None:
    tools = script("questions")
    entries = rows(f"questions/{name}.jsonl")
    wanted = {
        key for key, fact in facts.items() if fact["volatility"] == "static" and bool(fact["groups"]) == restricted
    }
    per_fact = Counter(entry["fact_id"] for entry in entries)
    assert set(per_fact) == wanted
    assert min(per_fact.values()) >= 6
    assert len({(entry["tenant"], tools.normalise(entry["question"])) for entry in entries}) == len(entries)
    asked: dict[str, list[str]] = {}
    for entry in questions:
        if entry["label"] in ("static", "volatile"):
            asked.setdefault(entry["fact_id"], []).append(entry["question"])
    taken = {tools.normalise(entry["question"]) for entry in questions}
    for entry in entries:
        assert tools.normalise(entry["question"]) not in taken
        assert all(tools.similarity(entry["question"], other) < 0.8 for other in asked[entry["fact_id"]])
        assert entry["answer"] in entry["sentence"]
        assert entry["groups"] == facts[entry["fact_id"]]["groups"]


def test_built_documents_match_their_sources() -> None:
    built = list(script("build").built_documents())
    assert len(built) >= 15
    for path, content in built:
        committed = path.read_bytes()
        if path.suffix == ".docx":
            assert unzip(content) == unzip(committed), path.name
        else:
            assert content == committed, path.name


def unzip(archive: bytes) -> dict[str, bytes]:
    """Returns the members of a zip archive: their bytes may be packed differently by another zlib."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_generated_questions_match_their_sources() -> None:
    tools = script("questions")
    for path, entries in tools.generate().items():
        assert (COMPANY / path).read_text(encoding="utf-8") == tools.render(entries), path


def figures(text: str) -> set[str]:
    """Returns the numbers in a text as written."""
    return set(re.findall(r"\d[\d,]*\d|\d", text))


def test_letters_and_summaries_follow_the_house_style() -> None:
    letters, summaries = rows("style/letters.jsonl"), rows("style/summaries.jsonl")
    assert len(letters) >= 40
    assert len(summaries) >= 40
    banned = re.compile(
        r"!|unfortunately|regret to inform|please note|hereby|herewith|pursuant|aforementioned|\bas per\b|kindly|"
        r"do not hesitate|in the event that|prior to|the insured|utilise",
        re.IGNORECASE,
    )
    for entry in [*letters, *summaries]:
        assert not banned.search(entry["text"]), entry["id"]
        assert all(len(part.split()) <= 24 for part in re.split(r"(?<=[.?])\s+|\n+", entry["text"])), entry["id"]
        invented = figures(entry["text"]) - figures(entry["brief"])
        assert not invented, (entry["id"], invented)
    closing = "Kind regards from Port Selwick,\nHalden Mutual"
    for entry in letters:
        parts = entry["text"].split("\n\n")
        assert len(parts) == 5
        assert re.fullmatch(r"Dear (Ms|Mr) \w+,", parts[0])
        assert parts[4] == closing
        assert parts[3].startswith("What happens next: ")
    for entry in summaries:
        names = [line.split(": ")[0] for line in entry["text"].splitlines()]
        assert names == ["Case", "Decision", "Reason", "Next step"]


def test_demo_shows_every_kind_of_question(
    facts: dict[str, dict[str, Any]], manifest: dict[str, dict[str, Any]]
) -> None:
    demo = rows("demo.jsonl")
    assert {entry["policy"] for entry in demo} == {"finetuned", "rag", "cascade"}
    assert {entry["as"] for entry in demo} == set(PRINCIPALS)
    assert any(entry["history"] for entry in demo)
    for entry in demo:
        asker = PRINCIPALS[entry["as"]]
        known = {
            fact["answer"] for fact in facts.values() if visible(manifest[fact["document_id"]], asker[0], asker[1])
        }
        assert entry["expect"] == "abstain" or entry["expect"] in known
    repeated = Counter(entry["question"] for entry in demo)
    for question in (text for text, count in repeated.items() if count > 1):
        assert len({entry["expect"] for entry in demo if entry["question"] == question}) == repeated[question]


def test_readme_counts_are_the_counts_of_the_files(
    splits: dict[str, list[dict[str, Any]]], facts: dict[str, dict[str, Any]], manifest: dict[str, dict[str, Any]]
) -> None:
    readme = (COMPANY / "README.md").read_text(encoding="utf-8")
    labels = ("static", "volatile", "follow_up", "not_permitted", "out_of_scope")
    for name, entries in splits.items():
        counts = Counter(entry["label"] for entry in entries)
        num_facts = len({entry["fact_id"] for entry in entries} - {None})
        cells = [name, *(counts[label] for label in labels), len(entries), num_facts]
        assert f"| {' | '.join(map(str, cells))} |" in readme
    for tenant in ("halden", "brightwater"):
        documents = [entry for entry in manifest.values() if entry["tenant"] == tenant]
        own = Counter(fact["volatility"] for fact in facts.values() if fact["tenant"] == tenant)
        restricted = sum(bool(entry["groups"]) for entry in documents)
        assert f"| {tenant} | {len(documents)} | {restricted} | {own['static']} | {own['volatile']} |" in readme
    for name in ("paraphrases", "paraphrases_restricted"):
        entries = rows(f"questions/{name}.jsonl")
        assert f"| {name} | {len(entries)} | {len({entry['fact_id'] for entry in entries})} |" in readme
