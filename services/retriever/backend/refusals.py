"""Turns what pymilvus and gRPC raise into our errors."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tandem.errors import Internal, Unavailable

log = logging.getLogger(__name__)

_REFUSED = "the vector store does not accept the retriever's credentials any more"
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_SHUT_OUT = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# Milvus' own codes for what passes: starting, overloaded, not loaded again yet after a restart, nodes that moved.
_PASSING = {1, 2, 3, 4, 6, 8, 9, 10, 101, 103, 400, 401, 500, 501, 502, 503, 600, 601, 602, 901, 902, 903}


def down() -> Unavailable:
    """Returns the error of a Milvus that does not answer."""
    return Unavailable("the vector store cannot be reached", retry_after_s=1.0)


@contextmanager
def translated(do: Callable[..., Any]) -> Iterator[None]:
    """Turns what pymilvus raises in a call into our errors, without the text that its messages quote."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
        if code in _LOST:
            raise down() from error
        if code in _SHUT_OUT:
            log.error("Milvus refuses the retriever's credentials")
            raise Unavailable(_REFUSED, reason="STORE_REFUSED") from error
        raise _refused(do, code) from error
    except MilvusException as error:
        # pymilvus has no kind of its own for a lost connection; what else Milvus reports is our mistake.
        if error.code in _LOST or error.code in _PASSING or _is_lost(error):
            raise down() from error
        raise _refused(do, error.code) from error
    except ValueError as error:
        if "closed channel" in str(error):  # the session was given up while the call waited for a thread
            raise down() from error
        raise


def _refused(do: Callable[..., Any], code: object) -> Internal:
    # The message stays out of the log: it may quote what was asked.
    log.error("Milvus refused a call", extra={"code": str(code), "call": do.__qualname__})
    return Internal(f"Milvus refused a call ({code})")


def _is_lost(error: Any) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("fail connecting", "retry", "unavailable", "deadline", "timeout", "closed"))
