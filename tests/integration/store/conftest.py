"""Opens the store on Milvus Lite and on a Milvus server, once each for all tests; every test has its own tenant."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from services.retriever.backend.store import MilvusStore
from tests.fakes.milvus_server import Credentials, Running, milvus_server
from tests.fakes.stores import Subject, opened

_TENANTS = itertools.count()


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials.write(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="session")
def secure_server(tmp_path_factory: pytest.TempPathFactory, credentials: Credentials) -> Iterator[Running]:
    """Runs a server that asks for a client certificate, user and password."""
    options = ["--users", "--tls", str(credentials.folder), "--tick-ms", "50"]
    with milvus_server(tmp_path_factory.mktemp("milvus"), *options) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    settings: dict[str, object] = {"milvus_uri": str(tmp_path_factory.mktemp("lite") / "milvus.db")}
    async with opened(settings) as store:
        yield Subject("lite", settings, store)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(secure_server: Running, credentials: Credentials) -> AsyncIterator[Subject]:
    settings = credentials.settings(secure_server.address)
    async with opened(settings) as store:
        yield Subject("server", settings, store)


@pytest.fixture(params=["lite", "server"])
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(subject: Subject) -> MilvusStore:
    return subject.store


@pytest.fixture
def tenant() -> str:
    return f"tenant {next(_TENANTS)}"
