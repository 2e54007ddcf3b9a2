"""A server's memory of what it was asked to do, without the server: the model clients are held to.

It runs a transaction at most once for each session and number, or key, gives the first answer to
every later copy, and burns what an outcome question finds not run. It notes every run, so that a
test can compare what its clients were told with what really happened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from diptych_client.protocol import REQUEST_WINDOW, SESSION_MIN, Frame, Kind, encode_frame
from diptych_client.requests import OUTCOME, OUTCOME_OF_KEY

Name = tuple[int, int] | str
"""Session and number, or a key."""


class Answer(NamedTuple):
    """What is remembered of one transaction. `asked`: operation and arguments, for conflicts."""

    asked: tuple[int, bytes] | None
    kind: Kind
    operation: int
    sequence: int
    content: Any

    def frame(self, request: int) -> bytes:
        return encode_frame(
            self.kind,
            msgpack.packb(self.content),
            operation=self.operation,
            request=request,
            sequence=self.sequence,
        )


class Ledger:
    """Only `echo` runs: it returns its argument, and rejects every seventh."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, int] = {}
        self.answers: dict[Name, Answer] = {}
        self.ran: list[Any] = []
        self.copies = 0
        """Frames that were not the first of their name."""
        self._sequence = 0
        self._largest: dict[int, int] = {}

    def session(self, identity: bytes) -> int:
        """The client's, opened when it has none."""
        if identity not in self.sessions:
            self._sequence += 1
            self.sessions[identity] = self._sequence * SESSION_MIN | len(self.sessions)
            self._largest[self.sessions[identity]] = 0
        return self.sessions[identity]

    def forget(self, identity: bytes) -> None:
        """Drop a client's session, and what was answered on it."""
        del self._largest[self.sessions.pop(identity)]

    def take(self, frame: Frame) -> bytes:
        """Run a transaction, or not, and give its reply frame."""
        kind, operation, request, _, session, payload = frame
        self._sequence += 1
        name: Name = (session, request)
        if kind == Kind.KEYED:
            name = payload[1 : 1 + payload[0]].decode()
            payload = payload[1 + payload[0] :]
        elif session not in self._largest:
            return _error("session_expired").frame(request)
        if session in self._largest:
            assert request > self._largest[session] - REQUEST_WINDOW, "a number out of the window"
            self._largest[session] = max(request, self._largest[session])
        if operation in (OUTCOME, OUTCOME_OF_KEY):
            return self._outcome(*msgpack.unpackb(payload)).frame(request)
        first = self.answers.get(name)
        if first is None:
            self.answers[name] = first = self._run(operation, payload)
        else:
            self.copies += 1
            if first.asked not in (None, (operation, payload)):
                first = _error("identity_conflict")
        return first.frame(request)

    def _run(self, operation: int, payload: bytes) -> Answer:
        (value,) = msgpack.unpackb(payload)
        self.ran.append(value)
        kind, content = Kind.RESULT, value
        if value % 7 == 0:
            kind, content = Kind.REJECTED, ["seventh", {"value": value}]
        return Answer((operation, payload), kind, operation, self._sequence, content)

    def _outcome(self, *asked: Any) -> Answer:
        name: Name = asked[0] if len(asked) == 1 else asked
        if isinstance(name, tuple) and name[0] not in self._largest:
            return _error("session_expired")
        return self.answers.setdefault(name, _error("not_executed"))


def _error(code: str) -> Answer:
    return Answer(None, Kind.ERROR, 0, 0, {"code": code, "message": ""})
