"""What clients may ask about the server itself: ADMIN frames, which the supervisor answers.

With tokens configured any valid one will do. `{"do": "checkpoint"}` is all there is: write a
checkpoint now, and say what came of it. Several may wait; each has a ticket of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from diptych.serving.control import Control, Message
from diptych_client.errors import BadArguments, Busy, CallError, DiptychError, ServerError
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame

if TYPE_CHECKING:
    from diptych.serving.connection import Connection
    from diptych.serving.gateway import Gateway

WAITING_MAX = 64


class Admin:
    """`control`: the way to the supervisor."""

    def __init__(self, gateway: Gateway, control: Control) -> None:
        self.gateway = gateway
        self._control = control
        self._waiting: dict[int, tuple[int, int]] = {}  # by ticket: connection and request
        self._ticket = 0

    def ask(self, connection: Connection, frame: memoryview) -> None:
        """Pass on what a client asks for, or say why not."""
        request = HEADER.unpack_from(frame)[4]
        try:
            self._check(_unpacked(frame))
            self._ticket += 1
            if not self._control.send({"ask": "checkpoint", "ticket": self._ticket}):
                raise Busy("the server's supervisor does not listen")
        except DiptychError as error:
            self.gateway.counts.refused += 1
            connection.fail(0, request, error)
        else:
            self._waiting[self._ticket] = connection.number, request

    def _check(self, asked: Any) -> None:
        """Errors: BadArguments, CallError, Busy."""
        if not isinstance(asked, dict) or not isinstance(asked.get("do"), str):
            raise BadArguments('ADMIN takes a map with "do"', "do")
        if asked["do"] != "checkpoint":
            raise BadArguments(f"there is nothing called {asked['do'][:100]!r} to do", "do")
        if self.gateway.settings.data is None:
            raise CallError("this server has no data directory (--data), so nothing to save to")
        if len(self._waiting) >= WAITING_MAX:
            raise Busy("too many callers wait for a checkpoint")

    def told(self, message: Message) -> None:
        """The supervisor says what became of a ticket: facts, or an error's text."""
        number, request = self._waiting.pop(message["ticket"], (0, 0))
        connection = self.gateway.connection(number)
        if connection is None:
            return
        if "error" in message:
            connection.fail(0, request, ServerError(str(message["error"])))
        else:
            facts = {k: v for k, v in message.items() if k not in ("do", "ticket")}
            connection.answer(encode_frame(Kind.RESULT, msgpack.packb(facts), request=request))


def _unpacked(frame: memoryview) -> Any:
    try:
        return msgpack.unpackb(frame[HEADER_BYTES:])
    # Whatever is wrong with the bytes, the client's fault is the same.
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadArguments(f"the payload is not msgpack: {error}") from None
