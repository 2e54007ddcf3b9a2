"""The images as a process gets them that is to look at them: descriptors that can't be written."""

from __future__ import annotations

import os
from dataclasses import dataclass

from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES


@dataclass(frozen=True)
class Images:
    """Each with the same size. The supervisor closes its descriptors once the process is forked."""

    fds: tuple[int, ...]
    size_bytes: int

    def open(self) -> list[Region]:
        """Map them, with scratch, so that queries run on them. Errors: OSError."""
        return [Region.attach(fd, self.size_bytes, scratch_bytes=SCRATCH_BYTES) for fd in self.fds]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
