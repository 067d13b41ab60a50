"""Reading the audit log: a tenant's own records, in pages and windows of time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.router.audit import parse_timestamp
from tandem.errors import InvalidInput, NotFound
from tests.fakes.router_audit import BRAM, Store, fill, opening


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


async def test_a_tenant_sees_its_own_records_only(store: Store) -> None:
    log = store.started()
    await fill(log, "a")
    await fill(log, "b", principal=BRAM)
    reader = store.reader()
    with pytest.raises(NotFound):
        await reader.get("halden", "b")
    page = await reader.page("brightwater", size=10, token="", start=None, end=None)
    assert {record.answer_id for record in page.records} == {"b"}
    stolen = (await reader.page("halden", size=1, token="", start=None, end=None)).next_page_token
    after = await reader.page("brightwater", size=10, token=stolen, start=None, end=None)
    assert all(record.tenant == "brightwater" for record in after.records)


async def test_pages_are_newest_first_and_steady_while_records_arrive(store: Store) -> None:
    log = store.started()
    await fill(log, *(f"a{number}" for number in range(5)))
    reader = store.reader()
    seen, token = [], ""
    while True:
        page = await reader.page("halden", size=3, token=token, start=None, end=None)
        seen += [record.sequence for record in page.records]
        token = page.next_page_token
        await log.open(opening(f"late {len(seen)}"))
        if not token:
            break
    assert seen == list(range(10, 0, -1))


async def test_a_page_of_long_records_ends_early(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.router.audit.reader._PAGE_BYTES", 500)
    await fill(store.started(), "a", "b")
    page = await store.reader().page("halden", size=100, token="", start=None, end=None)
    assert 1 <= len(page.records) < 4
    assert page.next_page_token


async def test_a_window_of_time_takes_its_start_and_leaves_its_end(store: Store) -> None:
    log = store.started()
    await fill(log, "a", "b")
    reader = store.reader()
    records = (await reader.page("halden", size=10, token="", start=None, end=None)).records
    start, end = parse_timestamp(records[2].record_time), parse_timestamp(records[0].record_time)
    window = await reader.page("halden", size=10, token="", start=start, end=end)
    assert [record.sequence for record in window.records] == [3, 2]


@pytest.mark.parametrize("token", ["x", "é", "W10", "bnVsbA", "WzEsMiwzXQ", "A" * 5000])
async def test_a_token_that_is_none_is_refused(store: Store, token: str) -> None:
    store.started()
    with pytest.raises(InvalidInput):
        await store.reader().page("halden", size=10, token=token, start=None, end=None)
