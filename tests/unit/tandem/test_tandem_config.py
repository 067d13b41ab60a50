"""Settings: what fits is read, what does not is refused with the reason."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem import config
from tandem.config import ServerConfig, setting
from tandem.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Knobs(ServerConfig):
    size: int = setting(8, help="How many.", unit="items", minimum=1, maximum=64)
    share: float = setting(0.5, help="Which part.", minimum=0, maximum=1)
    factor: float = setting(1.0, help="Any number.")
    at_most: float = setting(1.0, help="Bounded above.", maximum=3)
    model_dir: Path = setting(Path("models"), help="Where.")
    names: tuple[str, ...] = setting((), help="Which.")
    kind: str = setting("plain", help="What kind.", choices=("plain", "fancy"))
    turbo: bool = setting(False, help="Whether.")
    seed: int | None = setting(None, help="Repeatable.")


@dataclass(frozen=True, kw_only=True)
class Needy:
    target: str = setting(help="Address of the peer.")


def load(**variables: str) -> Knobs:
    return config.load(Knobs, "KNOBS", {f"KNOBS_{name}": value for name, value in variables.items()})


def test_defaults() -> None:
    assert load() == Knobs()


def test_types() -> None:
    got = load(
        SIZE="3", SHARE="0.25", MODEL_DIR="/srv/m", NAMES="a, b,,c ", KIND="fancy", TURBO="Yes", SEED="7",
        TOKEN_FILE="/etc/tokens", DRAIN_SECONDS="1.5",
    )  # fmt: skip
    assert (got.size, got.share, got.model_dir) == (3, 0.25, Path("/srv/m"))
    assert (got.names, got.kind, got.turbo, got.seed) == (("a", "b", "c"), "fancy", True, 7)
    assert (got.token_file, got.drain_seconds) == (Path("/etc/tokens"), 1.5)


def test_an_empty_optional_is_unset() -> None:
    assert load(SEED="", TOKEN_FILE="") == Knobs()


@pytest.mark.parametrize("text", ["0", "false", "NO", "off"])
def test_false_words(text: str) -> None:
    assert load(TURBO=text).turbo is False


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SIZE", "many", "int"),
        ("SIZE", "1.5", "int"),
        ("SIZE", "", "int"),
        ("SIZE", "0", "from 1 to 64"),
        ("SIZE", "65", "from 1 to 64"),
        ("SHARE", "nan", "SHARE"),
        ("SHARE", "-0.1", "from 0 to 1"),
        ("SHARE", "1e999", "SHARE"),
        ("FACTOR", "nan", "FACTOR"),
        ("FACTOR", "inf", "FACTOR"),
        ("AT_MOST", "4", "to 3"),
        ("KIND", "odd", "plain, fancy"),
        ("TURBO", "maybe", "bool"),
        ("SEED", "x", "int"),
        ("MAX_MESSAGE_BYTES", "10", "out of range"),
        ("LOG_LEVEL", "loud", "debug, info, warning, error"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert f"KNOBS_{name}" in str(caught.value)
    assert words in str(caught.value)


def test_an_unknown_variable_stops_the_start_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown variable KNOBS_SISE; did you mean KNOBS_SIZE\?"):
        load(SISE="3")


def test_other_prefixes_are_left_alone() -> None:
    assert config.load(Knobs, "KNOBS", {"OTHER_SIZE": "x", "KNOBSIZE": "y", "PATH": "/bin"}) == Knobs()


def test_a_required_variable_is_asked_for_with_its_meaning() -> None:
    with pytest.raises(ConfigError, match=r"NEEDY_TARGET must be set: Address of the peer\."):
        config.load(Needy, "NEEDY", {})
    assert config.load(Needy, "NEEDY", {"NEEDY_TARGET": "h:1"}).target == "h:1"


@given(name=st.sampled_from(["SIZE", "SHARE", "FACTOR", "NAMES", "KIND", "TURBO", "SEED"]), value=st.text())
def test_any_text_is_read_or_refused(name: str, value: str) -> None:
    try:
        got = load(**{name: value})
    except ConfigError:
        return
    assert 1 <= got.size <= 64
    assert 0 <= got.share <= 1


def test_describe_tells_every_knob() -> None:
    rows = {row.variable: row for row in config.describe(Knobs, "KNOBS")}
    assert len(rows) == len(Knobs.__dataclass_fields__)
    assert rows["KNOBS_SIZE"].type_name == "int"
    assert (rows["KNOBS_SIZE"].default, rows["KNOBS_SIZE"].unit, rows["KNOBS_SIZE"].limits) == (
        "8", "items", ">= 1 <= 64"
    )  # fmt: skip
    assert rows["KNOBS_KIND"].limits == "plain | fancy"
    assert rows["KNOBS_SEED"].type_name == "int, optional"
    assert rows["KNOBS_SEED"].default == "(unset)"
    assert rows["KNOBS_TURBO"].default == "false"
    assert rows["KNOBS_NAMES"].type_name == "list"
    assert all(row.help for row in rows.values())
    assert [row.default for row in config.describe(Needy, "NEEDY")] == ["(required)"]


def test_the_collector_comes_from_the_standard_variable() -> None:
    assert config.otlp_endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}) == "http://c:4317"
    assert config.otlp_endpoint({}) == ""
