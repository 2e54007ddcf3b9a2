"""Calls and the lines they wait in.

A call is one request from a caller's side, from submit() to its end; a lane holds those that share
one in-flight limit and one counter of request numbers. What becomes of calls is the core's
business; this module only knows what they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from diptych_client.errors import DiptychError
from diptych_client.operations import Operation
from diptych_client.protocol import Kind

_WRITING = frozenset({Kind.TRANSACTION, Kind.KEYED})


class Call:
    """One request from submit() to its end. `done` is set once, with `error` or the rest."""

    __slots__ = (
        "age_us",
        "deadline",
        "done",
        "error",
        "fresh",
        "kind",
        "named",
        "number",
        "operation",
        "payload",
        "repeated",
        "request",
        "sequence",
        "value",
        "waiter",
    )

    def __init__(
        self,
        kind: int,
        operation: Operation | None,
        payload: bytes,
        deadline: float,
        fresh: bool,
        waiter: Any,
        number: int,
        named: str,
    ) -> None:
        self.kind = kind
        self.operation = operation
        self.number = number
        """The operation's, 0 without one."""
        self.payload = payload
        self.deadline = deadline
        self.fresh = fresh
        self.waiter = waiter
        self.named = named
        """How its caller names it: an own key, or what an outcome question asks about; else empty.
        Such a transaction means the same on any session."""
        self.request = 0
        """Its number on the wire, given when it is sent first and kept when it is sent again."""
        self.repeated = False
        """A connection was lost while it was in flight, so that more than one copy may exist."""
        self.done = False
        self.error: DiptychError | None = None
        self.value: Any = None
        self.sequence = 0
        self.age_us = 0

    @property
    def may_have_run(self) -> bool:
        """A transaction that was sent: until its answer comes nobody here knows."""
        return self.request != 0 and self.kind in _WRITING


class Lane:
    """Calls that share one in-flight limit: transactions, or everything else.

    `waiting` holds those to be sent, in order; first those that a lost connection left without an
    answer (their `request` is not 0).
    """

    __slots__ = ("in_flight", "in_flight_max", "next_request", "waiting")

    def __init__(self, first_request: int) -> None:
        self.waiting: OrderedDict[Call, None] = OrderedDict()
        self.in_flight = 0
        self.in_flight_max = 1
        self.next_request = first_request

    def put_first(self, calls: list[Call]) -> None:
        """Put calls that were sent before, in their old order, before those that never were."""
        sent = [call for call in self.waiting if call.request]
        for call in sorted([*calls, *sent], key=_by_number, reverse=True):
            self.waiting[call] = None
            self.waiting.move_to_end(call, last=False)


def _by_number(call: Call) -> int:
    return call.request
