"""What `tandem up` prepares: tokens, ports and settings."""

import json
import stat
from pathlib import Path

import pytest

from tandem.errors import ConfigError, Unauthenticated
from tandem.security import Principal, TokenFile
from tandem.stack import DEVELOPER, SERVICES, Home, prepare, read_principals, specs
from tandem.supervisor import exclusive

ANN = Principal(subject="ann", tenant="acme", groups=frozenset({"legal"}), roles=frozenset({"user"}))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def tokens(home: Home) -> dict[str, str]:
    return json.loads(home.credentials.read_text())


def test_each_principal_and_each_service_gets_a_token_of_its_own(home: Home) -> None:
    prepare(home, {"ann": ANN})
    resolver = TokenFile(home.tokens)
    assert resolver.resolve(tokens(home)["ann"]) == ANN
    services = [resolver.resolve(home.secret(name).read_text().strip()) for name in SERVICES]
    assert [principal.subject for principal in services] == list(SERVICES)
    assert all("service" in principal.roles for principal in services)


def test_only_hashes_reach_the_file_that_services_read(home: Home) -> None:
    prepare(home, {"ann": ANN})
    secrets = [*tokens(home).values(), *(home.secret(name).read_text().strip() for name in SERVICES)]
    assert not any(secret in home.tokens.read_text() for secret in secrets)
    for path in (home.tokens, home.credentials, *(home.secret(name) for name in SERVICES)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_preparation_keeps_the_tokens(home: Home) -> None:
    prepare(home, {"ann": ANN})
    before = tokens(home)
    prepare(home, {"ann": ANN})
    assert tokens(home) == before


def test_a_changed_principal_takes_effect(home: Home) -> None:
    prepare(home, {"ann": ANN})
    moved = Principal(subject="ann", tenant="acme", groups=frozenset(), roles=frozenset({"user"}))
    prepare(home, {"ann": moved})
    assert TokenFile(home.tokens).resolve(tokens(home)["ann"]) == moved


def test_a_removed_principal_is_let_in_no_more(home: Home) -> None:
    prepare(home, {"ann": ANN, **DEVELOPER})
    ann = tokens(home)["ann"]
    prepare(home, DEVELOPER)
    with pytest.raises(Unauthenticated):
        TokenFile(home.tokens).resolve(ann)


def test_the_services_find_one_another(home: Home) -> None:
    running = {spec.name: spec for spec in specs(home, port=7700)}
    assert {name: spec.listen for name, spec in running.items()} == {
        "router": "127.0.0.1:7700",
        "embedder": "127.0.0.1:7701",
        "retriever": "127.0.0.1:7702",
        "generator": "127.0.0.1:7703",
    }
    assert running["retriever"].environment["RETRIEVER_EMBEDDER_TARGET"] == "127.0.0.1:7701"
    assert running["router"].environment["ROUTER_GENERATOR_TARGET"] == "127.0.0.1:7703"


def test_the_generator_trusts_the_user_and_who_signed_the_sample(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    generator = next(spec for spec in specs(home, trust=[tmp_path / "sample.json"]) if spec.name == "generator")
    wanted = f"{tmp_path}/config/tandem/trusted-signers.json,{tmp_path}/sample.json"
    assert generator.environment["GENERATOR_ADAPTER_TRUST_FILES"] == wanted


def test_port_zero_takes_free_ports(home: Home) -> None:
    taken = [spec.listen for spec in specs(home, port=0)] + [spec.metrics_listen for spec in specs(home, port=0)]
    assert len(set(taken)) == 2 * len(SERVICES)


def test_a_variable_of_the_environment_wins(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_LISTEN", "127.0.0.1:9999")
    router = next(spec for spec in specs(home) if spec.name == "router")
    assert router.listen == "127.0.0.1:9999"


def test_the_router_serves_the_domains_that_are_given(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(domains: Path | None) -> str | None:
        return specs(home, domains=domains)[-1].environment.get("ROUTER_DOMAINS_DIR")

    assert folder(None) is None
    assert folder(Path("sample")) == str(Path.cwd() / "sample")
    monkeypatch.setenv("ROUTER_DOMAINS_DIR", "/own")
    assert folder(Path("sample")) == "/own"


def test_one_home_runs_one_stack(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(ConfigError, match="another"), exclusive(tmp_path):
        pass


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize("text", ["[]", "{", '{"ann": {"subject": "ann"}}', '{"ann": {"subject": 1, "tenant": "a"}}'])
def test_broken_principals_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "principals.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"principals\.json"):
        read_principals(path)


def test_a_missing_file_of_principals_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_principals(tmp_path / "absent.json")
