"""Clients' sockets, read and written by kernels: all that are ready in one call.

Transactions go from sockets into one run for the writer, stamped on the way, and the writer's
replies to the sockets, with no object for a client, a read or a frame. All else is left to the
connections: other frames, part of a frame, what there is no room for, the end of the stream, and
replies that a socket does not take.

A connection is *adopted* once its client is let in. uvloop, which has its socket, then no longer
reads it, but still writes what the connection says, and closes it; while uvloop has something
unsent, nothing is written here. Each connection has a row of words, found by its number; a
descriptor is known here only as long as the connection is adopted, which ends before uvloop closes
it. Knows nothing of what is done with what was read.
"""

from __future__ import annotations

import logging
import os
import select
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.kernel import bound, entry_kernel, kernel
from diptych.serving.frames import Bytes, Words, stamp
from diptych.serving.system_calls import AGAIN, events_for, ready, receive, send_some

if TYPE_CHECKING:
    from diptych.serving.connection import Connection
    from diptych.serving.gateway import Gateway

log = logging.getLogger("diptych.serving")

READ_BYTES = 32 << 10
"""Of one client at a time."""
RUN_BYTES = 256 << 10
"""Of transactions that are given to the writer together."""
READY_MAX = 256
"""Sockets that are looked at together."""

# Words of a connection's row.
NUMBER = 0  # 0: the row is free
FD = 1  # -1: it is not adopted
SESSION = 2
UNANSWERED = 3  # transactions
READ_HERE = 4  # and none of it is left in the connection's own buffer
WRITTEN_HERE = 5  # uvloop has nothing unsent
ROW_WORDS = 6

NO_ROW: Words = np.array([0, -1, 0, 0, 0, 0], np.int64)
"""Of a connection that has none, or not yet."""

# What is told between kernels and us.
USED = 0  # bytes of the run that are transactions
COUNT = 1  # and how many they are
ROOM = 2  # transactions that may yet come
WHAT = 3  # why a kernel stopped, see below
REST_STOP = 4  # bytes behind USED up to here are the connection's
SENT = 5  # bytes that sockets took
TOLD_WORDS = 6

# WHAT
_FULL = 1  # the run has no room for another read
_ITS_OWN = 2  # the connection reads for itself
_REST = 3  # what came is not all for the run
_ENDED = 4  # the end of the stream
_BROKEN = 5

_READ_BYTES = READ_BYTES


@entry_kernel
def read_ready(
    found: Words,
    begin: int,
    count: int,
    row_of: Words,
    rows: Words,
    run: Bytes,
    frame_bytes_max: int,
    operations: Bytes,
    unanswered_max: int,
    stamped: Words,
    told: Words,
) -> int:
    """Read sockets that rows `begin` to `count` of `found` have: where it stopped, see WHAT."""
    for i in range(begin, count):
        fd = found[i, 0]
        if fd >= len(row_of) or row_of[fd] < 0:
            continue
        row = rows[row_of[fd]]
        if row[READ_HERE] == 0:
            told[WHAT] = _ITS_OWN
            return i
        start = told[USED]
        if len(run) - start < _READ_BYTES:
            told[WHAT] = _FULL
            return i
        came = receive(fd, run.ctypes.data + start, _READ_BYTES)
        if came == AGAIN:
            continue
        if came <= 0:
            told[WHAT] = _ENDED if came == 0 else _BROKEN
            return i
        stop = start + came
        end = stamp(
            run,
            start,
            stop,
            frame_bytes_max,
            operations,
            row[SESSION],
            row[NUMBER],
            min(told[ROOM], unanswered_max - row[UNANSWERED]),
            stamped,
        )
        row[UNANSWERED] += stamped[0]
        told[COUNT] += stamped[0]
        told[ROOM] -= stamped[0]
        told[USED] = end
        if end < stop:
            told[REST_STOP] = stop
            told[WHAT] = _REST
            return i
    return count


@kernel
def write_replies(replies: Bytes, runs: Words, count: int, rows: Words, told: Words) -> int:
    """Send runs of replies (see `frames.group_replies`): how many are left for connections, as the
    first rows of `runs`. What is left of one that was sent in part has 0 frames.
    """
    left = 0
    for i in range(count):
        number, start, stop, frames = runs[i, 0], runs[i, 1], runs[i, 2], runs[i, 3]
        row = rows[number & (len(rows) - 1)]
        if number != 0 and row[NUMBER] == number and row[WRITTEN_HERE] != 0:
            row[UNANSWERED] -= frames
            frames = 0
            sent = max(0, send_some(row[FD], replies.ctypes.data + start, stop - start))
            told[SENT] += sent
            if sent == stop - start:
                continue
            row[WRITTEN_HERE] = 0
            start += sent
        runs[left, 0], runs[left, 1], runs[left, 2], runs[left, 3] = number, start, stop, frames
        left += 1
    return left


class ClientSockets:
    """Those of one gateway. `first`: the first number of a connection."""

    def __init__(self, gateway: Gateway, first: int) -> None:
        self._gateway = gateway
        limits = gateway.settings.limits
        # Twice as many as there may be connections, so that a free row is found soon.
        self._rows: Words = np.zeros(
            (1 << limits.connections.bit_length() + 1, ROW_WORDS), np.int64
        )
        self._row_of: Words = np.full(1024, -1, np.int64)  # by descriptor
        self._next = first
        self._frame_bytes = limits.frame_bytes
        self._unanswered_max = limits.transactions_in_flight
        self._epoll = select.epoll()
        self._events, self._found = events_for(READY_MAX), np.zeros((READY_MAX, 2), np.int64)
        self._run: Bytes = np.zeros(RUN_BYTES, np.uint8)
        self._view = self._run.data
        self._stamped: Words = np.zeros(1, np.int64)
        self._told: Words = np.zeros(TOLD_WORDS, np.int64)
        self._ready = bound(ready, self._epoll.fileno(), self._events, self._found)
        self._read = bound(read_ready, *self._to_read(0, 0))
        self._write = bound(write_replies, self._run, self._found, 0, self._rows, self._told)

    def begin(self) -> None:
        """From here on the gateway's loop calls."""
        self._gateway.loop.add_reader(self._epoll.fileno(), self._on_ready)

    def row(self) -> Words:
        """A row for a new connection, with its number."""
        mask = len(self._rows) - 1
        while self._rows[self._next & mask, NUMBER]:
            self._next += 1
        row: Words = self._rows[self._next & mask]
        row[:] = NO_ROW
        row[NUMBER] = self._next
        self._next += 1
        return row

    def adopt(self, connection: Connection, fd: int) -> None:
        """Read and write this client's socket from here on."""
        row = connection.row
        if fd >= len(self._row_of):
            more = np.full(fd + 1, -1, np.int64)
            self._row_of = np.concatenate((self._row_of, more))
        self._row_of[fd] = row[NUMBER] & (len(self._rows) - 1)
        row[FD], row[SESSION] = fd, connection.session
        self._epoll.register(fd, select.EPOLLIN)
        self.look_at(connection)

    def look_at(self, connection: Connection) -> None:
        """Its own buffer is empty by now, or not."""
        connection.row[READ_HERE] = connection.row[FD] >= 0 and not connection.buffer.end

    def leave(self, connection: Connection) -> None:
        """No more of this socket, if it is adopted: it is going to be closed."""
        row = connection.row
        if row[FD] >= 0:
            self._epoll.unregister(int(row[FD]))
            self._row_of[row[FD]] = -1
            row[FD] = -1
            row[READ_HERE] = row[WRITTEN_HERE] = 0

    def write(self, replies: Bytes, runs: Words, count: int) -> int:
        """Send runs of replies; how many are left for connections, and first in `runs` now."""
        self._told[SENT] = 0
        left = self._write(replies, runs, count, self._rows, self._told)
        self._gateway.counts.bytes_out += self._told.item(SENT)
        return left

    def _to_read(self, begin: int, count: int) -> tuple[Any, ...]:
        return (
            self._found,
            begin,
            count,
            self._row_of,
            self._rows,
            self._run,
            self._frame_bytes,
            self._gateway.greeter.kinds,
            self._unanswered_max,
            self._stamped,
            self._told,
        )

    def _on_ready(self) -> None:
        count = self._ready(self._epoll.fileno(), self._events, self._found)
        at = 0
        while True:
            self._told[ROOM] = self._gateway.room() - self._told.item(COUNT)
            at = self._read(*self._to_read(at, count))
            if at == count:
                break
            what = self._told.item(WHAT)
            if what == _FULL:
                self._give()
            else:
                self._leave_to(self._found.item(at, 0), what)
                at += 1
        self._give()

    def _give(self) -> None:
        """Give the gateway what has come for the writer."""
        used, count = self._told.item(USED), self._told.item(COUNT)
        if used:
            self._told[USED] = self._told[COUNT] = 0
            self._gateway.take_run(bytes(self._view[:used]), count)

    def _leave_to(self, fd: int, what: int) -> None:
        """What has come on this descriptor is for its connection to see."""
        connection = self._gateway.connection(int(self._rows[self._row_of[fd], NUMBER]))
        assert connection is not None
        rest = b""
        if what == _REST:
            rest = bytes(self._view[self._told.item(USED) : self._told.item(REST_STOP)])
        self._give()  # what came first is first
        try:
            if what == _REST:
                connection.received(rest)
            elif what == _ITS_OWN:
                _read_for(connection, fd)
            elif what == _ENDED:
                connection.ended()
            else:
                connection.abort()
        except Exception:  # a bug, which is not to cost other clients anything
            log.exception("%r can't go on", connection)
            connection.abort()
        self.look_at(connection)


def _read_for(connection: Connection, fd: int) -> None:
    """Read into the connection's own buffer, where part of a frame is."""
    try:
        size = os.readv(fd, [connection.buffer.space()])
    except BlockingIOError:
        return
    except OSError:
        connection.abort()
        return
    if size:
        connection.buffer_updated(size)
    else:
        connection.ended()


def write_now(fd: int, data: bytes) -> int:
    """How much of it a socket takes at once: none when it is broken, which its reader will see."""
    try:
        return os.write(fd, data)
    except OSError:
        return 0


def warm() -> None:
    """Compile the kernels, or load them from the cache, before a gateway needs them."""
    table, words, some = (
        np.zeros((1, ROW_WORDS), np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.uint8),
    )
    bound(ready, 0, some, table)
    bound(read_ready, table, 0, 0, words, table, some, 0, some, 0, words, words)
    bound(write_replies, some, table, 0, table, words)
