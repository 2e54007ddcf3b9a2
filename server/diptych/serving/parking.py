"""Transactions that wait for a writer, while there is none.

They keep the order in which they came, and a connection's frames stay together. Bounded in bytes
and in time: what was never sent may be given back to its client as not having happened.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Parked(NamedTuple):
    """Whole TRANSACTION frames of one connection, as they came."""

    connection: int
    until: float
    data: bytes


class Parking:
    """`wait_s`: how long an entry may stay. Times are the event loop's."""

    def __init__(self, bytes_max: int, wait_s: float) -> None:
        self.bytes_max = bytes_max
        self.wait_s = wait_s
        self._entries: deque[Parked] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, connection: int, data: bytes, now: float) -> bool:
        """Take frames in; False when there is no room for them."""
        if self._bytes + len(data) > self.bytes_max:
            return False
        self._entries.append(Parked(connection, now + self.wait_s, data))
        self._bytes += len(data)
        return True

    def take_all(self) -> list[Parked]:
        entries = list(self._entries)
        self._entries.clear()
        self._bytes = 0
        return entries

    def take_expired(self, now: float) -> list[Parked]:
        expired = []
        while self._entries and self._entries[0].until < now:
            entry = self._entries.popleft()
            self._bytes -= len(entry.data)
            expired.append(entry)
        return expired
