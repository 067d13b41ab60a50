"""How results reach a person, or a program that asked for --json."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from tandem.errors import ConfigError, InvalidInput, TandemError, Unauthenticated, Unavailable

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def printable(text: str) -> str:
    """Returns text without the control characters by which a document or a model could steer a terminal."""
    return "".join(mark for mark in text if mark in "\n\t" or unicodedata.category(mark) not in ("Cc", "Cf"))


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message as JSON-ready data with the contract's field names; zeros and empty lists are there too."""
    row: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return row


def print_json(data: Message | Mapping[str, Any] | list[Any]) -> None:
    """Prints one JSON document."""
    print(json.dumps(as_dict(data) if isinstance(data, Message) else data, ensure_ascii=False, indent=1))


def print_json_lines(messages: Iterable[Message]) -> None:
    """Prints one JSON document a line, as they come."""
    for message in messages:
        print(json.dumps(as_dict(message), ensure_ascii=False), flush=True)


def fail(error: TandemError | ConfigError, *, as_json: bool) -> None:
    """Tells what went wrong and what to do about it."""
    if isinstance(error, ConfigError):
        code, reason, message = "CONFIG", "CONFIG", str(error)
    else:
        code, reason, message = error.code, error.reason, error.message
    if as_json:
        json.dump({"error": {"code": code, "reason": reason, "message": message}}, sys.stdout)
        print()
        return
    errors.print(f"[bold red]{code}[/] {message}", markup=True)
    if isinstance(error, InvalidInput):
        for violation in error.violations:
            errors.print(f"  {violation.field}: {violation.description}", markup=False)
    if isinstance(error, Unavailable):
        errors.print("  Is the stack running? `tandem up` starts it.", markup=False)
    if isinstance(error, Unauthenticated):
        errors.print("  Set TANDEM_TOKEN, or choose one of your principals with --as.", markup=False)
