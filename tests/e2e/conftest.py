"""One stack for the whole folder, with the sample company in it; the files run in the order of their names."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import COMPANY, EXTRA, ROOT, Stack
from tests.fakes.calibration import document
from tests.fakes.cross_encoder import write_cross_encoder
from tests.fakes.otlp_receiver import Receiver, receiving


@pytest.fixture(scope="session")
def collector() -> Iterator[tuple[Receiver, str]]:
    """An OTLP collector, and its endpoint."""
    with receiving() as running:
        yield running


@pytest.fixture(scope="session")
def spans(collector: tuple[Receiver, str]) -> Receiver:
    """The spans that the stack has sent."""
    return collector[0]


# A folder that is watched, and a feed that nobody serves.
SOURCES = """
[[source]]
name = "notices"
tenant = "library"
kind = "folder"
path = "{notices}"
every_seconds = 1
delete_missing = true

[[source]]
name = "prices"
tenant = "library"
kind = "feed"
format = "jsonl"
url = "http://127.0.0.1:9/prices.jsonl"
"""


# What the tenants of the tests' own ask, and a domain of Halden's whose calibration has a scope.
DOMAINS = {
    "default": 'tenants = ["library", "noise"]',
    "measured": 'tenants = ["halden"]\npolicy = "dual"\ncalibration = "measured.json"',
}


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample company's domains, and these."""
    folder = shutil.copytree(COMPANY / "domains", tmp_path_factory.mktemp("domains"), dirs_exist_ok=True)
    (folder / "measured.json").write_text(json.dumps(document(domain="measured")))
    for name, text in DOMAINS.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def notices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files the retriever takes in by itself."""
    return tmp_path_factory.mktemp("notices")


@pytest.fixture(scope="session")
def stack(
    collector: tuple[Receiver, str], notices: Path, domains: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The running stack, with all that is absent by default."""
    more = tmp_path_factory.mktemp("more")
    (more / "sources.toml").write_text(SOURCES.format(notices=notices))
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[1],
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "EMBEDDER_RERANKER": "late-interaction",
        "EMBEDDER_CLASSIFIER": str(write_cross_encoder(more / "classifier", labels=3)),
        "RETRIEVER_SOURCES_FILE": str(more / "sources.toml"),
        "ROUTER_DOMAINS_DIR": str(domains),
    }
    running = Stack(tmp_path_factory.mktemp("home"), "--sample", str(COMPANY), environ=environ)
    try:
        running.wait_serving()
        running.admit(EXTRA)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def demo() -> list[dict]:
    """The demo questions of the sample company."""
    return [json.loads(line) for line in (COMPANY / "demo.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def held_out() -> list[dict]:
    """The test questions of the sample company."""
    return [json.loads(line) for line in (COMPANY / "questions" / "test.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def squad() -> tuple[dict[str, dict], list[dict]]:
    """Passages by id, and questions, of the open collection squad_rag."""
    folder = Path(os.environ.get("E2E_DATA", ROOT.parent / "shared" / "data")) / "squad_rag"
    if not folder.exists():
        pytest.skip(f"{folder} is not there; set E2E_DATA to the folder that holds squad_rag")
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        passages = {row["_id"]: row for row in map(json.loads, file)}
    return passages, [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
