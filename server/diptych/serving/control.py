"""Control sockets: how the supervisor and its processes talk, and how they notice each other's end.

One pair a process, of whole messages (AF_UNIX, SOCK_SEQPACKET): small maps in msgpack, with at most
one descriptor attached. The end of the stream means that the other side is gone; for a child, that
the supervisor is, so it must go too. Sending never blocks: a child that does not read its control
socket is stuck, and a stuck child is for the supervisor to kill.
"""

from __future__ import annotations

import os
import socket
from typing import Any, TypeAlias

import msgpack

Message: TypeAlias = dict[str, Any]

MESSAGE_BYTES_MAX = 64 << 10


class Control:
    """One end of a control socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock

    @classmethod
    def pair(cls) -> tuple[Control, Control]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message, descriptor: int | None = None) -> bool:
        """Send a message, and with it a duplicate of `descriptor`. False when nobody takes it."""
        fds = [] if descriptor is None else [descriptor]
        try:
            socket.send_fds(self.socket, [msgpack.packb(message)], fds)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[list[Message], bool]:
        """All messages that are there, and whether the other side is still there.

        A descriptor that came along is message["descriptor"], for the caller to close.
        """
        messages: list[Message] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES_MAX, 1)
            except BlockingIOError:
                return messages, True
            except OSError:
                return messages, False
            if not data:
                return messages, False
            message: Message = msgpack.unpackb(data)
            for fd in fds:
                os.set_inheritable(fd, False)
                message["descriptor"] = fd
            messages.append(message)

    def close(self) -> None:
        self.socket.close()


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of stream sockets for frames, with room for large batches."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        # The kernel takes less where its limit is lower; that costs speed only.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return pair


def adopt(descriptor: int) -> socket.socket:
    """A descriptor that came in a message, as a non-blocking socket."""
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock
