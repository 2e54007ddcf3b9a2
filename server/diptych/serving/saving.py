"""What the supervisor does about the checkpointer: one process at a time, and the last checkpoint.

It lives with a writer: started when that is ready, killed when that is dead. When it dies by
itself it is started again after pauses that grow; the server goes on without it meanwhile. At the
end it is asked for a last checkpoint, and once more, should it be killed over that; one that ends
with an error has said why, and nothing is tried again.

Knows neither memory nor sockets: `start` forks it, `kill` kills it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from diptych.serving.children import Child
from diptych.serving.control import Message
from diptych.serving.spawn import EXIT_FAILED

TRIES = 2
"""Checkpointers that are asked for the last checkpoint, should one be killed while it writes."""


class Saving:
    """`wanted`: whether the server has a data directory; without one nothing happens here."""

    def __init__(
        self,
        start: Callable[[], Child],
        kill: Callable[[Child], None],
        *,
        wanted: bool,
    ) -> None:
        self._start, self._kill = start, kill
        self.wanted = wanted
        self.child: Child | None = None
        self.failed = False
        self._tries_left = TRIES if wanted else 0
        self._asked_last = False
        self._asked: dict[int, tuple[Child, int]] = {}  # by our ticket: who asked, and its ticket
        self._tickets = itertools.count(1)

    @property
    def over(self) -> bool:
        """Whether the last checkpoint is written, or will not be."""
        return self.child is None and not self._tries_left

    @property
    def writing_last(self) -> bool:
        return self.child is not None and self._asked_last

    def writer_is_ready(self) -> None:
        """Start one, unless one is left of the writer before: then its end is what starts it.

        Errors: OSError.
        """
        if self.wanted and self.child is None:
            self.child = self._start()
            for ticket in self._asked:
                self.child.control.send({"do": "checkpoint", "ticket": ticket})

    def writer_died(self) -> None:
        if self.child is not None:
            self.child.stopped_because = "its writer ended"
            self._kill(self.child)

    def died(self, code: int) -> None:
        """It was reaped. Who waits for a checkpoint gets that of the next one."""
        self.child = None
        if self._asked_last and code in (0, EXIT_FAILED):
            self._tries_left = 0
            self.failed = self.failed or code == EXIT_FAILED
        elif self._asked_last and not self._tries_left:
            self.failed = True
        self._asked_last = False

    def ask(self, gateway: Child, ticket: int) -> None:
        """A client of `gateway` asks for a checkpoint."""
        ours = next(self._tickets)
        self._asked[ours] = gateway, ticket
        if self.child is not None:
            self.child.control.send({"do": "checkpoint", "ticket": ours})

    def told(self, message: Message) -> None:
        """What became of a ticket."""
        gateway, ticket = self._asked.pop(message["ticket"])
        facts = {name: value for name, value in message.items() if name != "tell"}
        gateway.control.send({**facts, "do": "checkpointed", "ticket": ticket})

    def write_last(self) -> None:
        """Ask for the last checkpoint, of a writer that is ready. Errors: OSError."""
        if self._asked_last or self.over:
            return
        self.writer_is_ready()
        assert self.child is not None
        if self.child.stopped_because:
            return  # of the writer before: asked for when it is gone
        self._asked_last = True
        self._tries_left -= 1
        self.child.control.send({"do": "final"})

    def give_up(self) -> None:
        """No writer can be had whose images could be saved."""
        self.failed = self.failed or self._tries_left > 0
        self._tries_left = 0
