"""The chaos' judge sees what was lost, came back or is there twice."""

from benchmarks.chaos_ledger import ABSENT, Ledger, faults_of_document, faults_of_search, read, written

NAME = "paper00"
OLD, NEW = (written(NAME, version) for version in (1, 2))


def found(version: int) -> list[tuple[str, int, str]]:
    parts = written(NAME, version).split("\n\n")
    return [(NAME, 600 * place, part) for place, part in enumerate(parts)]


def judged(text: str | None, chunks: list[tuple[str, int, str]], *may: int) -> list[str]:
    return faults_of_document(NAME, text, len(text.split("\n\n")) if text else 0, chunks, frozenset(may))[1]


def test_a_text_says_whose_it_is() -> None:
    assert OLD == written(NAME, 1) != NEW
    pieces = [read(part) for part in OLD.split("\n\n")]
    assert [(p.document_id, p.version, p.part, p.num_parts) for p in pieces if p] == [
        (NAME, 1, n, len(pieces)) for n in range(1, len(pieces) + 1)
    ]
    assert read("something else") is None


def test_until_a_change_is_acknowledged_both_versions_may_be_seen() -> None:
    ledger = Ledger([NAME])
    mark = ledger.mark()
    assert ledger.may(NAME) == {ABSENT}
    assert (ledger.new_version(NAME), ledger.new_version(NAME)) == (1, 2)
    ledger.begin(NAME, 1)
    assert ledger.may(NAME) == {ABSENT, 1}
    ledger.acknowledge(NAME, 1)
    assert ledger.may(NAME) == {1}
    assert ledger.since(mark)[NAME] == {ABSENT, 1}  # who began to look before may have seen either
    assert ledger.since(ledger.mark())[NAME] == {1}


def test_whole_documents_pass() -> None:
    assert judged(OLD, found(1), 1) == judged(NEW, found(2), 1, 2) == judged(None, [], ABSENT, 1) == []


def test_what_is_lost_comes_back_or_is_there_twice_is_a_fault() -> None:
    assert "is lost" in judged(None, [], 1)[0]
    assert "is there in version 1" in judged(OLD, found(1), ABSENT)[0]  # deleted and back
    assert "is there in version 1" in judged(OLD, found(1), 2)[0]  # replaced and back
    assert "a search finds" in judged(None, found(1), ABSENT)[0]
    assert "a search finds" in judged(OLD, [*found(1), *found(2)], 1)[0]
    assert "a search finds" in judged(OLD, [*found(1), found(1)[0]], 1)[0]
    assert "a search finds" in judged(OLD, found(1)[1:], 1)[0]
    assert "never written" in judged(OLD[:-1], found(1), 1)[0]


def test_a_search_is_held_against_what_could_be_seen_meanwhile() -> None:
    may = {NAME: frozenset({1, 2})}
    assert faults_of_search(found(1), may) == faults_of_search(found(2), may) == []
    assert "same chunk twice" in faults_of_search([found(1)[0]] * 2, may)[0]
    assert "two versions" in faults_of_search([found(1)[0], (NAME, 9999, found(2)[0][2])], may)[0]
    assert "shows version 1" in faults_of_search(found(1), {NAME: frozenset({2})})[0]
    assert "no part of it" in faults_of_search([("paper01", 0, found(1)[0][2])], may)[0]
