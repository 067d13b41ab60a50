"""The contracts keep their own rules (docs/architecture.md, "Contracts"), computed from the descriptors."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

ROOT = Path(__file__).resolve().parents[2]
FILES: list[FileDescriptor] = [
    import_module(f"tandem.v1.{path.stem}_pb2").DESCRIPTOR
    for path in sorted((ROOT / "proto/tandem/v1").glob("*.proto"))
]
SERVICES = [service for file in FILES for service in file.services_by_name.values()]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
IDENTITY = re.compile(r"(^|_)(subject|tenant|user|principal|caller|api_key|bearer)s?(_id)?$")


def messages() -> Iterator[Descriptor]:
    todo = [message for file in FILES for message in file.message_types_by_name.values()]
    while todo:
        message = todo.pop()
        if not message.GetOptions().map_entry:
            yield message
        todo += message.nested_types


def enums() -> Iterator[EnumDescriptor]:
    for file in FILES:
        yield from file.enum_types_by_name.values()
    for message in messages():
        yield from message.enum_types


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def by_name(items: Iterator[Descriptor] | Iterator[EnumDescriptor] | list[MethodDescriptor]) -> list[object]:
    return [pytest.param(item, id=item.full_name) for item in sorted(items, key=lambda item: item.full_name)]


def test_every_service_has_its_file() -> None:
    assert {service.full_name for service in SERVICES} == {
        f"tandem.v1.{name}Service" for name in ("Audit", "Embedder", "Feedback", "Generator", "Retriever", "Router")
    }
    for service in SERVICES:
        assert service.file.name == f"tandem/v1/{snake(service.name).lower()}.proto"


@pytest.mark.parametrize("method", by_name(METHODS))
def test_every_rpc_has_its_own_request_and_response(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"
    uses = [
        other for other in METHODS if {other.input_type, other.output_type} & {method.input_type, method.output_type}
    ]
    assert uses == [method]


@pytest.mark.parametrize("method", by_name([method for method in METHODS if method.server_streaming]))
def test_a_stream_is_one_oneof_of_started_and_finished(method: MethodDescriptor) -> None:
    (event,) = method.output_type.oneofs
    names = [field.name for field in event.fields]
    assert event.name == "event"
    assert (names[0], names[-1]) == ("started", "finished")
    assert [field.name for field in method.output_type.fields] == names
    assert all(field.message_type is not None for field in event.fields)


@pytest.mark.parametrize("method", by_name([method for method in METHODS if method.name.startswith("List")]))
def test_a_list_pages_where_it_can_grow(method: MethodDescriptor) -> None:
    if method.name == "ListPolicies":  # as many as the code has
        return
    asked, given = method.input_type.fields_by_name, method.output_type.fields_by_name
    assert asked["page_size"].type == FieldDescriptor.TYPE_INT32
    assert asked["page_token"].type == given["next_page_token"].type == FieldDescriptor.TYPE_STRING


@pytest.mark.parametrize("enum", by_name(enums()))
def test_an_enum_begins_with_unspecified(enum: EnumDescriptor) -> None:
    first = enum.values_by_number[0]
    assert first.name == f"{snake(enum.name)}_UNSPECIFIED"
    assert all(value.name.startswith(f"{snake(enum.name)}_") for value in enum.values)


@pytest.mark.parametrize("message", by_name(messages()))
def test_a_field_has_the_type_that_its_name_promises(message: Descriptor) -> None:
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else None
        if field.name.endswith("_time") or field.name in {"as_of", "valid_from", "valid_until"}:
            assert kind == "google.protobuf.Timestamp", field.full_name
        if field.name == "duration" or field.name.endswith("_duration"):
            assert kind == "google.protobuf.Duration", field.full_name
        if field.name.endswith("_id") and field.name != "token_id":  # a vocabulary's number
            assert field.type == FieldDescriptor.TYPE_STRING, field.full_name
        assert not field.name.endswith(("_ms", "_seconds", "_timestamp")), field.full_name


@pytest.mark.parametrize("method", by_name(METHODS))
def test_no_request_carries_identity_or_reports_failure_in_band(method: MethodDescriptor) -> None:
    todo, seen = [method.input_type], set()
    while todo:
        message = todo.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            assert not IDENTITY.search(field.name), field.full_name
            if field.message_type is not None:
                todo.append(field.message_type)
    faults = {"error", "errors", "status", "error_message", "success"}
    assert not faults & {field.name for field in method.output_type.fields}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_element_is_commented(file: FileDescriptor) -> None:
    text = (ROOT / "proto" / file.name).read_text().splitlines()
    element = re.compile(
        r"^\s*(service|message|enum|rpc|oneof|(optional |repeated )?[\w.<>, ]+ \w+ = \d+;|[A-Z_]+ = \d+;)"
    )
    for number, line in enumerate(text):
        if element.match(line) and not line.startswith(("syntax", "package", "import")):
            assert text[number - 1].lstrip().startswith("//"), f"{file.name}:{number + 1}: {line.strip()}"
