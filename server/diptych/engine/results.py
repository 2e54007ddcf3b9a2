"""What handlers return and raise, as reply frames.

Records, tuples and rows become arrays, numpy scalars plain numbers, numpy arrays lists. What can't
be sent, or is too large, becomes an error in the frame's place. Errors nobody foresaw get an id:
the client is told the id, the log has the traceback. Knows the wire; knows nothing of memory.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from diptych.app import App
from diptych.store.rowtypes import Row
from diptych_client.errors import (
    DiptychError,
    Rejected,
    ResultTooLarge,
    ServerError,
    UnknownOperation,
    payload_of,
)
from diptych_client.protocol import Kind

log = logging.getLogger("diptych.engine")

RESULT_BYTES_MAX = 16 << 20
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def plain(value: Any) -> Any:
    """What msgpack can't pack by itself, as what it can. Errors: TypeError."""
    if isinstance(value, Row):
        return [getattr(value, name) for name in row_columns(type(value))]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        listed = value.tolist()
        if value.dtype.kind == "S":
            return [None if item is None else item.rstrip(b"\0").decode() for item in listed]
        return listed
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"a result can't hold {type(value).__name__}")


def row_columns(row_class: type[Row]) -> list[str]:
    """Names of a row class's columns, in the table's order."""
    return [name for name, member in vars(row_class).items() if isinstance(member, property)]


def packer(bytes_max: int = RESULT_BYTES_MAX) -> Callable[[Any], bytes]:
    """A function from a result to its payload, of at most `bytes_max` bytes, for one thread.

    Errors: ResultTooLarge; TypeError, OverflowError, ValueError for what msgpack can't hold.
    """
    pack = msgpack.Packer(default=plain).pack

    def packed(value: Any) -> bytes:
        nonlocal pack
        payload: bytes = pack(value)
        if len(payload) > bytes_max:
            pack = msgpack.Packer(default=plain).pack  # its buffer never shrinks
            raise too_large(len(payload), bytes_max)
        return payload

    return packed


def too_large(size_bytes: int, bytes_max: int) -> ResultTooLarge:
    """For a result that can't be sent, or not be remembered."""
    return ResultTooLarge(f"the result has {size_bytes:,} bytes; {bytes_max:,} at most can be sent")


def unknown_operation(app: App, number: int) -> DiptychError:
    """For the number of no transaction."""
    known = {operation.number: operation for operation in app.operations}.get(number)
    if known is None:
        return UnknownOperation(f"{app.name} has no operation number {number}")
    return UnknownOperation(f"{known.name} is a query, not a transaction")


def failure(
    error: BaseException, operation: str, error_id: str | None = None
) -> tuple[Kind, bytes]:
    """Kind and payload of the reply to a call that ended with `error`.

    `error_id`: of an error nobody foresaw, if it has to be the same whenever the call is run again.
    """
    if isinstance(error, Rejected):
        try:
            return Kind.REJECTED, msgpack.packb([error.code, error.details], default=plain)
        except (TypeError, ValueError, OverflowError):
            # Without addresses: a replay has to say the same.
            details = {name: ADDRESS.sub("", str(value)) for name, value in error.details.items()}
            return Kind.REJECTED, msgpack.packb([str(error.code), details])
    if isinstance(error, DiptychError):
        return Kind.ERROR, msgpack.packb(payload_of(error))
    error_id = error_id or secrets.token_hex(4)
    log.error("error %s in %s", error_id, operation, exc_info=error)
    told = ServerError(
        f"{operation} failed with {type(error).__name__}; "
        f"see the server's log for error {error_id}",
        error_id,
    )
    return Kind.ERROR, msgpack.packb(payload_of(told))
