"""From a folder to figures, on a retriever that ranks by words in common."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from evaluation.retrieval import asking, documents
from evaluation.retrieval.asking import MODES, Answers, Asking, some
from evaluation.retrieval.beir import Benchmark, read
from evaluation.retrieval.documents import Shelf, slug
from evaluation.retrieval.measuring import Report, Wish, measure, scored
from evaluation.retrieval.telling import DATA, table, write
from evaluation.retrieval.tuning import fusions, settings
from services.retriever.config import RetrieverConfig
from tandem.client import AsyncRetrieverClient, Upload
from tandem.config import load
from tandem.errors import DeadlineExceeded, Overloaded, PermissionDenied, Unavailable
from tests.fakes.evaluation import FakeRetriever, write_folder

TEXTS = {f"D/{n}": f"topic{n} and words" for n in range(6)}
QUERIES = {f"q{n}": f"topic{n}" for n in range(6)}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (asking, documents):
        monkeypatch.setattr(room, "_PAUSE_S", 0.0)


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    return read(write_folder(tmp_path / "Six Topics", TEXTS, QUERIES, [(f"q{n}", f"D/{n}", 1) for n in range(6)]))


def silent(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def shelf(fake: FakeRetriever, name: str = "Six Topics") -> Shelf:
    return Shelf(cast("AsyncRetrieverClient", fake), name)


async def measured(benchmark: Benchmark, fake: FakeRetriever, **wish: Any) -> Report:
    return await measure(benchmark, cast("AsyncRetrieverClient", fake), shelf(fake), Wish(**wish), on_progress=silent)


async def test_every_mode_is_asked_and_scored_and_searches_keep_to_the_corpus(benchmark: Benchmark) -> None:
    fake = FakeRetriever(reranks=True)
    for n in range(6):
        fake.documents[f"own-{n}"] = Upload(document_id=f"own-{n}", source="x", data=f"topic{n}".encode())
    report = await measured(benchmark, fake)
    assert list(report.modes) == list(MODES)
    for mode in report.modes.values():
        assert {name: interval.value for name, interval in mode.metrics.items()} == {
            "ndcg@10": 1, "recall@10": 1, "recall@100": 1,
        }  # fmt: skip
        assert mode.stages_ms == {"dense": pytest.approx(3)}
        assert set(mode.latency_ms) == {"p50", "p95", "p99"}
        assert mode.rankings["q3"][0] == "D/3"
    assert all(search["keep_duplicates"] and search["top_k"] == 100 for search in fake.searches)
    assert [search["rerank"] for search in fake.searches].count(True) == len(QUERIES) + 3  # the first three warm up
    assert (report.filed.num_indexed, report.filed.num_chunks) == (6, 6)


@pytest.mark.parametrize("reranks", [None, False])
async def test_a_mode_that_is_not_served_is_absent_with_its_reason(benchmark: Benchmark, reranks: bool | None) -> None:
    report = await measured(benchmark, FakeRetriever(reranks=reranks), modes=["sparse", "hybrid + rerank"])
    assert list(report.modes) == ["sparse"]
    assert "rerank" in report.absent["hybrid + rerank"]


async def test_the_same_corpus_again_changes_nothing_and_another_version_of_it_is_followed(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    fake = FakeRetriever()
    await shelf(fake).fill(benchmark, silent)
    held = dict(fake.documents)
    again = await shelf(fake).fill(benchmark, silent)
    assert (again.num_indexed, again.num_unchanged, fake.documents) == (0, 6, held)
    fewer = read(
        write_folder(tmp_path / "new", {"D/0": "topic0 and words", "D/9": "more"}, QUERIES, [("q0", "D/0", 1)])
    )
    filed = await shelf(fake).fill(fewer, silent)
    assert (filed.num_indexed, filed.num_unchanged, filed.num_removed) == (1, 1, 5)
    assert len(fake.documents) == 2


@pytest.mark.parametrize("fault", [Unavailable("gone"), DeadlineExceeded("late"), Overloaded("full", retry_after_s=0)])
async def test_a_broken_stream_is_taken_up_where_its_acknowledgements_ended(
    benchmark: Benchmark, fault: Exception
) -> None:
    fake = FakeRetriever()
    fake.faults = [fault] * 2  # type: ignore[list-item]
    filed = await shelf(fake).fill(benchmark, silent)
    assert filed.num_indexed == 6
    assert fake.sent == [shelf(fake).document_id(name) for name in TEXTS]  # none was sent in vain


async def test_a_retriever_that_stays_away_ends_the_filing(benchmark: Benchmark) -> None:
    fake = FakeRetriever()
    fake.acknowledged = 0
    fake.faults = [Unavailable("gone") for _ in range(99)]
    with pytest.raises(Unavailable):
        await shelf(fake).fill(benchmark, silent)
    fake.faults = [PermissionDenied("not an editor")]
    with pytest.raises(PermissionDenied):
        await shelf(fake).fill(benchmark, silent)


async def test_clearing_up_takes_this_corpus_and_nothing_else(benchmark: Benchmark) -> None:
    fake = FakeRetriever()
    for name in ("Six Topics", "six"):
        await shelf(fake, name).fill(benchmark, silent)
    fake.documents["own"] = Upload(document_id="own", source="x", data=b"x")
    fake.faults = [Unavailable("a moment")]
    assert await shelf(fake, "six").clear(silent) == 6
    assert len(fake.documents) == 7
    assert await shelf(fake, "six").clear(silent) == 0


async def test_what_cannot_be_found_is_told(tmp_path: Path) -> None:
    texts = {"full": "words", "none": " ", "only a title": "", "bad": "refuse"}
    folder = write_folder(
        tmp_path / "d", texts, {"q": "words"}, [("q", "full", 1)], titles={"only a title": "It is\n long " * 99}
    )
    fake = FakeRetriever()
    report = await measured(read(folder), fake, modes=["dense"])
    assert report.notes == [
        "1 documents are empty and can never be found: none",
        "1 documents were rejected and can never be found: bad (it cannot be read)",
    ]
    titled = fake.documents[shelf(fake).document_id("only a title")]
    assert len(titled.title) <= 512
    assert titled.data


def test_gains_are_paired_and_queries_without_an_answer_score_nothing() -> None:
    judgements = {f"q{n}": {"right": 1} for n in range(20)}
    good = {query: ["right", "wrong"] for query in judgements}
    bad = {query: ["wrong", "right"] if n < 10 else [] for n, query in enumerate(judgements)}
    found = scored(
        {"first": Answers(rankings=bad), "second": Answers(rankings=good)}, judgements, list(judgements), seed=1
    )
    assert found["first"].gains == {}
    assert found["first"].metrics["recall@10"].value == 0.5
    gain = found["second"].gains["recall@10"]
    assert (gain.value, gain.low > 0.2, gain.high < 0.8) == (0.5, True, True)


async def test_services_that_are_full_are_waited_for_but_not_for_ever(benchmark: Benchmark) -> None:
    fake = FakeRetriever()
    await shelf(fake).fill(benchmark, silent)
    full = Asking(
        client=cast("AsyncRetrieverClient", fake),
        names={},
        search_filter=shelf(fake).filter(),
        concurrency=1,
    )
    fake.faults = [Overloaded("full", retry_after_s=0) for _ in range(5)]
    assert (await full.ask(MODES["hybrid"], QUERIES, lambda: None)).rankings.keys() == QUERIES.keys()
    fake.faults = [Overloaded("full", retry_after_s=0) for _ in range(6)]
    with pytest.raises(Overloaded):
        await full.ask(MODES["hybrid"], QUERIES, lambda: None)


async def test_tuning_chooses_on_half_of_the_queries_and_measures_on_the_others(benchmark: Benchmark) -> None:
    fake = FakeRetriever()
    fake.right_fusion = fusions()["weighted, dense 0.7"]
    report = await measured(benchmark, fake, modes=["hybrid"], tune=True)
    found = report.tuning
    assert found is not None
    assert found.best == "weighted, dense 0.7"
    assert found.settings == {"RETRIEVER_FUSION": "weighted", "RETRIEVER_FUSION_DENSE_WEIGHT": "0.7"}
    assert found.tried.keys() == fusions().keys()
    assert found.gain.low > 0.5
    choosing, measuring = (
        {search["query"] for search in fake.searches if search["fusion"] == fusion}
        for fusion in (fusions()["weighted, dense 0.0"], None)
    )
    assert (len(choosing), len(measuring)) == (3, 6), "the mode hybrid has asked all of them"
    assert report.notes[-1].endswith("worth setting: RETRIEVER_FUSION=weighted RETRIEVER_FUSION_DENSE_WEIGHT=0.7")


async def test_tuning_advises_no_change_that_is_not_a_gain(benchmark: Benchmark, tmp_path: Path) -> None:
    report = await measured(benchmark, FakeRetriever(), modes=["hybrid"], tune=True)
    assert report.notes[-1].endswith("no reason to change it")
    few = read(write_folder(tmp_path / "few", TEXTS, {"q0": "topic0"}, [("q0", "D/0", 1)]))
    report = await measured(few, FakeRetriever(), modes=["hybrid"], tune=True)
    assert (report.tuning, report.notes[-1]) == (None, "There are too few queries to tune on.")


def test_every_fusion_that_is_tried_can_be_set() -> None:
    made = [load(RetrieverConfig, "RETRIEVER", settings(fusion)) for fusion in fusions().values()]
    assert [config.fusion for config in made] == [
        "weighted" if fusion.HasField("weighted") else "rrf" for fusion in fusions().values()
    ]
    assert len({(config.fusion, config.fusion_dense_weight, config.fusion_k) for config in made}) == len(made)
    assert made[0] == RetrieverConfig(), "of equals the default is taken"


async def test_page_file_and_table_tell_the_same_and_no_foreign_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    folder = write_folder(tmp_path / "x[bold]", {hostile: "words", "b": " "}, {"q": "words"}, [("q", hostile, 1)])
    report = await measured(read(folder), FakeRetriever())
    report.notes.append(hostile)
    page = write(report, tmp_path / "out").read_text()
    assert "<script" not in page
    assert "1.000 [-1.000, 1.000]" in page  # one query tells nothing of the spread
    assert "not measured: the retriever does not rerank" in page
    data = json.loads((tmp_path / "out" / DATA).read_text())
    assert data["modes"]["dense"]["rankings"]["q"] == [hostile]
    assert data["modes"]["dense"]["metrics"]["ndcg@10"]["value"] == 1
    assert table(report).row_count == 4


def test_queries_are_drawn_by_the_seed() -> None:
    queries = {f"q{n}": "x" for n in range(50)}
    drawn = some(queries, 10, seed=3)
    assert (len(drawn), drawn) == (10, some(queries, 10, seed=3))
    assert drawn != some(queries, 10, seed=4)
    assert some(queries, None, seed=3) == some(queries, 50, seed=3) == queries


def test_a_label_fits_into_document_ids() -> None:
    assert slug("Six Topics (2026)") == "six-topics-2026"
    assert slug("..") == "corpus"
    assert len(slug("x" * 500)) == 48
