import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.retriever.domain import MAX_DOCUMENT_BYTES
from services.retriever.domain.uploads import Origin
from services.retriever.metrics import RetrieverMetrics
from services.retriever.sources import feed as feed_module
from services.retriever.sources.config import SourceConfig
from services.retriever.sources.feed import Feed
from services.retriever.sources.folder import Folder
from services.retriever.sources.look import MARK, SourceFault, document_id
from services.retriever.sources.watch import Watch
from services.retriever.sources.watcher import Watcher
from tandem.errors import Unavailable
from tests.fakes.feeds import Site
from tests.fakes.intake import FakeIntake, StoreOf, upload

ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>News</title><id>urn:n</id>
<entry><id>urn:a</id><title>Storm &amp; hail</title><link href="https://news.example/a"/>
<updated>2026-01-02T03:04:05Z</updated>
<content type="html">&lt;p&gt;Cover begins at &lt;b&gt;once&lt;/b&gt;.&lt;/p&gt;</content>
</entry><entry><id>urn:b</id><title>Bare</title></entry></feed>"""


def config(**fields: object) -> SourceConfig:
    settings = {"name": "live", "tenant": "halden", "kind": "feed", "format": "jsonl", "every_seconds": 1.0, **fields}
    return SourceConfig(**settings)  # type: ignore[arg-type]


class Room:
    """Is one source and what it fills."""

    def __init__(self, settings: SourceConfig, intake: FakeIntake | None = None) -> None:
        self.intake = intake or FakeIntake()
        self.store = StoreOf(self.intake)
        self.registry = CollectorRegistry()
        self.source = Folder(settings) if settings.kind == "folder" else Feed(settings)
        metrics = RetrieverMetrics(self.registry)
        self.watcher = Watcher(settings, self.source, store=self.store, intake=self.intake, metrics=metrics)

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"tandem_retriever_source_{name}", {"source": "live"})

    @property
    def ids(self) -> list[str]:
        return sorted(key.document_id for key in self.intake.held)

    async def close(self) -> None:
        await self.source.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().open() as site:
        yield site


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[tuple[Path, Room]]:
    path = tmp_path / "live"
    path.mkdir()
    room = Room(config(kind="folder", path=str(path), format="", delete_missing=True, groups=("leads",)))
    yield path, room
    await room.close()


async def test_files_are_taken_in_when_they_appear_change_and_go(folder: tuple[Path, Room]) -> None:
    path, room = folder
    (path / "inner").mkdir()
    (path / "a.md").write_text("first")
    (path / "inner" / "B c.TXT").write_text("second")
    for odd in (".hidden.md", "x.exe", "x.md.part"):
        (path / odd).write_text("not for us")
    (path / "link.md").symlink_to(path / "a.md")
    os.mkfifo(path / "pipe.md")
    assert await room.watcher.look()
    inner = document_id("live", "inner/B c.TXT")
    assert room.ids == sorted(["live.a.md", inner])
    held = {key.document_id: item for key, item in room.intake.held.items()}
    assert held["live.a.md"].header.attributes == {MARK: "live"}
    assert (held[inner].header.source, held[inner].header.groups) == ("inner/B c.TXT", ("leads",))
    assert room.intake.origins == [Origin.FOLDER]
    await room.watcher.look()
    assert len(room.intake.taken) == 2
    (path / "a.md").write_text("changed")
    (path / "inner" / "B c.TXT").unlink()
    assert await room.watcher.look()
    assert room.ids == ["live.a.md"]
    assert [item.data for item in room.intake.held.values()] == [b"changed"]
    assert room.value("documents") == 1


async def test_freshness_counts_from_the_change_at_the_earliest_from_the_look_before(
    folder: tuple[Path, Room],
) -> None:
    path, room = folder
    begun = time.time()
    (path / "a.md").write_text("first")
    os.utime(path / "a.md", (1, 1))  # as a copy that keeps its times
    await room.watcher.look()
    (item,) = room.intake.held.values()
    assert item.appeared is not None
    assert begun - 1 < item.appeared <= time.time()


async def test_an_empty_or_missing_folder_deletes_nothing_and_says_so_once(
    folder: tuple[Path, Room], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, room = folder
    (path / "a.md").write_text("first")
    assert await room.watcher.look()
    shutil.rmtree(path)
    for _ in range(3):
        assert not await room.watcher.look()
    path.mkdir()
    assert not await room.watcher.look()
    assert room.ids == ["live.a.md"]
    assert room.value("failures_total") == 4
    (path / "b.md").write_text("second")
    assert await room.watcher.look()
    assert room.ids == ["live.b.md"]
    told = [(r.message, getattr(r, "reason", "")) for r in caplog.records]
    assert [message for message, _ in told] == ["live source fails", "live source fails", "live source works again"]
    assert "mend the folder" in told[0][1]
    assert "not mounted" in told[1][1]


async def test_a_file_too_large_is_rejected_once_and_no_other(
    folder: tuple[Path, Room], caplog: pytest.LogCaptureFixture
) -> None:
    path, room = folder
    with (path / "big.pdf").open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    (path / "a.md").write_text("first")
    for _ in range(2):
        assert await room.watcher.look()
    assert room.ids == ["live.a.md"]
    assert [getattr(r, "reason", "") for r in caplog.records] == ["TOO_LARGE"]


async def test_what_an_earlier_process_took_in_is_known_and_others_documents_are_left_alone(tmp_path: Path) -> None:
    settings = config(kind="folder", path=str(tmp_path), format="", delete_missing=True)
    room = Room(settings)
    for name, attributes in (("live.old.md", {MARK: "live"}), ("live.mine", {}), ("livelier", {MARK: "live"})):
        room.intake.hold("halden", upload(name, attributes=attributes))
    room.intake.hold("halden", upload("live.secret", attributes={MARK: "live"}, groups=("others",)))
    (tmp_path / "a.md").write_text("first")
    assert await room.watcher.look()
    assert room.ids == ["live.a.md", "live.mine", "live.secret", "livelier"]
    await room.close()


async def test_a_fault_of_the_house_is_tried_again(folder: tuple[Path, Room]) -> None:
    path, room = folder
    (path / "a.md").write_text("first")
    room.intake.fault = Unavailable("no embedder")
    assert not await room.watcher.look()
    room.intake.fault = None
    assert await room.watcher.look()
    assert room.ids == ["live.a.md"]


async def test_json_lines_become_documents_and_a_bad_line_keeps_the_others(site: Site) -> None:
    site.body = "\n".join(
        [
            json.dumps({"id": "p1", "text": "Tariff: 12.", "title": "Tariff", "attributes": {"unit": "EUR"},
                        "valid_from": "2026-01-01", "valid_until": "2026-02-01T00:00:00Z"}),
            "", "{", "[" * 100_000, '{"id": "x"}', '{"id": "y", "text": "t", "valid_from": "soon"}',
            '{"id": "z", "text": "\\ud800"}', '{"id": "q", "text": "t", "attributes": {"a": 1}}',
            json.dumps({"id": "P 2", "text": "# Head", "media_type": "text/markdown"}),
        ]
    ).encode()  # fmt: skip
    room = Room(config(url=site.url("feed"), delete_missing=True))
    room.intake.hold("halden", upload("live.gone", attributes={MARK: "live"}))
    assert await room.watcher.look()
    held = {key.document_id: item for key, item in room.intake.held.items()}
    second = document_id("live", "P 2")
    assert held.keys() == {"live.p1", second, "live.gone"}  # nothing is deleted while a line is not understood
    header = held["live.p1"].header
    assert (header.title, header.attributes) == ("Tariff", {"unit": "EUR", MARK: "live"})
    assert (header.valid_from, header.valid_until) == (1767225600_000_000, 1769904000_000_000)
    assert room.value("failures_total") == 1
    site.body = json.dumps({"id": "p1", "text": "Tariff: 13."}).encode()
    assert await room.watcher.look()
    assert room.ids == ["live.p1"]
    await room.close()


async def test_atom_becomes_documents_with_their_links(site: Site) -> None:
    site.body = ATOM.encode()
    room = Room(config(url=site.url("feed"), format="rss"))
    assert await room.watcher.look()
    first, second = (room.intake.held[key] for key in sorted(room.intake.held, key=lambda k: k.document_id))
    assert first.header.title == "Storm & hail"
    assert first.header.attributes == {"link": "https://news.example/a", MARK: "live"}
    assert b"<b>once</b>" in first.data
    assert first.header.media_type == "text/html"
    assert second.data == b"<h1>Bare</h1>\n"
    for body, words in ((b"<html>no feed</html>", "neither RSS nor Atom"), (ATOM[:-30].encode(), "not well-formed")):
        site.body = body
        await room.watcher.look()
        assert words in room.watcher._fault
    await room.close()


async def test_an_unchanged_feed_costs_one_question(site: Site) -> None:
    site.body, site.headers = b'{"id": "a", "text": "t"}', {"ETag": '"1"', "Last-Modified": "then"}
    room = Room(config(url=site.url("feed"), delete_missing=True))
    room.intake.fault = Unavailable("no embedder")
    assert not await room.watcher.look()
    room.intake.fault = None
    assert await room.watcher.look()
    site.status = HTTPStatus.NOT_MODIFIED
    assert await room.watcher.look()
    assert [asked.get("if-none-match") for asked in site.asked] == [None, None, '"1"']
    assert site.asked[2]["if-modified-since"] == "then"
    assert site.asked[2]["accept-encoding"] == "identity"
    assert room.ids == ["live.a"]
    await room.close()


async def test_redirects_stay_on_the_host_and_secrets_with_them(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    site.body = b'{"id": "a", "text": "t"}'
    feed = Feed(config(url=site.url("moved"), token_file=str(tmp_path / "token")))
    site.location = "/feed"
    look = await feed.look()
    assert look is not None
    assert len(look.items) == 1
    assert site.asked[-1]["authorization"] == "Bearer s3cret"
    for location in ("file:///etc/passwd", "http://localhost:1/feed", "ftp://127.0.0.1/x", "http://127.0.0.1:1/x"):
        site.location = location
        with pytest.raises(SourceFault, match="write that into url if it is right"):
            await feed.look()
    site.location = "/moved"
    with pytest.raises(SourceFault, match="more than 3 times"):
        await feed.look()
    await feed.close()


async def test_bodies_and_times_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_MAX_BYTES", 1000)
    monkeypatch.setattr(feed_module, "_PULL_S", 0.3)
    feed = Feed(config(url=site.url("feed")))
    for body, headers, status, words in (
        (b"x" * 5000, {}, 200, "MiB"),
        (b"x", {"Content-Encoding": "gzip"}, 200, "compresses"),
        (b"x", {}, 503, "answers 503"),
        (b"", {"X-Stall": "yes"}, 200, r"takes more than 0.3 s"),
    ):
        site.body, site.headers, site.status = body, headers, HTTPStatus(status)
        with pytest.raises(SourceFault, match=words):
            await feed.look()
    await feed.close()
    gone = Feed(config(url="http://127.0.0.1:1/feed"))
    with pytest.raises(SourceFault, match="cannot be had: ConnectError"):
        await gone.look()
    await gone.close()


async def test_a_source_that_fails_or_hangs_harms_no_other(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("first")
    site.headers = {"X-Stall": "yes"}
    sources = [
        config(name="hangs", url=site.url("feed")),
        config(name="broken", kind="folder", path=str(tmp_path / "none"), format=""),
        config(kind="folder", path=str(tmp_path), format=""),
    ]
    intake = FakeIntake()
    registry = CollectorRegistry()
    watch = Watch(sources, store=StoreOf(intake), intake=intake, metrics=RetrieverMetrics(registry))
    watch.start()
    async with asyncio.timeout(20):
        while not intake.held:  # noqa: ASYNC110 -- what is waited for happens in threads
            await asyncio.sleep(0.01)
    await watch.stop()
    assert registry.get_sample_value("tandem_retriever_source_failures_total", {"source": "broken"}) == 1
    lag = registry.get_sample_value("tandem_retriever_source_lag_seconds", {"source": "hangs"})
    assert lag is not None
    assert 0 <= lag < 60


def test_ids_are_well_formed_and_apart() -> None:
    names = ["a.md", "A.md", "a b.md", "a-b.md", "x/a.md", "../a", "日本", "", "x" * 500, "é\udcff"]
    ids = [document_id("live", name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(len(found) <= 128 and found.isascii() and found.startswith("live.") for found in ids)
    assert ids[0] == "live.a.md"
