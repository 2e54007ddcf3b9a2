"""The handshake's content: what a client says in HELLO, and what it is told in WELCOME.

Payloads only; who sends them, and when, is `connection`'s business. The description of the
operations is encoded once, and left out for clients that have it already.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack
import numpy as np

import diptych
from diptych.app import App
from diptych.config import Limits
from diptych.engine.system import DESCRIBED, OF_GATEWAYS
from diptych.serving.frames import Bytes
from diptych_client.errors import ProtocolError
from diptych_client.protocol import HEADER, HEADER_BYTES, RESULT_BYTES_DEFAULT, Kind

CLIENT_NAME_LENGTH_MAX = 200
IDENTITY_BYTES = 16


class Hello(NamedTuple):
    client: str
    token: str | None
    fingerprint: bytes | None
    identity: bytes | None  # the client's own name for its session


def read_hello(frame: memoryview) -> Hello:
    """What HELLO says. Errors: ProtocolError when that is nothing."""
    _, kind, flags, _, _, _, _ = HEADER.unpack_from(frame)
    if kind != Kind.HELLO or flags:
        raise ProtocolError(f"the first frame must be HELLO (1), not kind {kind}")
    try:
        said = msgpack.unpackb(frame[HEADER_BYTES:])
    # Whatever is wrong with the bytes, the client's fault is the same.
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"HELLO is not msgpack: {error}") from None
    if not isinstance(said, dict):
        raise ProtocolError("HELLO must be a map")
    client, token = said.get("client", ""), said.get("token")
    fingerprint = said.get("fingerprint")
    if not isinstance(client, str) or not isinstance(token, str | None):
        raise ProtocolError("HELLO: client and token must be text")
    if not isinstance(fingerprint, bytes | None):
        raise ProtocolError("HELLO: the fingerprint must be bytes")
    identity = said.get("identity")
    if identity is not None and not (
        isinstance(identity, bytes) and len(identity) == IDENTITY_BYTES
    ):
        raise ProtocolError(f"HELLO: the identity must be {IDENTITY_BYTES} bytes")
    return Hello(client[:CLIENT_NAME_LENGTH_MAX], token, fingerprint, identity)


class Greeter:
    """Makes WELCOME frames for one application and its limits."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.fingerprint = app.fingerprint
        self._operations = app.describe()
        self._told: dict[str, Any] = {
            "app": app.name,
            "server": f"diptych {diptych.__version__}",
            "fingerprint": self.fingerprint,
            "limits": {
                "frame_bytes": limits.frame_bytes,
                "transactions_in_flight": limits.transactions_in_flight,
                "queries_in_flight": limits.queries_in_flight,
                "query_ms": limits.query_ms,
                "result_bytes": RESULT_BYTES_DEFAULT,
            },
        }
        self.kinds = operation_kinds(app)

    def welcome(self, hello: Hello, *, session: int, history: int, sequence: int) -> bytes:
        """The whole WELCOME payload."""
        known = hello.fingerprint == self.fingerprint
        told = self._told | {
            "session": session,
            "history": history,
            "sequence": sequence,
            "operations": None if known else self._operations,
        }
        payload: bytes = msgpack.packb(told)
        return payload


def operation_kinds(app: App) -> Bytes:
    """For each operation's number, the kind of frame that calls it; 0: no client may."""
    kinds = {operation.number: Kind[operation.kind.upper()] for operation in DESCRIBED}
    kinds |= {operation.number: Kind[operation.kind.upper()] for operation in app.operations}
    by_number = np.zeros(1 + max(kinds), np.uint8)
    for number, kind in kinds.items():
        if number not in OF_GATEWAYS:
            by_number[number] = kind
    return by_number
