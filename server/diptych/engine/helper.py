"""One thread that works beside the writer, and a descriptor that says when its job is done.

Persistent, because starting a thread takes the interpreter lock at the worst moment. It is of use
for jobs that spend their time in kernels or system calls, which leave the lock to the writer.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Helper:
    """Used by one thread. `fd` is readable once the job is done, until `finished` has said so."""

    def __init__(self, name: str) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.busy = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        assert not self.busy
        self.busy = True
        self._jobs.put(job)

    def finished(self) -> bool:
        """Whether the job is done (then the helper is free again); raises what the job raised."""
        if not self.busy:
            return True
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        self.busy = False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def close(self) -> None:
        """Let the job end, then the thread."""
        self._jobs.put(None)
        self._thread.join()
        os.close(self.fd)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:
                # Not lost: the owner of the helper gets it from `finished`.
                self._error = error
            os.eventfd_write(self.fd, 1)
