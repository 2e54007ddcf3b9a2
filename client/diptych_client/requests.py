"""How a caller names a transaction: by session and number, or by a key of its own.

OutcomeUnknown names one by the first form, "6291459/17": digits, a slash, digits. An own key is any
other text of 1 to 64 bytes UTF-8, so that the two never mean the same. Knows how both go on the
wire; nothing of calls or connections.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from diptych_client.errors import BadArguments

KEY_BYTES_MAX = 64
OUTCOME = 65_060
"""Number of the system transaction that asks by session and number."""
OUTCOME_OF_KEY = 65_061
"""The same by the caller's own key."""

_NUMBERED = re.compile(r"([0-9]+)/([0-9]+)")
_NUMBER_MAX = 2**63 - 1


class Question(NamedTuple):
    """What is sent to ask for an outcome."""

    operation: int
    arguments: list[Any]


def numbered(session: int, request: int) -> str:
    """The name of a transaction without a key."""
    return f"{session}/{request}"


def check_key(key: str) -> str:
    """The key, if callers may use it. Raises BadArguments."""
    if not isinstance(key, str):
        raise _bad(f"a request's key is text, not {type(key).__name__}")
    if _NUMBERED.fullmatch(key):
        raise _bad(f"{key!r} is no key: digits, a slash and digits name a session's transaction")
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        raise _bad(f"a request's key has no form in UTF-8: {error}") from None
    if not 1 <= length <= KEY_BYTES_MAX:
        raise _bad(f"a request's key has 1 to {KEY_BYTES_MAX} bytes of UTF-8, not {length}")
    return key


def keyed(key: str, payload: bytes) -> bytes:
    """The payload of a KEYED frame; the key was checked."""
    encoded = key.encode()
    return bytes([len(encoded)]) + encoded + payload


def question(request: str) -> Question:
    """How to ask what became of `request`, in either form. Raises BadArguments."""
    found = _NUMBERED.fullmatch(request) if isinstance(request, str) else None
    if found is None:
        return Question(OUTCOME_OF_KEY, [check_key(request)])
    session, number = map(int, found.groups())
    if max(session, number) > _NUMBER_MAX:
        raise _bad(f"{request!r} names no transaction: its numbers are too large")
    return Question(OUTCOME, [session, number])


def _bad(message: str) -> BadArguments:
    return BadArguments(message, "request")
