"""Settings: from the environment into one frozen dataclass, and nothing else reads os.environ.

A service declares each knob with `setting`, which carries its meaning, unit and range. `load` refuses what it does not
understand: a misspelt variable stops the start with the nearest real name, instead of being ignored.
"""

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tandem.errors import ConfigError

T = TypeVar("T")
REQUIRED: Any = dataclasses.MISSING
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class SettingDoc:
    """Describes one knob for --help and the documentation."""

    variable: str
    type_name: str
    default: str
    help: str
    unit: str
    limits: str


def setting(
    default: Any = REQUIRED,
    *,
    help: str,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Declares a field of a configuration dataclass; without a default the variable must be set."""
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def load(cls: type[T], prefix: str, environ: Mapping[str, str] | None = None) -> T:
    """Reads the variables PREFIX_<FIELD> into cls.

    Raises ConfigError for an unknown variable with the prefix, a missing one, or a value that does not fit.
    """
    env = os.environ if environ is None else environ
    hints = typing.get_type_hints(cls)
    fields = {f"{prefix}_{field.name.upper()}": field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in sorted(env):
        if name.startswith(f"{prefix}_") and name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise ConfigError(f"unknown variable {name}" + (f"; did you mean {near[0]}?" if near else ""))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in env:
            values[field.name] = _check(name, _parse(name, env[name], hints[field.name]), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} must be set: {field.metadata.get('help', '')}")
    return cls(**values)


def describe(cls: type, prefix: str) -> list[SettingDoc]:
    """Returns every knob of cls in the order of declaration."""
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        meta = field.metadata
        low, high = meta.get("minimum"), meta.get("maximum")
        bounds = [f">= {low:g}" if low is not None else "", f"<= {high:g}" if high is not None else ""]
        limits = " | ".join(meta.get("choices", ())) or " ".join(filter(None, bounds))
        default = "(required)" if field.default is dataclasses.MISSING else _show(field.default)
        rows.append(
            SettingDoc(
                variable=f"{prefix}_{field.name.upper()}",
                type_name=_type_name(hints[field.name]),
                default=default,
                help=meta.get("help", ""),
                unit=meta.get("unit", ""),
                limits=limits,
            )
        )
    return rows


def _optional(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return inner[0], True
    return hint, False


def _type_name(hint: Any) -> str:
    inner, optional = _optional(hint)
    name = "list" if typing.get_origin(inner) is tuple else inner.__name__.lower()
    return f"{name}, optional" if optional else name


def _show(value: Any) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(name: str, text: str, hint: Any) -> Any:
    inner, optional = _optional(hint)
    if optional and text == "":
        return None
    try:
        if inner is bool:
            if text.lower() in _TRUE + _FALSE:
                return text.lower() in _TRUE
            raise ValueError
        if typing.get_origin(inner) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return inner(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not of type {_type_name(hint)}") from None


def _check(name: str, value: Any, meta: Mapping[str, Any]) -> Any:
    low, high, choices = meta.get("minimum"), meta.get("maximum"), meta.get("choices", ())
    if value is None:
        return value
    if choices and value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of: {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}={value} is not a finite number")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = [f"from {low:g}" if low is not None else "", f"to {high:g}" if high is not None else ""]
        raise ConfigError(f"{name}={value} is out of range: {' '.join(filter(None, bounds))}")
    return value


def otlp_endpoint(environ: Mapping[str, str] | None = None) -> str:
    """Returns the collector of the standard variable OTEL_EXPORTER_OTLP_ENDPOINT, or an empty string."""
    return (os.environ if environ is None else environ).get("OTEL_EXPORTER_OTLP_ENDPOINT", "")


def mlflow_tracking_uri(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns the experiment store of the standard variable MLFLOW_TRACKING_URI, or None for one in the run folder."""
    return (os.environ if environ is None else environ).get("MLFLOW_TRACKING_URI") or None


def cache_home(environ: Mapping[str, str] | None = None) -> Path:
    """Returns the folder for what can be made again: $XDG_CACHE_HOME/tandem, else ~/.cache/tandem."""
    base = (os.environ if environ is None else environ).get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "tandem"


def config_home(environ: Mapping[str, str] | None = None) -> Path:
    """Returns the folder for what a user keeps: $XDG_CONFIG_HOME/tandem, else ~/.config/tandem."""
    base = (os.environ if environ is None else environ).get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "tandem"


def signing_key_file(environ: Mapping[str, str] | None = None) -> Path:
    """Returns where the user's key lies that signs adapters."""
    return config_home(environ) / "signing-key.pem"


def trust_file(environ: Mapping[str, str] | None = None) -> Path:
    """Returns the user's own trust file: the public keys whose signatures on adapters count on this machine."""
    return config_home(environ) / "trusted-signers.json"


def inherited_environment() -> dict[str, str]:
    """Returns this process's environment, to be handed to a child."""
    return dict(os.environ)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Holds the knobs that all services share; each service's own dataclass extends it."""

    listen: str = setting("127.0.0.1:0", help="Address of the gRPC server; port 0 takes a free one.")
    metrics_listen: str = setting("127.0.0.1:0", help="Address of the HTTP endpoint /metrics; port 0 takes a free one.")
    token_file: Path | None = setting(
        None, help="File of the tokens that are accepted, written by `tandem tokens`. Unset refuses every call."
    )
    credential_file: Path | None = setting(
        None, help="File with the token that this service presents to its peers. Unset calls them without one."
    )
    drain_seconds: float = setting(
        20.0, help="How long running calls may go on after SIGTERM.", unit="s", minimum=0, maximum=3600
    )
    max_message_bytes: int = setting(
        4 * 1024 * 1024, help="Largest message taken or sent.", unit="bytes", minimum=65_536, maximum=256 * 1024 * 1024
    )
    max_concurrent_rpcs: int = setting(
        256, help="Calls served at once; more are refused with RESOURCE_EXHAUSTED.", minimum=1, maximum=100_000
    )
    default_deadline_seconds: float = setting(
        60.0, help="Deadline of a call that came without one.", unit="s", minimum=0.1, maximum=86_400
    )
    max_deadline_seconds: float = setting(
        600.0, help="Longest deadline; a later one is cut to it.", unit="s", minimum=0.1, maximum=86_400
    )
    log_level: str = setting("info", help="Least severe log level.", choices=("debug", "info", "warning", "error"))
    log_format: str = setting("json", help="Form of a log line.", choices=("json", "text"))
    otlp_endpoint: str = setting(
        "", help="OTLP/gRPC collector for traces; empty means OTEL_EXPORTER_OTLP_ENDPOINT, else none."
    )
