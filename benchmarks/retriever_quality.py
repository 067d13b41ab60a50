"""What each way to search is worth on one set, beside bm25s and brute force over the very same vectors."""

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments
from benchmarks.peers import bm25s_runner
from benchmarks.retrieval_sets import group_of, halves, write
from benchmarks.retriever_server import Retriever, model_embedder
from benchmarks.runner import ROOT
from evaluation.retrieval.asking import MODES, TOP_K, Answers, Asking, Mode, NotServed
from evaluation.retrieval.beir import Benchmark, read
from evaluation.retrieval.documents import Shelf
from evaluation.retrieval.measuring import evaluated, latencies
from evaluation.retrieval.metrics import METRICS
from evaluation.retrieval.tuning import fusions, tried
from tandem.client import AsyncEmbedderClient
from tandem.scoring import mean, mean_interval, paired_interval
from tandem.v1 import retriever_service_pb2 as retriever

TUNED, BY_PLACES = "hybrid, tuned", "hybrid by places"
_DEPTH, _EMBEDDED_AT_ONCE, _MOST_TUNING, _MOST_RERANKED = 100, 64, 200, 100
_TIE = 1e-6  # of cosine, what single precision leaves open


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Is what all sets have in common."""

    data: Path
    work: Path
    seed: int
    precision: str
    reranker: str
    concurrency: int = 4
    most_queries: int | None = None

    @property
    def embedder(self) -> dict[str, str]:
        """The embedder's settings."""
        return {"PRECISION": self.precision} | ({"RERANKER": self.reranker} if self.reranker else {})


@dataclass(frozen=True, kw_only=True)
class _WithVectors(Asking):
    """Asks with vectors that are there already, by query, so that brute force can have the very same."""

    vectors: Mapping[str, Sequence[float]]
    model_sha256: str

    async def _search(self, mode: Mode, text: str) -> retriever.SearchResponse:
        return await self.client.search(
            text,
            top_k=TOP_K,
            mode=mode.search,
            search_filter=self.search_filter,
            keep_duplicates=True,
            query_vector=self.vectors[text],
            query_model_sha256=self.model_sha256,
        )


async def quality(name: str, on: Conditions) -> dict[str, Any]:
    """Measures one set; its folder and its retriever's data stay in the work folder."""
    home = on.work / f"quality-{name}"
    home.mkdir(parents=True, exist_ok=True)
    benchmark = read(write(name, on.data, on.work / "sets" / name))
    tuning, held = halves(name, list(benchmark.queries)[: on.most_queries], seed=on.seed)
    async with model_embedder(home, on.embedder) as (address, embedder):
        server = Retriever(home, address, {"CREDENTIAL_FILE": str(home / "retriever.token")})
        await server.start()
        try:
            async with server.client(timeout_s=120) as client:
                shelf = Shelf(client, name)
                filed = await shelf.fill(benchmark, _told(name))
                asking = Asking(
                    client=client,
                    names={shelf.document_id(document): document for document in benchmark.documents},
                    search_filter=shelf.filter(),
                    concurrency=on.concurrency,
                )
                print(f"{name}: tuning", flush=True)
                choosing = {query: benchmark.queries[query] for query in tuning[:_MOST_TUNING]}
                found = await tried(asking, choosing, benchmark.judgements, lambda: None)
                best = max(found, key=lambda fusion: found[fusion])
                texts = {query: benchmark.queries[query] for query in held}
                asked = dict(zip(held, await _embedded(embedder, list(texts.values())), strict=True))
                model = await embedder.get_model()
                given = _WithVectors(
                    **{one.name: getattr(asking, one.name) for one in fields(asking)},
                    vectors={texts[query]: vector for query, vector in asked.items()},
                    model_sha256=model.lineage.model_sha256,
                )
                answers, absent = await _answers(asking, given, texts, fusions()[best], name)
        finally:
            await server.stop()
    chunks = _rows(server.database, home / "vectors.npz")
    names = [asking.names.get(row["document_id"], "") for row in chunks]
    stored = np.load(home / "vectors.npz")["vectors"]
    exact = _brute_force(stored, names, asked)
    behind = _behind(stored, names, asked, exact, answers["dense"].rankings)
    answers["brute force, same vectors"] = Answers(rankings=exact)
    peers = _bm25s(benchmark, chunks, names, held)
    answers |= {arm: Answers(rankings=rankings) for arm, rankings in peers.items()}
    scored = _scored(name, benchmark, answers, held)
    scored["dense and brute force"] |= {
        "same up to ties": mean([float(one <= _TIE) for one in behind]),
        "largest difference of cosine": max(behind),
    }
    return scored | {
        "set": name,
        "documents": len(benchmark.documents),
        "chunks": len(chunks),
        "queries": {"tuned on": len(choosing), "reported on": len(held)},
        "notes": [*benchmark.notes, *filed.notes()],
        "model": {"name": model.lineage.model, "precision": on.precision},
        "absent": absent,
        "fusion": best,
        "tuning": found,
    }


async def _answers(
    asking: Asking, given: Asking, asked: Mapping[str, str], fusion: retriever.Fusion, name: str
) -> tuple[dict[str, Answers], dict[str, str]]:
    """Asks in all modes; in the dense one as `given` does."""
    by_places = retriever.Fusion(reciprocal_rank=retriever.Fusion.ReciprocalRank())
    others = [
        replace(MODES["hybrid"], name=BY_PLACES, fusion=by_places),
        replace(MODES["hybrid"], name=TUNED, fusion=fusion),
    ]
    found, absent = {}, {}
    # Reranking a hundred passages takes seconds on a processor.
    few = dict(list(asked.items())[:_MOST_RERANKED])
    for mode in (*MODES.values(), *others):
        print(f"{name}: {mode.name}", flush=True)
        try:
            if mode.rerank:  # one at a time: what a few of them read fills the embedder's queue
                found[mode.name] = await replace(asking, concurrency=1).ask(mode, few, lambda: None)
            else:
                found[mode.name] = await (given if mode.name == "dense" else asking).ask(mode, asked, lambda: None)
        except NotServed as error:
            absent[mode.name] = str(error)
    return found, absent


def _scored(name: str, benchmark: Benchmark, answers: Mapping[str, Answers], queries: Sequence[str]) -> dict[str, Any]:
    groups = [group_of(name, query) for query in queries]
    values = {
        arm: evaluated(given.rankings, benchmark.judgements, [query for query in queries if query in given.rankings])
        for arm, given in answers.items()
    }
    gain = {}
    single = max(("dense", "sparse"), key=lambda arm: mean(values[arm]["ndcg@10"]))
    for arm in ("hybrid", TUNED, BY_PLACES):
        for metric in METRICS if arm == "hybrid" else ("ndcg@10",):
            found = paired_interval(values[arm][metric], values[single][metric], groups=groups)
            gain[f"{arm} over {single}, {metric}"] = asdict(found)
    if reranked := values.get("hybrid + rerank", {}).get("ndcg@10"):
        count = len(reranked)
        found = paired_interval(reranked, values["hybrid"]["ndcg@10"][:count], groups=groups[:count])
        gain[f"hybrid + rerank over hybrid on {count} queries, ndcg@10"] = asdict(found)
    exact = values["brute force, same vectors"]["ndcg@10"]
    differences = [abs(a - b) for a, b in zip(values["dense"]["ndcg@10"], exact, strict=True)]
    rankings = answers["dense"].rankings, answers["brute force, same vectors"].rankings
    same = mean([float(rankings[0][query][:10] == rankings[1][query][:10]) for query in queries])
    return {
        "arms": {
            arm: {
                "metrics": {m: asdict(mean_interval(one, groups=groups[: len(one)])) for m, one in found.items()},
                "queries": len(found["ndcg@10"]),
                "latency_ms": latencies(list(answers[arm].seconds.values())) if answers[arm].seconds else {},
            }
            for arm, found in values.items()
        },
        "gains": gain,
        "dense and brute force": {"same first ten documents": same, "largest difference of nDCG@10": max(differences)},
    }


async def _embedded(embedder: AsyncEmbedderClient, texts: Sequence[str]) -> list[list[float]]:
    found: list[list[float]] = []
    for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
        response = await embedder.embed(texts[start : start + _EMBEDDED_AT_ONCE])
        found += [list(embedding.values) for embedding in response.embeddings]
    return found


def _rows(database: Path, vectors: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.retriever_rows", str(database), str(vectors)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _brute_force(
    vectors: "np.ndarray[Any, Any]", names: Sequence[str], queries: Mapping[str, Sequence[float]]
) -> dict[str, list[str]]:
    """Returns the documents of the best hundred chunks by cosine similarity, exactly."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {}
    for query, vector in queries.items():
        order = np.argsort(-(unit @ np.asarray(vector, dtype=np.float32)), kind="stable")[:_DEPTH]
        found[query] = list(dict.fromkeys(names[place] for place in order))
    return found


def _behind(
    vectors: "np.ndarray[Any, Any]",
    names: Sequence[str],
    queries: Mapping[str, Sequence[float]],
    exact: Mapping[str, Sequence[str]],
    ours: Mapping[str, Sequence[str]],
) -> list[float]:
    """Returns by how much cosine our first ten documents lie behind the exact ones at most, for each query.

    It is rounding where the two differ by ties alone, as between documents of the same text.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    behind = []
    for query, vector in queries.items():
        scores = unit @ (np.asarray(vector, dtype=np.float32) / np.linalg.norm(vector))
        best, held = (
            [float(scores[places[name]].max()) for name in rankings[query][:10]] for rankings in (exact, ours)
        )
        behind.append(max((one - other for one, other in zip(best, held, strict=False)), default=1.0))
    return behind


def _bm25s(
    benchmark: Benchmark, chunks: Sequence[dict[str, Any]], names: Sequence[str], queries: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Returns the rankings of bm25s over whole documents, and over the same chunks as ours; none where it is absent."""
    try:
        python = environments.python("bm25s")
    except environments.Absent as error:
        print(f"bm25s is absent: {error}", flush=True)
        return {}
    asked = {query: benchmark.queries[query] for query in queries}
    entries = list(benchmark.entries())
    loads = {
        "bm25s, whole documents": ([e.name for e in entries], [f"{e.title}\n{e.text}" for e in entries]),
        "bm25s, same chunks": (list(names), [row["content"] for row in chunks]),
    }
    found = {}
    for arm, (labels, texts) in loads.items():
        load = json.dumps({"names": labels, "texts": texts, "queries": asked, "depth": _DEPTH})
        command = [str(python), str(Path(bm25s_runner.__file__))]
        done = subprocess.run(command, input=load, capture_output=True, text=True, check=True)
        found[arm] = json.loads(done.stdout)["rankings"]
    return found


def _told(name: str) -> Any:
    last = 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        now = asyncio.get_running_loop().time()
        if now - last > 10 or done == total:
            last = now
            print(f"{name}: {what} {done}/{total}", flush=True)

    return tell
