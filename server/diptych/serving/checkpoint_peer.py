"""The writer's side of checkpoints: lends the checkpointer an image, and says what changed in it.

The writer never waits for it: it looks here after each sync, sends without blocking, and goes on.
The image is held until the checkpointer is done with it, or is gone for good; which pages changed
since a slot was last written is proven only when it said that it was done.
"""

from __future__ import annotations

import select
import socket

from diptych.engine.sync import Published, Syncer
from diptych.serving.channel import (
    CheckpointDone,
    CheckpointImage,
    CheckpointWanted,
    Internal,
)
from diptych.serving.frames import FrameBuffer

READ_BYTES = 64 << 10


class CheckpointPeer:
    """The writer's end of its socket to the checkpointer. `holder` names it towards the syncer."""

    def __init__(
        self, sock: socket.socket, holder: int, syncer: Syncer, epoll: select.epoll
    ) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.holder = holder
        self._syncer = syncer
        self._epoll = epoll
        self._buffer = FrameBuffer(READ_BYTES, READ_BYTES)
        self._unsent = bytearray()
        self._wanted: CheckpointWanted | None = None
        self._lent: tuple[int, Published] | None = None  # slot, and what was lent for it
        epoll.register(sock, select.EPOLLIN)

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0

    def on_ready(self, events: int) -> bool:
        """What epoll said of the socket. False when its other end is gone, and this one closed."""
        if events & select.EPOLLOUT and self._unsent:
            self._send(b"")
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            try:
                received = self.socket.recv_into(self._buffer.space())
            except BlockingIOError:
                return True
            except OSError:
                received = 0
            if not received:
                self.close()
                return False
            self._buffer.added(received)
            for position in range(self._buffer.split()):
                self._hear(self._buffer.frame(position))
            self._buffer.consume()
        return True

    def look(self) -> None:
        """Answer what is wanted, if an image shows it by now."""
        wanted, published = self._wanted, self._syncer.published
        if wanted is None or published is None or published.sequence < wanted.through:
            return
        kept = self._syncer.keep(self.holder, wanted.slot)
        if kept is None:
            return
        published, pages = kept
        self._wanted, self._lent = None, (wanted.slot, published)
        image = CheckpointImage(
            published.image,
            published.epoch,
            published.sequence,
            published.history,
            pages is None,
            b"" if pages is None else pages.astype("<i8", copy=False).tobytes(),
        )
        self._send(image.frame())

    def left(self) -> None:
        """The checkpointer is gone, and nobody looks at the image for it."""
        self.close()
        self._syncer.left(self.holder)
        if self._lent is not None:
            self._syncer.kept_in_vain(self._lent[0])
            self._lent = None

    def close(self) -> None:
        if self.is_open:
            self._epoll.unregister(self.socket)
            self.socket.close()
        self._wanted = None

    def _hear(self, frame: memoryview) -> None:
        if frame[4] == Internal.CHECKPOINT_WANTED:
            self._wanted = CheckpointWanted.read(frame)
            self._syncer.wanted(self._wanted.through)
            self.look()
        elif frame[4] == Internal.CHECKPOINT_DONE:
            done = CheckpointDone.read(frame)
            if self._lent is None or (done.slot, done.epoch) != (
                self._lent[0],
                self._lent[1].epoch,
            ):
                return
            slot, published = self._lent
            self._lent = None
            self._syncer.released(self.holder, published.image, published.epoch)
            if not done.ok:
                self._syncer.kept_in_vain(slot)

    def _send(self, data: bytes) -> None:
        """Send, and keep for later what is not taken now. An error shows when it is read."""
        self._unsent += data
        try:
            sent = self.socket.send(self._unsent)
        except OSError:
            sent = 0
        del self._unsent[:sent]
        interest = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._epoll.modify(self.socket, interest)
