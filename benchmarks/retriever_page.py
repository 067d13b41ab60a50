"""The results of retrieval as a page with plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.retriever_quality import BY_PLACES, TUNED
from tandem.report.plots import INK, SOFT, STRONG, bars, svg
from tandem.scoring import Interval

Results = Mapping[str, dict[str, Any]]
METRICS = ("ndcg@10", "recall@10", "recall@100")
_OVERHEAD_MS = 2.0
_OURS = ("dense", "sparse", "hybrid", "hybrid + rerank", BY_PLACES, TUNED)


def page(results: Results) -> tuple[str, dict[str, str]]:
    """Returns the sections that there are as Markdown, and the plots that it names."""
    lines, plots = ["# Retrieval: quality, latency, cost"], dict[str, str]()
    sets = {name.removeprefix("quality-"): row for name, row in results.items() if name.startswith("quality-")}
    if sets:
        lines += _summary(sets)
        for name, row in sets.items():
            lines += _quality(name, row)
            intervals = {arm: Interval(**cells["metrics"]["ndcg@10"]) for arm, cells in row["arms"].items()}
            plots[f"ndcg-{name}"] = bars(intervals, label=f"{name}: nDCG@10", strong=_OURS)
    for name, row in results.items():
        if name.startswith("latency"):
            lines += _latency(name, row)
            plots[name] = _latency_plot(row)
    if "ingestion" in results:
        lines += _ingestion(results["ingestion"])
        plots["ingestion"] = _ingestion_plot(results["ingestion"])
    return "\n".join(lines) + "\n", plots


def _summary(sets: Results) -> list[str]:
    arms = list(dict.fromkeys(arm for row in sets.values() for arm in row["arms"]))
    lines = [
        "", "## nDCG@10 in short", "",
        "On the half of the queries that nothing was tuned on. The first six are ours, through gRPC.", "",
        f"| | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}",
    ]  # fmt: skip
    for arm in arms:
        cells = [row["arms"].get(arm) for row in sets.values()]
        told = [f"{cell['metrics']['ndcg@10']['value']:.3f}" if cell else "-" for cell in cells]
        lines.append(f"| {arm} | {' | '.join(told)} |")
    tried = [row["tuning"] for row in sets.values()]
    common = {label: sum(row[label] for row in tried) / len(tried) for label in tried[0]}
    best = max(common, key=lambda label: common[label])
    return [
        *lines,
        "",
        f"One fusion for all of them would be {best} (mean nDCG@10 {common[best]:.3f} where it was tuned).",
    ]


def _quality(name: str, row: dict[str, Any]) -> list[str]:
    asked = row["queries"]
    lines = [
        "", f"## {name}", "",
        f"{row['documents']} documents in {row['chunks']} chunks; {asked['reported on']} queries, fusion tuned on "
        f"{asked['tuned on']} others: {row['fusion']}. Embedding: {row['model']['name']}, "
        f"{row['model']['precision']}. 95 % intervals by bootstrap.", "", f"![ndcg-{name}]", "",
        f"| | {' | '.join(METRICS)} | p50 / p95 / p99 ms |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for arm, cells in row["arms"].items():
        told = [f"{i['value']:.3f} [{i['low']:.3f}, {i['high']:.3f}]" for i in (cells["metrics"][m] for m in METRICS)]
        waits = " / ".join(f"{value:.0f}" for value in cells["latency_ms"].values()) or "-"
        few = f" ({cells['queries']} queries)" if cells["queries"] < asked["reported on"] else ""
        lines.append(f"| {arm}{few} | {' | '.join(told)} | {waits} |")
    lines += [f"| {arm} | absent: {reason} | | | |" for arm, reason in row["absent"].items()]
    lines.append("")
    for what, i in row["gains"].items():
        lines.append(f"- {what}: {i['value']:+.3f} [{i['low']:+.3f}, {i['high']:+.3f}]")
    exact = row["dense and brute force"]
    lines.append(
        "- dense, which is asked with the vectors of brute force and so waits for no embedder, and brute force: the "
        f"same first ten documents for {exact['same first ten documents']:.1%} of the queries, up to ties for "
        f"{exact['same up to ties']:.1%}; nDCG@10 differs by at most {exact['largest difference of nDCG@10']:.4f}, "
        f"cosine at the same place by {exact['largest difference of cosine']:.6f}"
    )
    return [*lines, *(f"- {note}" for note in row["notes"])]


def _latency(name: str, row: dict[str, Any]) -> list[str]:
    lines = [
        "", f"## {name}", "",
        f"{row.get('chunks', '')} chunks, {row['vectors']} vectors; top {row['top_k']}, query vectors given, filtered "
        "by tenant and groups. pymilvus asks a copy of the same file with the same filter, turn by turn.", "",
        f"![{name}]", "",
        "| mode | at once | who | requests | p50 ms | p95 ms | p99 ms | the server's stages, median ms |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for cell in row["cells"]:
        waits = " | ".join(f"{value:.1f}" for value in cell["latency_ms"].values())
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in cell["stages_ms"].items())
        asked = f"{cell['mode']} | {cell['concurrency']} | {cell['who']} | {cell['requests']}"
        lines.append(f"| {asked} | {waits} | {stages} |")
    lines += ["", f"p50 over pymilvus, at most {_OVERHEAD_MS:.0f} ms wanted:", ""]
    return [*lines, *(f"- {what}: {value:+.1f} ms" for what, value in row["p50 over pymilvus, ms"].items())]


def _latency_plot(row: dict[str, Any]) -> str:
    figure = Figure(figsize=(8, 0.8 + 0.36 * len(row["cells"])), layout="constrained")
    axes = figure.add_subplot()
    for place, cell in enumerate(row["cells"]):
        waits = cell["latency_ms"]
        axes.barh(place, waits["p50"], height=0.6, color=STRONG if cell["who"] == "tandem" else SOFT)
        axes.plot([waits["p95"]], [place], color=INK, marker="|", markersize=9)
        axes.plot([waits["p99"]], [place], color=INK, marker="x", markersize=5)
    labels = [f"{cell['who']}, {cell['mode']}, {cell['concurrency']} at once" for cell in row["cells"]]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("ms: bar p50, | p95, x p99")
    return svg(figure, axes)


def _ingestion(row: dict[str, Any]) -> list[str]:
    more, fresh = row["extrapolated"], row["freshness"]
    lines = [
        "", "## ingestion", "",
        f"{row['chunks']} real chunks of {row['documents']} documents in {row['seconds']:.0f} s: "
        f"{row['chunks per second']:.1f} chunks a second, with the embedder ({row['model']['precision']}) on the same "
        f"machine. Extrapolated, not measured: {more['chunks']:,} chunks take {more['hours']:.1f} hours.", "",
        "![ingestion]", "", "| stage | times | busy s | ms a chunk |", "|---|---|---|---|",
    ]  # fmt: skip
    for stage, cost in row["stages"].items():
        lines.append(f"| {stage} | {cost['times']:.0f} | {cost['seconds']:.1f} | {cost['ms per chunk']:.2f} |")
    peaks = ", ".join(f"{what} {mib:.0f} MiB" for what, mib in row["peak MiB"].items())
    lines += [
        "",
        f"Stages overlap. Peak memory: {peaks}; the file has {row['file MiB']:.0f} MiB.",
        "",
        "## freshness",
        "",
    ]
    lines.append(
        f"{fresh['found by the first search']} of {fresh['documents']} documents were found by the first search after "
        "their acknowledgement."
    )
    lines += ["", "| | p50 ms | p95 ms | p99 ms |", "|---|---|---|---|"]
    for what in ("sent to acknowledged, ms", "acknowledged to found, one search included, ms"):
        waits = " | ".join(f"{value:.1f}" for value in fresh[what].values())
        lines.append(f"| {what.removesuffix(', ms')} | {waits} |")
    return lines


def _ingestion_plot(row: dict[str, Any]) -> str:
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.add_subplot()
    stages: Sequence[tuple[str, float]] = [(stage, cost["ms per chunk"]) for stage, cost in row["stages"].items()]
    for place, (_, cost) in enumerate(stages):
        axes.barh(place, cost, height=0.6, color=STRONG)
        axes.text(cost, place, f" {cost:.2f}", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(stages)), [stage for stage, _ in stages])
    axes.invert_yaxis()
    axes.set_xlabel("ms a chunk; stages overlap")
    return svg(figure, axes)
