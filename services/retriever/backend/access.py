"""How a Milvus server is reached and proved to: address, certificates, credentials. Refusals are told apart.

pymilvus tries again and again whatever the reason is, also for minutes beyond its timeout where a TLS handshake fails;
so a plain call is made before it. It asks only for the server's version, which needs TLS and credentials all the same.
"""

import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from services.retriever.config import RetrieverConfig
from tandem.errors import ConfigError, Unavailable

_VERSION_CALL = "/milvus.proto.milvus.MilvusService/GetVersion"
_KNOCK_S = 10.0
_WRONG_NAME = ("hostname verification",)
_UNTRUSTED = ("certificate_verify_failed", "bad_signature", "certificate signature failure")
_NO_TLS = ("wrong_version_number",)
_HUNG_UP = ("tsi_data_corrupted", "alert", "socket closed", "connection reset", "handshake")


@dataclass(frozen=True)
class Access:
    """Says where a server is and how this retriever proves who it is. Paths are of PEM files."""

    uri: str
    token: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @classmethod
    def of(cls, config: RetrieverConfig) -> "Access":
        """Reads what the configuration names; raises ConfigError, which says what to do."""
        access = cls(
            uri=config.milvus_uri,
            token=_token(config),
            ca=config.milvus_ca_file,
            cert=config.milvus_cert_file,
            key=config.milvus_key_file,
            server_name=config.milvus_server_name,
        )
        access._check_files()
        return access

    @property
    def is_file(self) -> bool:
        """Tells whether Milvus Lite is meant."""
        return "://" not in self.uri

    @property
    def secure(self) -> bool:
        """Tells whether TLS is spoken."""
        return self.uri.startswith("https://")

    @property
    def address(self) -> str:
        """The server's host:port, the port being pymilvus' default where none is given."""
        parts = urlsplit(self.uri)
        return f"{parts.hostname}:{parts.port or (443 if self.secure else 19530)}"

    def arguments(self) -> dict[str, Any]:
        """Returns what pymilvus' client takes besides the address."""
        given: dict[str, Any] = {"token": self.token, "secure": self.secure}
        if self.server_name:
            given["server_name"] = self.server_name
        if self.cert is not None:
            given |= {"ca_pem_path": str(self.ca), "client_pem_path": str(self.cert), "client_key_path": str(self.key)}
        elif self.ca is not None:
            given["server_pem_path"] = str(self.ca)
        return given

    def knock(self) -> None:
        """Asks the server for its version.

        Raises ConfigError when it refuses this retriever or is not the one that is meant, Unavailable when it is not
        there.
        """
        proof = base64.b64encode(self.token.encode()).decode()
        headers = (("authorization", proof),) if self.token else ()
        with self._channel() as channel:
            ask = channel.unary_unary(_VERSION_CALL, request_serializer=bytes, response_deserializer=bytes)
            try:
                ask(b"", timeout=_KNOCK_S, metadata=headers)
            except grpc.RpcError as error:
                raise self._refusal(error) from None

    def _channel(self) -> grpc.Channel:
        if not self.secure:
            return grpc.insecure_channel(self.address)
        ca, key, cert = (file.read_bytes() if file else None for file in (self.ca, self.key, self.cert))
        name = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(ca, key, cert), options=name)

    def _refusal(self, error: Any) -> ConfigError | Unavailable:
        where = f"Milvus at {self.address}"
        details = (error.details() or "").lower()
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            given = "does not accept the user and password" if self.token else "asks for user and password"
            return ConfigError(f"{where} {given}: set RETRIEVER_MILVUS_TOKEN_FILE to a file with user:password")
        if _any(_WRONG_NAME, details):
            return ConfigError(
                f"{where} shows a certificate of another name: set RETRIEVER_MILVUS_SERVER_NAME to its name"
            )
        if _any(_UNTRUSTED, details):
            trusted = f"by {self.ca}" if self.ca else "by an authority that this machine trusts"
            return ConfigError(
                f"{where} shows a certificate that is not signed {trusted}: set RETRIEVER_MILVUS_CA_FILE to who did"
            )
        if self.secure and _any(_NO_TLS, details):
            return ConfigError(f"{where} does not speak TLS: set RETRIEVER_MILVUS_URI to http://{self.address}")
        if self.secure and self.cert is None and _any(_HUNG_UP, details):
            return ConfigError(
                f"{where} ends the TLS handshake, as one does that asks for a client certificate: set "
                "RETRIEVER_MILVUS_CERT_FILE and RETRIEVER_MILVUS_KEY_FILE"
            )
        hint = ""
        if _any(_HUNG_UP, details):
            hint = ", it hangs up" + (
                "" if self.secure else "; if it speaks TLS, RETRIEVER_MILVUS_URI must begin https://"
            )
        return Unavailable(f"cannot connect to {where}{hint}", retry_after_s=5.0)

    def _check_files(self) -> None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"RETRIEVER_MILVUS_CA_FILE={self.ca} cannot be used: {_why(error)}") from error
        try:
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"RETRIEVER_MILVUS_CERT_FILE={self.cert} and RETRIEVER_MILVUS_KEY_FILE={self.key} cannot be used: "
                f"{_why(error)}"
            ) from error


def _token(config: RetrieverConfig) -> str:
    file = config.milvus_token_file
    if file is None:
        return config.milvus_token
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"RETRIEVER_MILVUS_TOKEN_FILE={file} cannot be read: {_why(error)}") from error
    if not token:
        raise ConfigError(f"RETRIEVER_MILVUS_TOKEN_FILE={file} is empty; it holds user:password")
    return token


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is not PEM").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or "it is not text"


def _any(marks: tuple[str, ...], details: str) -> bool:
    return any(mark in details for mark in marks)
