"""Writes the Grafana dashboard "Tandem" with grafana-foundation-sdk.

python -m deploy.observability.dashboards            writes grafana/tandem.json
python -m deploy.observability.dashboards --check    fails when the file is not what this script makes
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from deploy.observability.telemetry import reconcile

FILE = Path(__file__).resolve().parent / "grafana" / "tandem.json"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 8, 8


@dataclass(frozen=True)
class Query:
    """Is one expression with the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Graph:
    """Is one panel; about says what a reader may conclude from it."""

    title: str
    about: str
    unit: str
    queries: Sequence[Query]
    maximum: float | None = None


def _rate(series: str, *by: str) -> str:
    inner = f"rate({series}[$__rate_interval])"
    return f"sum by ({', '.join(by)}) ({inner})" if by else f"sum({inner})"


def _quantiles(histogram: str, *by: str) -> list[Query]:
    labels = "".join(f"{{{{{label}}}}} " for label in by)
    rate = _rate(f"{histogram}_bucket", "le", *by)
    return [Query(f"histogram_quantile({q / 100:g}, {rate})", f"{labels}p{q}") for q in (50, 95)]


def _share(part: str, whole: str) -> str:
    # clamp_min keeps a quiet system at 0 instead of a division by nothing.
    return f"{part} / clamp_min({whole}, 1e-9)"


_ANSWERS = "tandem_router_answers_total"
_FEEDBACK = "tandem_router_feedback_total"
_SCOPE = "tandem_router_scope_total"
ROWS: dict[str, list[Graph]] = {
    "Answers": [
        Graph(
            "Answers by policy and route",
            "Which path answers, and which policy chose it.",
            "reqps",
            [Query(_rate(_ANSWERS, "policy", "route"), "{{policy}} / {{route}}")],
        ),
        Graph(
            "Answers by outcome",
            "How answers end.",
            "reqps",
            [Query(_rate(_ANSWERS, "outcome"), "{{outcome}}")],
        ),
        Graph(
            "Escalated share",
            "Drafts given up for another path, of all answers of the policy. 1 means that no draft was good enough.",
            "percentunit",
            [
                Query(
                    _share(_rate("tandem_router_escalations_total", "policy"), _rate(_ANSWERS, "policy")), "{{policy}}"
                )
            ],
            maximum=1,
        ),
        Graph(
            "Confidence of drafts",
            "Median and lower tenth by path. A fall tells of questions that the adapter was not trained for.",
            "percentunit",
            [
                Query(
                    f"histogram_quantile({q}, {_rate('tandem_router_confidence_ratio_bucket', 'le', 'route')})",
                    f"{{{{route}}}} p{q * 100:g}",
                )
                for q in (0.5, 0.1)
            ],
            maximum=1,
        ),
        Graph(
            "Questions outside the adapter's scope",
            "Of the questions whose distance to what the adapter was trained on was measured. A rise tells that people "
            "ask other things than before.",
            "percentunit",
            [Query(_share(_rate(f'{_SCOPE}{{lies="outside"}}'), _rate(_SCOPE)), "outside")],
            maximum=1,
        ),
        Graph(
            "Degraded answers by missing part",
            "Answers given without a part that was down.",
            "reqps",
            [Query(_rate("tandem_router_degraded_total", "component"), "{{component}}")],
        ),
        Graph(
            "Answers judged right",
            "Of the answers that people judged, the share that they used as it was. Who judges is not who asks at "
            "random: watch how it changes.",
            "percentunit",
            [
                Query(
                    _share(_rate(f'{_FEEDBACK}{{verdict="right"}}', "policy"), _rate(_FEEDBACK, "policy")), "{{policy}}"
                )
            ],
            maximum=1,
        ),
        Graph(
            "Verdicts and tickets saved",
            "What people said of answers, and how many answers saved a ticket or a call.",
            "short",
            [
                Query(f"sum by (verdict) (increase({_FEEDBACK}[1h]))", "{{verdict}}, in an hour"),
                Query("sum(increase(tandem_router_deflected_tickets_total[1h]))", "tickets saved, in an hour"),
            ],
        ),
        Graph(
            "Breakers of the peers",
            "0: the peer is asked. 1: one call tries it. 2: it is left alone, its last calls failed.",
            "short",
            [Query("max by (component) (tandem_router_breaker_state)", "{{component}}")],
            maximum=2,
        ),
        Graph(
            "Answers under way and waiting",
            "Answers waiting for their turn tell that more come in than can be made.",
            "short",
            [
                Query("sum(tandem_router_open_answers)", "being made"),
                Query("sum(tandem_router_waiting_answers)", "waiting"),
            ],
        ),
    ],
    "Time": [
        Graph(
            "Stages of an answer",
            "Where the time of an answer goes.",
            "s",
            _quantiles("tandem_router_stage_seconds", "stage"),
        ),
        Graph(
            "Time to the first token",
            "From the arrival of a generation to its first token, the wait for a slot included.",
            "s",
            _quantiles("tandem_generator_time_to_first_token_seconds"),
        ),
        Graph(
            "Audit append",
            "How long an answer waits for its record to be durable.",
            "s",
            _quantiles("tandem_router_audit_append_seconds"),
        ),
        Graph(
            "Search",
            "Each stage of a search; the dense and the BM25 ranking are read at the same time.",
            "s",
            _quantiles("tandem_retriever_search_seconds", "mode", "stage"),
        ),
        Graph(
            "Time between tokens",
            "How fast an answer reads once it has begun.",
            "s",
            _quantiles("tandem_generator_time_per_output_token_seconds"),
        ),
        Graph(
            "Wait in the queues, 95th percentile",
            "What a text or a sequence waits for the model. It grows before anything is refused.",
            "s",
            [
                Query(_quantiles("tandem_embedder_queue_seconds")[1].expression, "embedder"),
                Query(_quantiles("tandem_generator_queue_seconds")[1].expression, "generator"),
            ],
        ),
    ],
    "Calls": [
        Graph(
            "Calls by service",
            "Calls a second that each method serves.",
            "reqps",
            [Query(_rate("rpc_server_call_duration_seconds_count", "rpc_method"), "{{rpc_method}}")],
        ),
        Graph(
            "Failed calls by code",
            "Calls that did not end with OK.",
            "reqps",
            [
                Query(
                    _rate(
                        'rpc_server_call_duration_seconds_count{rpc_response_status_code!="OK"}',
                        "rpc_method",
                        "rpc_response_status_code",
                    ),
                    "{{rpc_method}} {{rpc_response_status_code}}",
                )
            ],
        ),
        Graph(
            "Duration of calls, 95th percentile",
            "Streams last as long as their answer.",
            "s",
            [_quantiles("rpc_server_call_duration_seconds", "rpc_method")[1]],
        ),
        Graph(
            "Refused calls",
            "Calls turned away at a door, with the reason; callers may try again.",
            "reqps",
            [
                Query(_rate("tandem_rpc_calls_refused_total", "reason"), "{{reason}}"),
                Query(_rate("tandem_generator_sequences_refused_total"), "generator's queue is full"),
                Query(_rate("tandem_router_refused_total"), "router's waiting room is full"),
            ],
        ),
    ],
    "Work": [
        Graph(
            "Queues",
            "What waits for the models. A queue that only grows needs another replica.",
            "short",
            [
                Query("sum(tandem_embedder_queue_texts)", "texts to embed"),
                Query("sum(tandem_generator_waiting_sequences)", "sequences to start"),
                Query("sum(tandem_generator_running_sequences)", "sequences being decoded"),
            ],
        ),
        Graph(
            "Tokens",
            "Tokens that the models work through.",
            "short",
            [
                Query(_rate("tandem_generator_prefill_tokens_total"), "read"),
                Query(_rate("tandem_generator_decode_tokens_total"), "generated"),
                Query(_rate("tandem_embedder_tokens_total"), "embedded"),
            ],
        ),
        Graph(
            "Ingest",
            "Documents a second by what became of them.",
            "short",
            [Query(_rate("tandem_retriever_documents_total", "state"), "{{state}}")],
        ),
        Graph(
            "Freshness",
            "From a document's appearance, in an upload or a live source, to its being found.",
            "s",
            _quantiles("tandem_retriever_freshness_seconds", "origin"),
        ),
        Graph(
            "Lag of live sources",
            "How long ago a folder or a feed was last seen whole. Where it only grows, the log says why.",
            "s",
            [Query("max by (source) (tandem_retriever_source_lag_seconds)", "{{source}}")],
        ),
        Graph(
            "Documents of jobs that wait",
            "What jobs have accepted and not yet indexed.",
            "short",
            [Query("sum(tandem_retriever_job_documents_waiting)", "documents")],
        ),
    ],
}


def expressions() -> list[str]:
    """Returns every expression of the dashboard."""
    return [query.expression for graphs in ROWS.values() for graph in graphs for query in graph.queries]


def _panel(graph: Graph, number: int) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    panel = (
        timeseries.Panel()
        .id(number)
        .title(graph.title)
        .description(graph.about)
        .datasource(_SOURCE)
        .unit(graph.unit)
        .min(0)
        .span(_WIDTH)
        .height(_HEIGHT)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if graph.maximum is not None:
        panel = panel.max(graph.maximum)
    for index, query in enumerate(graph.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).range()
        panel = panel.with_target(target.ref_id(chr(ord("A") + index)).datasource(_SOURCE))
    return panel


def build() -> str:
    """Returns the dashboard as JSON."""
    board = (
        dashboard.Dashboard("Tandem")
        .uid("tandem")
        .description("Which path answers, how well, how fast, and what the parts behind it do.")
        .tags(["tandem"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    numbers = itertools.count(1)
    for title, graphs in ROWS.items():
        board = board.with_row(dashboard.Row(title).id(next(numbers)))
        for graph in graphs:
            board = board.with_panel(_panel(graph, next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the dashboard; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the Grafana dashboard.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    return reconcile(FILE, build(), check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main())
