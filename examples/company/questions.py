"""Writes facts.jsonl and questions/*.jsonl of the sample company from the hand-written files in facts/.

Deterministic: the same files and SEED give the same output, so a test compares it with what is committed. What the
splits promise is explained in README.md; the format of the hand-written files in facts/README.md.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent
SEED = 20261122
SHARES = {"train": 0.26, "calibration": 0.46, "test": 0.28}
WORDINGS_ASKED = 2  # of a static fact; the others are left for closed-book learning
MIN_PARAPHRASES = 4
MAX_SIMILARITY = 0.8
HALDEN_ASKED_BY_BRIGHTWATER = 0.15  # share of Halden's open facts that the other tenant asks for
FRAMES = (
    "What is {}?",
    "Could you tell me {}?",
    "Please state {}.",
    "I would like to know {}.",
    "A customer asks about {}. What is the answer?",
    "Do you know {}?",
    "I am looking for {}.",
    "Remind me: what is {}?",
)


@dataclass
class Fact:
    """One fact as written in facts/, before it becomes questions."""

    fact_id: str
    document: Row
    section: str
    answer: str
    variants: list[str]
    statement: str = ""
    noun: str = ""
    wordings: list[str] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    follows: str = ""
    follow_up: str = ""

    @property
    def volatile(self) -> bool:
        """Whether the document it stands in replaced an earlier one."""
        return self.document["supersedes"] is not None

    @property
    def group(self) -> str:
        """The stratum that the splits are balanced over."""
        access = self.document["groups"][0] if self.document["groups"] else self.document["tenant"]
        return f"{access}/{'volatile' if self.volatile else 'static'}"


def normalise(text: str) -> str:
    """Returns the words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"[a-z0-9.]+", text.lower().replace(",", "").rstrip("?. ")))


def similarity(left: str, right: str) -> float:
    """Returns the Jaccard similarity of two texts' word sets, 0 to 1."""
    a, b = set(normalise(left).split()), set(normalise(right).split())
    return len(a & b) / len(a | b)


def accepted(answer: str, variants: Iterable[str]) -> list[str]:
    """Returns the accepted spellings of an answer, the one in the document first."""
    spellings = [answer, *variants]
    for text in (answer, *variants):
        if match := re.fullmatch(r"EUR ([\d,.]+)( million)?", text):
            number, million = match[1], match[2] or ""
            spellings += [f"{number}{million} euros", f"EUR {number.replace(',', '')}{million}", f"€{number}{million}"]
        if match := re.fullmatch(r"([\d.]+)%", text):
            spellings += [f"{match[1]} per cent", f"{match[1]} percent"]
    return list(dict.fromkeys(spellings))


def headings(document: Row) -> dict[str, str]:
    """Returns the numbered headings of a document by their number, read from its source; "0" is its title."""
    path = ROOT / document["path"]
    if path.suffix in (".pdf", ".docx"):
        path = ROOT / "sources" / document["tenant"] / f"{path.stem}.md"
    found = re.findall(r"^(?:## |<h2>)?(\d+) ([A-Z][^<\n]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {"0": document["title"], **{number: f"{number} {text}" for number, text in found}}


def read_facts(documents: dict[str, Row]) -> dict[str, Fact]:
    """Reads every file in facts/, in the order of the manifest."""
    facts: dict[str, Fact] = {}
    for document_id, document in documents.items():
        path = ROOT / "facts" / f"{document_id}.txt"
        if not path.exists():
            continue
        titles = headings(document)
        for line in path.read_text(encoding="utf-8").splitlines():
            mark, text = line[0], line[2:].strip()
            if mark == "=":
                slug, number, answer, variants = (part.strip() for part in f"{text} ".split("|"))
                fact = Fact(f"{document_id}.{slug}", document, titles[number], answer, split_list(variants))
                facts[fact.fact_id] = fact
            elif mark == "S":
                fact.statement = text
            elif mark == "N":
                fact.noun = text
            elif mark == "Q":
                fact.wordings.append(text)
            elif mark == "W":
                fact.superseded = split_list(text)
            elif mark == "F":
                other, fact.follow_up = (part.strip() for part in text.split("|"))
                fact.follows = other if "." in other else f"{document_id}.{other}"
            else:
                raise ValueError(f"{path.name}: unknown line {line!r}")
    return facts


def split_list(text: str) -> list[str]:
    """Splits "a; b" into its parts, dropping empty ones."""
    return [part.strip() for part in text.split(";") if part.strip()]


def components(facts: dict[str, Fact]) -> list[list[Fact]]:
    """Groups facts that must stay in one split: follow-ups with what they follow, and facts that share a wording."""
    leader = {fact_id: fact_id for fact_id in facts}

    def find(fact_id: str) -> str:
        while leader[fact_id] != fact_id:
            fact_id = leader[fact_id]
        return fact_id

    first_with: dict[str, str] = {}
    for fact in facts.values():
        others = [first_with.setdefault(normalise(wording), fact.fact_id) for wording in fact.wordings]
        for other in [*others, fact.follows or fact.fact_id]:
            leader[find(fact.fact_id)] = find(other)
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts.values():
        groups[find(fact.fact_id)].append(fact)
    return list(groups.values())


def assign_splits(facts: dict[str, Fact], rng: random.Random) -> dict[str, str]:
    """Returns the split of every fact, balanced over tenants, groups and volatility."""
    groups = components(facts)
    rng.shuffle(groups)
    groups.sort(key=len, reverse=True)
    totals = Counter(fact.group for fact in facts.values())
    filled: Counter[tuple[str, str]] = Counter()
    splits: dict[str, str] = {}
    for group in groups:
        stratum = Counter(fact.group for fact in group).most_common(1)[0][0]
        missing = {name: share - filled[name, stratum] / totals[stratum] for name, share in SHARES.items()}
        split = max(missing, key=lambda name: missing[name])
        for fact in group:
            splits[fact.fact_id] = split
            filled[split, fact.group] += 1
    return splits


def row(question_id: str, question: str, asker: tuple[str, list[str]], label: str, **extra: Any) -> Row:
    """Returns one question with every field of the format, in a fixed order."""
    base: Row = {
        "question_id": question_id,
        "question": question,
        "tenant": asker[0],
        "groups": asker[1],
        "label": label,
        "fact_id": None,
        "answers": [],
        "abstain": label in ("out_of_scope", "not_permitted"),
        "gold_documents": [],
        "superseded_answers": [],
        "forbidden_documents": [],
        "forbidden_answers": [],
        "history": [],
    }
    return base | extra


def answered(fact: Fact, question_id: str, question: str, label: str, **extra: Any) -> Row:
    """Returns a question about a fact, asked by somebody who may see its document."""
    return row(
        question_id,
        question,
        (fact.document["tenant"], fact.document["groups"]),
        label,
        fact_id=fact.fact_id,
        answers=accepted(fact.answer, fact.variants),
        gold_documents=[fact.document["document_id"]],
        superseded_answers=fact.superseded,
        **extra,
    )


def forbidden(fact: Fact, number: int, question: str, asker: tuple[str, list[str]]) -> Row:
    """Returns a question about a fact, asked by somebody who may not see its document."""
    return row(
        f"{fact.fact_id}.denied-{number}",
        question,
        asker,
        "not_permitted",
        fact_id=fact.fact_id,
        forbidden_documents=[fact.document["document_id"]],
        forbidden_answers=accepted(fact.answer, fact.variants),
    )


def choose_wordings(facts: dict[str, Fact], rng: random.Random) -> dict[str, list[str]]:
    """Returns the wordings of every fact that are asked in the splits; wordings shared by two tenants always are."""
    uses = Counter(normalise(wording) for fact in facts.values() for wording in fact.wordings)
    chosen = {}
    for fact in facts.values():
        shared = [wording for wording in fact.wordings if uses[normalise(wording)] > 1]
        single = [wording for wording in fact.wordings if wording not in shared]
        open_to_all = not fact.document["groups"]
        num = len(fact.wordings) if fact.volatile and open_to_all else WORDINGS_ASKED
        chosen[fact.fact_id] = (shared + rng.sample(single, len(single)))[:num]
    return chosen


def denied_rows(facts: dict[str, Fact], asked: dict[str, list[str]], rng: random.Random) -> list[Row]:
    """Returns questions asked across the border of a tenant or a group."""
    rows = []
    for fact in facts.values():
        spare = [wording for wording in fact.wordings if wording not in asked[fact.fact_id]] or asked[fact.fact_id]
        groups, tenant = fact.document["groups"], fact.document["tenant"]
        if groups:
            others = [[], ["underwriting"], ["claims-leads"]]
            asker = rng.choice([other for other in others if other != groups])
            rows.append(forbidden(fact, 1, spare[0], (tenant, asker)))
            continue
        named = [wording for wording in spare if tenant in wording.lower()]
        if named and (tenant == "brightwater" or rng.random() < HALDEN_ASKED_BY_BRIGHTWATER):
            other = "halden" if tenant == "brightwater" else "brightwater"
            rows.append(forbidden(fact, 1, named[0], (other, [])))
    return rows


def mark_contrasts(rows: list[Row]) -> None:
    """Adds to questions that both tenants ask in the same words the answer that belongs to the other tenant."""
    by_words: dict[str, list[Row]] = defaultdict(list)
    for entry in rows:
        if entry["label"] in ("static", "volatile"):
            by_words[normalise(entry["question"])].append(entry)
    for entries in by_words.values():
        for entry in entries:
            for other in entries:
                if other["tenant"] != entry["tenant"]:
                    entry["forbidden_documents"] = other["gold_documents"]
                    entry["forbidden_answers"] = other["answers"]


def history_of(fact: Fact, facts: dict[str, Fact], asked: dict[str, list[str]]) -> list[Row]:
    """Returns the turns before a follow-up about the fact: one, or two where the first turn is a follow-up itself."""
    before = facts[fact.follows]
    turn = {"question": asked[before.fact_id][0], "answer": before.statement}
    first = facts.get(before.follows)
    if first is None or first.document is not before.document:
        return [turn]
    return [{"question": asked[first.fact_id][0], "answer": first.statement}, turn | {"question": before.follow_up}]


def question_rows(facts: dict[str, Fact], asked: dict[str, list[str]], rng: random.Random) -> list[Row]:
    """Returns every question about a fact, in the order of the facts."""
    rows = []
    for fact in facts.values():
        label = "volatile" if fact.volatile else "static"
        rows += [answered(fact, f"{fact.fact_id}.{n}", q, label) for n, q in enumerate(asked[fact.fact_id], 1)]
        if fact.follow_up:
            history = history_of(fact, facts, asked)
            rows.append(answered(fact, f"{fact.fact_id}.follow-up", fact.follow_up, "follow_up", history=history))
    mark_contrasts(rows)
    return rows + denied_rows(facts, asked, rng)


def out_of_scope_rows() -> list[Row]:
    """Returns the hand-written questions that no document answers."""
    lines = (ROOT / "questions" / "out_of_scope.txt").read_text(encoding="utf-8").splitlines()
    rows: list[Row] = []
    for line in (line for line in lines if not line.startswith("#")):
        tenant = "brightwater" if line.startswith("B ") else "halden"
        rows.append(row(f"out-of-scope.{len(rows) + 1}", line.removeprefix("B "), (tenant, []), "out_of_scope"))
    return rows


def paraphrase_rows(fact: Fact, asked: list[str], taken: set[str], rng: random.Random) -> list[Row]:
    """Returns the closed-book questions of a static fact: wordings left over, then frames around its noun phrase."""
    spare = [wording for wording in fact.wordings if wording not in asked]
    framed = [frame.format(fact.noun) for frame in rng.sample(FRAMES, len(FRAMES))]
    kept: list[str] = []
    for text in [*spare, *framed]:
        new = normalise(text) not in taken | {normalise(other) for other in kept}
        clear = new and all(similarity(text, other) < MAX_SIMILARITY for other in asked)
        if clear and (text in spare or len(kept) < MIN_PARAPHRASES + 2):
            kept.append(text)
    return [
        {
            "paraphrase_id": f"{fact.fact_id}.p{number}",
            "fact_id": fact.fact_id,
            "tenant": fact.document["tenant"],
            "groups": fact.document["groups"],
            "question": text,
            "sentence": fact.statement,
            "answer": fact.answer,
            "answers": accepted(fact.answer, fact.variants),
        }
        for number, text in enumerate(kept, 1)
    ]


def fact_row(fact: Fact) -> Row:
    """Returns a fact in the format of facts.jsonl."""
    return {
        "fact_id": fact.fact_id,
        "tenant": fact.document["tenant"],
        "groups": fact.document["groups"],
        "document_id": fact.document["document_id"],
        "volatility": "volatile" if fact.volatile else "static",
        "statement": fact.statement,
        "answer": fact.answer,
        "answers": accepted(fact.answer, fact.variants),
        "superseded_answers": fact.superseded,
        "section": fact.section,
    }


def generate() -> dict[str, list[Row]]:
    """Returns the rows of every generated file by its path below examples/company/."""
    rng = random.Random(SEED)
    lines = (ROOT / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    facts = read_facts({entry["document_id"]: entry for entry in map(json.loads, lines)})
    splits = assign_splits(facts, rng)
    asked = choose_wordings(facts, rng)
    files: dict[str, list[Row]] = {"facts.jsonl": [fact_row(fact) for fact in facts.values()]}
    files |= {f"questions/{name}.jsonl": [] for name in SHARES}
    for entry in question_rows(facts, asked, rng):
        files[f"questions/{splits[entry['fact_id']]}.jsonl"].append(entry)
    unanswerable = out_of_scope_rows()
    rng.shuffle(unanswerable)
    start = 0.0
    for name, share in SHARES.items():
        bounds = (round(start * len(unanswerable)), round((start + share) * len(unanswerable)))
        files[f"questions/{name}.jsonl"] += unanswerable[slice(*bounds)]
        rng.shuffle(files[f"questions/{name}.jsonl"])
        start += share
    taken = {normalise(entry["question"]) for name in SHARES for entry in files[f"questions/{name}.jsonl"]}
    static = [fact for fact in facts.values() if not fact.volatile]
    for name, restricted in (("paraphrases", False), ("paraphrases_restricted", True)):
        chosen = [fact for fact in static if bool(fact.document["groups"]) == restricted]
        rows = [entry for fact in chosen for entry in paraphrase_rows(fact, asked[fact.fact_id], taken, rng)]
        files[f"questions/{name}.jsonl"] = rows
    return files


def render(rows: list[Row]) -> str:
    """Returns rows as JSON lines."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows)


def main() -> None:
    """Rewrites the generated files in place."""
    for path, rows in generate().items():
        (ROOT / path).write_text(render(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
