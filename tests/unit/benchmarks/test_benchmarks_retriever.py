"""The parts of the retrieval benchmark that need no service: sets, halves, fusions, the page."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.retrieval_sets import SETS, halves, write
from benchmarks.retriever_ingestion import synthetic
from benchmarks.retriever_page import page
from benchmarks.retriever_quality import _behind, _brute_force
from evaluation.retrieval.beir import read
from evaluation.retrieval.tuning import fusions


def test_sets_become_folders_in_beir_layout(tmp_path: Path) -> None:
    rows = [
        {"question": "What is  ash?", "answer": "Ash is grey."},
        {"question": "What is ash?", "answer": "It is what is left."},
        {"question": "What is soot?", "answer": "Ash is grey."},
        {"question": "What is fog?", "answer": " "},
    ]
    packed = tmp_path / "medquad" / "medquad_qa.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = read(write("medquad", tmp_path, tmp_path / "out"))
    assert {found.queries[q]: set(grades) for q, grades in found.judgements.items()} == {
        "What is ash?": {"a0", "a1"},
        "What is soot?": {"a0"},
    }
    assert len(found.documents) == 2


def test_questions_without_an_answer_are_not_asked(tmp_path: Path) -> None:
    asked = [
        {"_id": "1", "question": "who?", "gold": "s1"},
        {"_id": "2", "question": "why?", "gold": "s1", "is_impossible": True},
    ]
    (tmp_path / "squad_rag").mkdir()
    (tmp_path / "squad_rag" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    packed = tmp_path / "squad_rag" / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"_id": "s1", "title": "t", "text": "x"}\n'))
    assert read(write("squad_rag", tmp_path, tmp_path / "out")).queries == {"1": "who?"}


def test_a_set_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in SETS:
        with pytest.raises(FileNotFoundError):
            write(name, tmp_path, tmp_path / "out" / name)
        assert not (tmp_path / "out" / name / "qrels.tsv").exists()


def test_halves_are_drawn_by_the_seed_and_keep_groups_together() -> None:
    queries = [f"q{n}_{wording}" for n in range(20) for wording in range(3)]
    tuned, held = halves("stackfaq", queries, seed=1)
    assert sorted(tuned + held) == sorted(queries)
    assert {query.split("_")[0] for query in tuned}.isdisjoint(query.split("_")[0] for query in held)
    assert len(tuned) == len(held) == 30
    assert halves("stackfaq", queries, seed=1) == (tuned, held) != halves("stackfaq", queries, seed=2)


def test_fusions_reach_from_one_ranking_to_the_other() -> None:
    found = fusions()
    shares = {f.weighted.dense_weight for f in found.values() if f.HasField("weighted")}
    assert min(shares) <= 0.1
    assert max(shares) >= 0.9
    assert len(found) == len({f.SerializeToString() for f in found.values()})


def test_brute_force_ranks_documents_by_their_best_chunk() -> None:
    vectors = np.array([[1, 0], [0, 2], [0.9, 0.1], [0.6, 0.6]], dtype=np.float32)
    assert _brute_force(vectors, ["a", "b", "a", "c"], {"q": [0.0, 1.0]}) == {"q": ["b", "c", "a"]}


def test_documents_of_the_same_text_may_change_places_and_others_may_not() -> None:
    vectors, names = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32), ["a", "twin", "far"]
    queries, exact = {"q": [1.0, 0.0]}, {"q": ["a", "twin", "far"]}
    assert _behind(vectors, names, queries, exact, {"q": ["twin", "a", "far"]}) == [0.0]
    assert _behind(vectors, names, queries, exact, {"q": ["a", "far", "twin"]}) == [1.0]


def test_synthetic_documents_are_the_same_each_time() -> None:
    first = list(synthetic(300, seed=1))
    assert first == list(synthetic(300, seed=1))
    assert [len(upload.data.split(b"\n\n")) for upload in first] == [100] * 3


def results() -> dict[str, Any]:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = dict.fromkeys(("ndcg@10", "recall@10", "recall@100"), figure)
    waits = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    cell = {
        "who": "tandem",
        "mode": "dense",
        "concurrency": 1,
        "requests": 9,
        "latency_ms": waits,
        "stages_ms": {"dense": 1.0},
    }
    return {
        "quality-scifact": {
            "documents": 9, "chunks": 19, "queries": {"tuned on": 3, "reported on": 4}, "fusion": "weighted, dense 0.5",
            "tuning": {"weighted, dense 0.5": 0.5}, "model": {"name": "m", "precision": "fp32"}, "notes": ["a note"],
            "arms": {
                "dense": {"metrics": metrics, "latency_ms": waits, "queries": 4},
                "hybrid + rerank": {"metrics": metrics, "latency_ms": {}, "queries": 2},
            },
            "absent": {"other": "because"}, "gains": {"hybrid over dense": figure},
            "dense and brute force": {
                "same first ten documents": 1.0, "same up to ties": 1.0,
                "largest difference of nDCG@10": 0.0,
                "largest difference of cosine": 0.0,
            },
        },
        "latency-10k": {
            "chunks": 19, "vectors": "real", "top_k": 10, "cells": [cell, cell | {"who": "pymilvus"}],
            "p50 over pymilvus, ms": {"dense, 1 at once": 0.4},
        },
        "ingestion": {
            "chunks": 19, "documents": 9, "seconds": 2.0, "chunks per second": 9.5, "peak MiB": {"retriever": 99.0},
            "stages": {"parse": {"times": 9.0, "seconds": 1.0, "ms per chunk": 52.6}}, "file MiB": 3.0,
            "extrapolated": {"chunks": 1_000_000, "hours": 29.2}, "model": {"name": "m", "precision": "fp32"},
            "freshness": {
                "documents": 3, "found by the first search": 3, "sent to acknowledged, ms": waits,
                "acknowledged to found, one search included, ms": waits,
            },
        },
    }  # fmt: skip


def test_the_page_names_its_plots_and_says_what_is_extrapolated(tmp_path: Path) -> None:
    text, plots = page(results())
    assert set(plots) == {"ndcg-scifact", "latency-10k", "ingestion"}
    assert "hybrid + rerank (2 queries) | 0.500 [0.400, 0.600]" in text
    assert "Extrapolated, not measured: 1,000,000 chunks take 29.2 hours" in text
    about = {"cpu": "A Processor", "started": "2026-11-23T00:00:00"}
    written = report.write("retriever", about, text, {}, plots=plots, folder=tmp_path).read_text()
    for name in plots:
        assert f"![{name}](2026-11-23-retriever-a-{name}.svg)" in written
        assert (tmp_path / f"2026-11-23-retriever-a-{name}.svg").read_text().startswith("<svg")


def test_a_page_of_some_sections_is_a_page() -> None:
    for name, row in results().items():
        text, plots = page({name: row})
        assert name.removeprefix("quality-") in text
        assert len(plots) == 1
