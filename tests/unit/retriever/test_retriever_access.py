"""How the retriever reaches a Milvus server: settings, files, and servers that do not let it in."""

import base64
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.retriever.backend import access as access_room
from services.retriever.backend.access import Access
from services.retriever.backend.visibility import Consistent
from services.retriever.config import RetrieverConfig
from tandem.errors import ConfigError, Unavailable
from tests.fakes.certificates import Authority


@contextmanager
def serving(*, password: str = "", tls: tuple[Path, Path, Path] | None = None) -> Iterator[int]:
    """Answers GetVersion as Milvus does, behind user and password or TLS with client certificates."""
    header = ("authorization", base64.b64encode(password.encode()).decode())

    def answer(request: bytes, context: Any) -> bytes:
        if password and header not in [(key, value) for key, value in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")
        return b""

    handler = grpc.method_handlers_generic_handler(
        "milvus.proto.milvus.MilvusService", {"GetVersion": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        ca, cert, key = (file.read_bytes() for file in tls)
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
        )
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def of(**fields: object) -> Access:
    return Access.of(RetrieverConfig(**fields))


def test_a_server_with_tls_and_password_lets_in_who_proves_itself(tmp_path: Path) -> None:
    authority = Authority.make("tests")
    ca, other = authority.write(tmp_path / "ca.pem"), Authority.make("tests").write(tmp_path / "other.pem")
    cert, key = authority.issue("server", tmp_path, names=("milvus.example",))
    mine, my_key = authority.issue("client", tmp_path)
    (tmp_path / "token").write_text("erin:secret\n")
    with serving(password="erin:secret", tls=(ca, cert, key)) as port:
        good: dict[str, Any] = {
            "uri": f"https://127.0.0.1:{port}",
            "ca": ca,
            "cert": mine,
            "key": my_key,
            "server_name": "milvus.example",
            "token": "erin:secret",
        }
        Access(**good).knock()
        for change, message in (
            ({"token": "erin:wrong"}, "does not accept the user and password"),
            ({"token": ""}, "asks for user and password"),
            ({"ca": other}, f"not signed by {other}"),
            ({"server_name": "other.example"}, "RETRIEVER_MILVUS_SERVER_NAME"),
            ({"cert": None, "key": None}, "RETRIEVER_MILVUS_CERT_FILE"),
        ):
            with pytest.raises(ConfigError, match=message) as caught:
                Access(**{**good, **change}).knock()
            assert "secret" not in str(caught.value)
        with pytest.raises(Unavailable, match="must begin https://"):
            Access(uri=f"http://127.0.0.1:{port}").knock()
        assert "secret" not in repr(Access(**good))


def test_a_server_without_tls_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with serving() as port:
        of(milvus_uri=f"http://127.0.0.1:{port}").knock()
        ca = Authority.make("tests").write(tmp_path / "ca.pem")
        with pytest.raises(
            ConfigError, match=f"does not speak TLS: set RETRIEVER_MILVUS_URI to http://127.0.0.1:{port}"
        ):
            of(milvus_uri=f"https://127.0.0.1:{port}", milvus_ca_file=ca).knock()
    with pytest.raises(Unavailable, match=f"cannot connect to Milvus at 127.0.0.1:{port}$"):
        of(milvus_uri=f"http://127.0.0.1:{port}").knock()


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_room, "_KNOCK_S", 0.2)

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="cannot connect"):
        of(milvus_uri=f"http://127.0.0.1:{silent.getsockname()[1]}").knock()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milvus_uri": "tcp://host:1"}, "must be a path, http:// or https://host:port"),
        ({"milvus_ca_file": Path("ca.pem")}, "RETRIEVER_MILVUS_CA_FILE is for TLS"),
        ({"milvus_uri": "http://host:1", "milvus_server_name": "a"}, "RETRIEVER_MILVUS_SERVER_NAME is for TLS"),
        ({"milvus_uri": "https://host:1", "milvus_cert_file": Path("a.pem")}, "set both"),
        (
            {"milvus_uri": "https://host:1", "milvus_cert_file": Path("a.pem"), "milvus_key_file": Path("a.key")},
            "needs RETRIEVER_MILVUS_CA_FILE",
        ),
        ({"milvus_token": "a:b", "milvus_token_file": Path("token")}, "not both"),
        ({"milvus_uri": "http://host:1", "milvus_token_file": Path("/none/token")}, "cannot be read: No such file"),
        ({"milvus_uri": "https://host:1", "milvus_ca_file": Path("/none/ca")}, "cannot be used: No such file"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of(**fields)


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    authority = Authority.make("tests")
    ca = authority.write(tmp_path / "ca.pem")
    cert, _ = authority.issue("one", tmp_path)
    _, other_key = authority.issue("two", tmp_path)
    (tmp_path / "empty").write_text(" \n")
    uri = "https://host:1"
    with pytest.raises(ConfigError, match="is empty; it holds user:password"):
        of(milvus_uri=uri, milvus_token_file=tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"RETRIEVER_MILVUS_CA_FILE=.* cannot be used"):
        of(milvus_uri=uri, milvus_ca_file=tmp_path / "empty")
    with pytest.raises(ConfigError, match="cannot be used: key values mismatch"):
        of(milvus_uri=uri, milvus_ca_file=ca, milvus_cert_file=cert, milvus_key_file=other_key)


class Recorder:
    """Is a client that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str | None]] = []
        self._handler = self

    def alloc_timestamp(self, timeout: float) -> int:
        return 77

    def __getattr__(self, what: str) -> Any:
        def call(name: str, *args: object, **options: Any) -> None:
            at = options.get("guarantee_timestamp", options.get("consistency_level"))
            self.calls.append((what, name, at))

        return call


def test_a_write_is_followed_by_a_read_of_what_it_changed() -> None:
    plain = Recorder()
    client = Consistent(plain, "Bounded")
    client.query("a", filter="x")
    client.upsert("a", [{}])
    client.insert("b", [{}])
    client.delete("c", ids=["1"])
    client.drop_collection("c")
    client.get("a", ids=["1"])
    client.search("d", data=[[1.0]])
    client.wait_until_visible(lambda: 1.0)
    assert plain.calls == [
        ("query", "a", "Bounded"),
        ("upsert", "a", None),
        ("insert", "b", None),
        ("delete", "c", None),
        ("drop_collection", "c", None),
        ("get", "a", "Strong"),
        ("search", "d", "Bounded"),
        ("get", "a", 77),
        ("get", "b", 77),
    ]


def test_a_call_that_reads_alone_and_strong_reads_wait_for_nothing() -> None:
    for level in ("Bounded", "Strong"):
        plain = Recorder()
        client = Consistent(plain, level)
        client.query("a", filter="x")
        if level == "Strong":
            client.upsert("a", [{}])
        client.wait_until_visible(lambda: 1.0)
        assert [what for what, _, _ in plain.calls if what == "get"] == []
