"""Replacing documents' rows in two steps is one step to whoever reads them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.retriever.backend.documents import DocumentRows
from tandem.errors import Unavailable
from tests.fakes.retriever_milvus import FakeClient, FakeMilvus, Killed

OLD, NEW = ({"id": "t/d", "version": version, "record": ""} for version in ("old", "new"))


class Stepwise(FakeClient):
    """Stops between the two steps of an upsert, and in a read, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(FakeMilvus())
        self.create_collection("documents")
        self.insert("documents", [OLD], timeout=1)
        self.between, self.reading, self.go_on = threading.Event(), threading.Event(), threading.Event()

    def delete(self, name: str, *, ids: list[str], timeout: float) -> None:
        super().delete(name, ids=ids, timeout=timeout)
        self.between.set()
        assert self.go_on.wait(20)

    def get(self, name: str, **options: Any) -> list[dict[str, Any]]:
        self.reading.set()
        return super().get(name, **options)


def version(rows: DocumentRows, client: FakeClient, *, timeout: float = 20) -> list[str]:
    return [row["version"] for row in rows.get(client, ["t/d"], timeout=timeout)]


def test_a_read_waits_for_a_replacement_under_way() -> None:
    rows, client = DocumentRows("documents", embedded=True), Stepwise()
    with ThreadPoolExecutor() as threads:
        written = threads.submit(rows.write, client, [NEW], timeout=20)
        assert client.between.wait(20)
        read = threads.submit(version, rows, client)
        assert not client.reading.wait(0.05)
        client.go_on.set()
        assert read.result(20) == ["new"]
        written.result(20)


def test_no_read_waits_for_ever() -> None:
    rows, client = DocumentRows("documents", embedded=True), Stepwise()
    with ThreadPoolExecutor() as threads:
        written = threads.submit(rows.write, client, [NEW], timeout=20)
        assert client.between.wait(20)
        with pytest.raises(Unavailable):
            version(rows, client, timeout=0.01)
        client.go_on.set()
        written.result(20)
    assert version(rows, client) == ["new"]


def test_a_server_s_reads_wait_for_nothing() -> None:
    rows, client = DocumentRows("documents", embedded=False), Stepwise()
    with ThreadPoolExecutor() as threads:
        written = threads.submit(rows.write, client, [NEW], timeout=20)
        assert client.between.wait(20)
        assert version(rows, client) == []  # this one's steps show; those of a server do not
        client.go_on.set()
        written.result(20)


def test_a_replacement_that_fails_lets_the_reads_go_on() -> None:
    rows, client = DocumentRows("documents", embedded=True), Stepwise()
    client.go_on.set()
    client.budget = 0
    with pytest.raises(Killed):
        rows.write(client, [NEW], timeout=20)
    client.budget, client.dead = None, False
    assert version(rows, client) == ["old"]
