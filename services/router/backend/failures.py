"""Failed calls, as the router's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from tandem.rpc.status import from_rpc_error


@contextmanager
def failures() -> Iterator[None]:
    """Raises what a call inside fails with as TandemError."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
