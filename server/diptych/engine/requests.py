"""What was asked and answered before, so that no transaction runs twice.

Sessions, answers and keys lie in the region (`store.sessions`, `answers`, `keys`), written when a
transaction has ended, whatever became of it. What is forgotten, or of a session that is not known,
is refused: it may have run. A question about a request that has not come yet burns its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgpack

from diptych.store import calls
from diptych.store import words as at
from diptych.store.answers import ANSWER_BYTES_MAX, LENGTH_MASK
from diptych.store.database import Database
from diptych.store.keys import KEYS_KEPT_NS
from diptych.store.sessions import SESSION_IDLE_NS
from diptych_client.errors import (
    BadArguments,
    Busy,
    DiptychError,
    Forbidden,
    IdentityConflict,
    NotExecuted,
    OutcomeForgotten,
    SessionExpired,
    payload_of,
)
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind

IDENTITY_BYTES = 16
CALLER_BYTES_MAX = at.CALLER_WORDS * 8
KEY_BYTES_MAX = at.KEY_TEXT_WORDS * 8
HOUR_NS = 3600 * 1_000_000_000
CALLERS_KNOWN_MAX = 1 << 16

Give = Callable[[int], None]


class Found(NamedTuple):
    """What a transaction was answered, when it ran: the parts of a reply."""

    kind: int
    payload: bytes
    operation: int
    sequence: int


class Requests:
    """Of one open region. `give` finds memory for the range that a word of the header describes.

    `answer_bytes_max`: of the payload of an answer that can be remembered.
    """

    def __init__(self, db: Database, give: Give) -> None:
        self._words, self._ints = db.space.words, db.space.ints
        self._bytes, self._arguments = db.space.bytes, db.space.scratch_bytes
        self._give = give
        self._callers: dict[int, str] = {}
        ring_bytes = self._ints[at.ANSWERS_WORDS] * 8
        self.answer_bytes_max = min(ANSWER_BYTES_MAX, ring_bytes // 4 - at.A_PAYLOAD * 8)

    def has_all_memory(self) -> bool:
        """Whether all the answers that are ever kept have memory."""
        return self._ints[at.ANSWERS_ALLOCATED] == self._ints[at.ANSWERS_WORDS]

    # Sessions.

    def open(self, identity: bytes, caller: str) -> int:
        """The number of the session of this identity and caller, opened if there is none.

        Errors: BadArguments; Busy, when all sessions there may be are in use; OutOfMemory.
        """
        if len(identity) != IDENTITY_BYTES:
            raise BadArguments(f"an identity has {IDENTITY_BYTES} bytes", "identity")
        name = caller.encode()
        if len(name) > CALLER_BYTES_MAX:
            raise BadArguments(f"a caller has at most {CALLER_BYTES_MAX} bytes", "caller")
        while True:
            self._say(identity + name.ljust(CALLER_BYTES_MAX, b"\0"))
            session = calls.open_session(self._words)
            if session > 0:
                self._callers.clear()  # it may have another one's place
                return session
            if session == at.REQUESTS_FULL:
                raise Busy(
                    "there are as many sessions as there may be, all of them used within "
                    f"{SESSION_IDLE_NS // HOUR_NS} hours"
                )
            self._give(at.SESSIONS)

    def touch(self, sessions: list[int]) -> None:
        """Note that these are in use; those that are not known are passed over."""
        for session in sessions:
            calls.touch(self._words, session)

    def caller_of(self, session: int) -> str:
        """Who opened it; "" of a session that is not known."""
        caller = self._callers.get(session)
        if caller is not None:
            return caller
        row = calls.row_of_session(self._words, session)
        if not row:
            return ""
        start = (row + at.R_CALLER) * 8
        caller = bytes(self._bytes[start : start + CALLER_BYTES_MAX]).rstrip(b"\0").decode()
        if len(self._callers) >= CALLERS_KNOWN_MAX:
            self._callers.clear()
        self._callers[session] = caller
        return caller

    # Requests by number.

    def admit(self, session: int, request: int, check: int) -> Found | None:
        """What a request was answered; None: it is new, and has to be run and remembered. No other
        may be waiting to be.

        Errors: SessionExpired, OutcomeForgotten, IdentityConflict, BadArguments; OutOfMemory.
        """
        while True:
            code = calls.admit(self._words, session, request, check)
            if code != at.GROW_ANSWERS:
                return self._settled(code, session, request)
            self._give(at.ANSWERS)

    def remember(
        self,
        session: int,
        request: int,
        check: int,
        operation: int,
        kind: int,
        payload: bytes,
    ) -> None:
        """Note what a request was answered. It never runs again, also if there is no memory for
        that.
        """
        what = operation | kind << at.KIND_SHIFT
        self._remember(session, request, check, what, payload)

    def outcome(self, caller: str, session: int, request: int, operation: int) -> Found:
        """What a request was answered; if it has not come, it is answered now, by NotExecuted.

        `caller` asks, by `operation`. Errors: SessionExpired, OutcomeForgotten, Forbidden,
        BadArguments; OutOfMemory.
        """
        code = calls.look_up(self._words, session, request)
        if code != at.REQUEST_EXPIRED and self.caller_of(session) != caller:
            raise Forbidden("the session is another caller's")
        if code != at.REQUEST_NEW:
            found = self._settled(code, session, request)
            assert found is not None
            return found
        self.admit(session, request, 0)  # for the memory
        found = self._burnt(operation)
        what = operation | found.kind << at.KIND_SHIFT | at.BURNT
        self._remember(session, request, 0, what, found.payload)
        return found

    def answered(self, frame: memoryview, check: int) -> Found | None:
        """What a frame, with this hash, was answered; None: it has not come before. Unlike an
        admission this changes nothing. Errors: as `admit` and `admit_key`.
        """
        _, kind, _, _, request, session, _ = HEADER.unpack_from(frame)
        if kind == Kind.KEYED:
            key, _ = split_key(frame[HEADER_BYTES:])
            self._say_key(self.caller_of(session), key)
            row = calls.find_key(self._words)
            if row:
                self._check_same(row + at.K_CHECK, row + at.K_WHAT, check)
                return self._of_key(row)
        elif session:
            code = calls.look_up(self._words, session, request)
            if code > 0:
                self._check_same(code + at.A_CHECK, code + at.A_WHAT, check)
            return self._settled(code, session, request)
        return None

    def _check_same(self, check_at: int, what_at: int, check: int) -> None:
        if self._ints[check_at] != check and not self._ints[what_at] & at.BURNT:
            raise IdentityConflict("its number or key was used before, for another call")

    # Requests by a key of the caller's.

    def admit_key(self, caller: str, key: bytes, check: int) -> Found | None:
        """The same for a key. Errors: Busy, while as many keys as there may be are kept;
        OutcomeForgotten, IdentityConflict; OutOfMemory.
        """
        while True:
            self._say_key(caller, key)
            code = calls.admit_key(self._words, check)
            if code == at.GROW_KEYS:
                self._give(at.KEYS)
            elif code == at.GROW_ANSWERS:
                self._give(at.ANSWERS)
            else:
                break
        if code == at.REQUEST_NEW:
            return None
        if code == at.REQUEST_CONFLICT:
            raise IdentityConflict("this key was used before, for another call")
        if code == at.REQUESTS_FULL:
            raise Busy(
                "there are as many keys as there may be, all of them used within "
                f"{KEYS_KEPT_NS // HOUR_NS} hours"
            )
        return self._of_key(code)

    def remember_key(
        self, caller: str, key: bytes, check: int, operation: int, kind: int, payload: bytes
    ) -> None:
        """Note what a key was answered."""
        self._remember_key(caller, key, check, operation | kind << at.KIND_SHIFT, payload)

    def outcome_of_key(self, caller: str, key: str, operation: int) -> Found:
        """What a key was answered; if it has not come, it is answered now, by NotExecuted.

        Errors: as `admit_key`, and BadArguments.
        """
        name = key.encode()
        if not 1 <= len(name) <= KEY_BYTES_MAX:
            raise BadArguments(f"a key has 1 to {KEY_BYTES_MAX} bytes", "key")
        self._say_key(caller, name)
        row = calls.find_key(self._words)
        if row:
            return self._of_key(row)
        self.admit_key(caller, name, 0)  # for room
        found = self._burnt(operation)
        what = operation | found.kind << at.KIND_SHIFT | at.BURNT
        self._remember_key(caller, name, 0, what, found.payload)
        return found

    # Words.

    def _say(self, data: bytes) -> None:
        start = at.S_ARGUMENT * 8
        self._arguments[start : start + len(data)] = data

    def _say_key(self, caller: str, key: bytes) -> None:
        parts = caller.encode().ljust(CALLER_BYTES_MAX, b"\0"), key.ljust(KEY_BYTES_MAX, b"\0")
        self._say(b"".join(parts) + len(key).to_bytes(8, "little"))

    def _settled(self, code: int, session: int, request: int) -> Found | None:
        if code > 0:
            return self._entry(code)
        match code:
            case at.REQUEST_NEW:
                return None
            case at.REQUEST_EXPIRED:
                raise SessionExpired(f"session {session} is not known")
            case at.REQUEST_FORGOTTEN:
                raise OutcomeForgotten(f"what request {request} was answered is not kept any more")
            case at.REQUEST_CONFLICT:
                raise IdentityConflict(f"request {request} was used before, for another call")
        raise BadArguments("the numbers of transactions begin with 1")

    def _entry(self, entry: int) -> Found:
        ints = self._ints
        length = ints[entry + at.A_LENGTHS] & LENGTH_MASK
        what, start = ints[entry + at.A_WHAT], (entry + at.A_PAYLOAD) * 8
        return _found(what, self._bytes[start : start + length], ints[entry + at.A_SEQUENCE])

    def _of_key(self, row: int) -> Found:
        ints = self._ints
        length = ints[row + at.K_LENGTH]
        if length <= at.KEY_INLINE_BYTES:
            start = (row + at.K_INLINE) * 8
        else:
            position, ring_bytes = ints[row + at.K_POSITION], ints[at.ANSWERS_WORDS] * 8
            if not position or position < ints[at.ANSWERS_HEAD] - ring_bytes:
                raise OutcomeForgotten("what this key was answered is not kept any more")
            entry = ints[at.ANSWERS] + position % ring_bytes // 8
            start = (entry + at.A_PAYLOAD) * 8
        payload = self._bytes[start : start + length]
        return _found(ints[row + at.K_WHAT], payload, ints[row + at.K_SEQUENCE])

    def _remember(self, session: int, request: int, check: int, what: int, payload: bytes) -> None:
        entry = calls.remember(self._words, session, request, check, what, len(payload))
        if entry:
            start = (entry + at.A_PAYLOAD) * 8
            self._bytes[start : start + len(payload)] = payload

    def _remember_key(self, caller: str, key: bytes, check: int, what: int, payload: bytes) -> None:
        self._say_key(caller, key)
        word = calls.remember_key(self._words, check, what, len(payload))
        if word:
            self._bytes[word * 8 : word * 8 + len(payload)] = payload

    def _burnt(self, operation: int) -> Found:
        error: DiptychError = NotExecuted("it did not run, and never will")
        payload = msgpack.packb(payload_of(error))
        return Found(int(Kind.ERROR), payload, operation, self._ints[at.SEQUENCE])


def _found(what: int, payload: memoryview, sequence: int) -> Found:
    operation, kind = what & (1 << at.KIND_SHIFT) - 1, what >> at.KIND_SHIFT & 0xFF
    return Found(kind, bytes(payload), operation, sequence)


def split_key(payload: memoryview) -> tuple[bytes, memoryview]:
    """Key and arguments of a KEYED frame. Errors: BadArguments."""
    length = payload[0] if payload else 0
    if not 1 <= length <= KEY_BYTES_MAX or len(payload) <= length:
        raise BadArguments(f"a key of 1 to {KEY_BYTES_MAX} bytes and arguments must follow")
    key = bytes(payload[1 : 1 + length])
    try:
        key.decode()
    except UnicodeDecodeError:
        raise BadArguments("the key is not UTF-8") from None
    return key, payload[1 + length :]
