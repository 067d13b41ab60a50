"""A folder of domains: read anew as it changes, the last good version kept, and each tenant's its own."""

import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.router.calibration import read as read_calibration
from services.router.domain import Domain
from services.router.domains import DomainFolder, DomainReader, OneDomain
from services.router.metrics import RouterMetrics
from tandem.errors import ConfigError, FailedPrecondition, NotFound
from tandem.security import Principal

ALICE = Principal("alice", "halden", frozenset(), frozenset({"user"}))
BRAM = Principal("bram", "brightwater", frozenset(), frozenset({"user"}))
PIA = Principal("pia", "halden", frozenset(), frozenset({"user", "platform"}))
POLICIES = ("auto", "cascade", "dual", "ensemble", "finetuned", "rag")


class Place:
    """Is a folder of domains with what it counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = CollectorRegistry()
        reader = DomainReader(base=Domain(), policies=POLICIES, calibration=read_calibration)
        self.domains = DomainFolder(path, reader=reader, metrics=RouterMetrics(self.registry), refresh_s=3600)

    async def write(self, name: str, text: str) -> None:
        """Leaves a file, and has the folder read."""
        (self.path / name).write_text(text, encoding="utf-8")
        await self.domains.refresh()

    def loads(self, outcome: str) -> float:
        return self.registry.get_sample_value("tandem_router_domain_loads_total", {"outcome": outcome}) or 0

    def names(self, principal: Principal) -> list[str]:
        return [row.domain.name for row in self.domains.list(principal)]

    def faults(self, principal: Principal) -> list[str]:
        return [row.fault for row in self.domains.list(principal) if row.fault]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_domain_comes_changes_and_goes(place: Place) -> None:
    await place.write("claims.toml", 'policy = "rag"')
    assert place.domains.find("claims", ALICE).policy == "rag"
    await place.write("claims.toml", 'policy = "ensemble"')
    assert place.domains.find("claims", ALICE).policy == "ensemble"
    await place.write("travel.toml", "")
    assert place.names(ALICE) == ["claims", "travel"]
    (place.path / "claims.toml").unlink()
    await place.domains.refresh()
    assert place.names(ALICE) == ["travel"]
    with pytest.raises(NotFound):
        place.domains.find("claims", ALICE)
    assert (place.loads("good"), place.loads("faulty"), place.loads("removed")) == (3, 0, 1)


async def test_a_broken_file_leaves_the_last_good_version_in_use(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.write("claims.toml", 'policy = "rag"')
    with caplog.at_level(logging.WARNING):
        await place.write("claims.toml", 'policy = "oracle"')
        await place.domains.refresh()  # nothing has changed: nothing is told again
    assert place.domains.find("claims", ALICE).policy == "rag"
    (fault,) = place.faults(ALICE)
    assert fault.startswith("claims.toml: policy ")
    assert [(record.message, record.domain, record.fault) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("domain at fault", "claims", fault)
    ]
    assert place.loads("faulty") == 1
    await place.write("claims.toml", 'policy = "dual"')
    assert (place.domains.find("claims", ALICE).policy, place.faults(ALICE)) == ("dual", [])


async def test_what_a_file_names_is_looked_at_too(place: Place) -> None:
    await place.write("claims.toml", 'results = "arms.json"')
    assert "arms.json" not in place.names(PIA)
    with pytest.raises(FailedPrecondition) as caught:
        place.domains.find("claims", ALICE)
    assert (caught.value.reason, caught.value.metadata) == ("DOMAIN_INVALID", {"domain": "claims"})
    assert [row.domain.policy for row in place.domains.list(ALICE)] == [""]
    await place.write("arms.json", '{"arms": []}')
    assert place.domains.find("claims", ALICE).name == "claims"
    await place.write("arms.json", "[]")
    assert "results" in place.faults(ALICE)[0]
    assert place.domains.find("claims", ALICE).name == "claims"


async def test_two_domains_may_name_one_file_and_each_other(place: Place) -> None:
    await place.write("arms.toml", 'policy = "rag"')
    await place.write("claims.toml", 'policy = "dual"')
    await place.write("arms.toml", 'policy = "rag"\nresults = "claims.toml"')
    await place.domains.refresh()
    assert place.names(ALICE) == ["arms", "claims"]
    assert place.domains.find("claims", ALICE).policy == "dual"
    assert "is no JSON" in place.faults(ALICE)[0]


async def test_another_tenants_domain_is_neither_listed_nor_there(place: Place) -> None:
    await place.write("halden.toml", 'tenants = ["halden"]')
    await place.write("shared.toml", "")
    assert place.names(BRAM) == ["shared"]
    with pytest.raises(NotFound) as foreign:
        place.domains.find("halden", BRAM)
    with pytest.raises(NotFound) as absent:
        place.domains.find("holden", BRAM)
    assert str(foreign.value) == str(absent.value).replace("holden", "halden")
    # Nor does a fault of it tell that it is there.
    await place.write("halden.toml", 'tenants = ["halden"]\npolicy = 3')
    assert place.faults(BRAM) == []
    assert len(place.faults(ALICE)) == 1


async def test_a_file_that_does_not_tell_whom_it_is_for_is_the_platforms(place: Place) -> None:
    await place.write("claims.toml", "tenants = [")
    assert (place.names(ALICE), place.names(PIA)) == ([], ["claims"])
    with pytest.raises(NotFound):
        place.domains.find("claims", ALICE)
    with pytest.raises(FailedPrecondition):
        place.domains.find("claims", PIA)


async def test_no_name_is_the_default_domain_else_the_callers_first(place: Place) -> None:
    with pytest.raises(NotFound, match="tandem domains"):
        place.domains.find("", ALICE)
    await place.write("zebra.toml", "")
    await place.write("halden.toml", 'tenants = ["halden"]')
    assert [place.domains.default(one) for one in (ALICE, BRAM)] == ["halden", "zebra"]
    await place.write("default.toml", "")
    assert place.domains.find("", ALICE).name == "default"
    # A broken default is not passed over for another domain.
    await place.write("default.toml", "tenants = [")
    assert place.domains.find("", ALICE).name == "default"


async def test_what_is_no_domain_is_left_alone(place: Place) -> None:
    await place.write(".hidden.toml", "policy = 3")
    await place.write("README.md", "#")
    await place.write("claims.toml~", "policy = 3")
    assert place.names(PIA) == []
    assert place.loads("faulty") == 0


async def test_a_folder_that_goes_leaves_what_was_read(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await place.write("claims.toml", "")
    moved = place.path.rename(place.path.with_name("elsewhere"))
    with caplog.at_level(logging.WARNING):
        await place.domains.refresh()
        await place.domains.refresh()
    assert place.names(ALICE) == ["claims"]
    assert [record.message for record in caplog.records] == ["domains cannot be read"]
    moved.rename(place.path)
    (place.path / "claims.toml").unlink()
    await place.domains.refresh()
    assert place.names(ALICE) == []


async def test_a_folder_that_is_none_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ROUTER_DOMAINS_DIR"):
        await Place(tmp_path / "gone").domains.start()


async def test_it_reads_at_its_start_and_ends(place: Place) -> None:
    (place.path / "claims.toml").write_text("")
    await place.domains.start()
    assert place.names(ALICE) == ["claims"]
    await place.domains.stop()


async def test_without_a_folder_there_is_one_domain_for_all() -> None:
    domains = OneDomain(Domain(name="default", policy="rag"))
    assert domains.find("", ALICE) is domains.find("default", BRAM)
    assert [row.domain.policy for row in domains.list(BRAM)] == ["rag"]
    with pytest.raises(NotFound):
        domains.find("claims", ALICE)
