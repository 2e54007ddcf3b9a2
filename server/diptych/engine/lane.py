"""The compiled lane of one engine: as many frames in a row as compiled code can run.

What `store.lane` needs is gathered here once. Which frames those are, and what becomes of the
others, it says; the order in which frames run is its caller's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import config

from diptych.app import App
from diptych.kernel import ready
from diptych.memory import Region
from diptych.store import lane

REPLIES_BYTES = 4 << 20

run_frames = ready(
    lane.run_frames,
    "(int64[::1], uint8[::1], int64, int64[::1], uint8[::1], int64[::1], int64[::1], "
    "int64, int64, int64[::1], uint8[::1], int64, int64, int64[::1])",
)


def compiled_for(app: App) -> lane.Compiled | None:
    """What of an application is to run compiled; None: nothing, or it can't in this process.

    Errors: DeclarationError for a handler that can't be compiled. The first time takes seconds.
    """
    if not has_compiled(app):
        return None
    from diptych.store.compiled.handlers import compiled_operations  # takes a second to import

    return compiled_operations(app)


def has_compiled(app: App) -> bool:
    return not config.DISABLE_JIT and any(operation.compiled for operation in app.operations)


def lane_of(app: App) -> str:
    """Which lane its transactions run in: part of what must be equal for a replay."""
    names = [each.name for each in app.operations if each.compiled and each.kind == "transaction"]
    if not names or config.DISABLE_JIT:
        return "interpreted"
    return f"compiled: {', '.join(names)}"


class Lane:
    """Compiled transactions on a region. `numbers`: their operations'.

    `admitted`: whether the frame before which the last run stopped is admitted already.
    """

    def __init__(self, compiled: lane.Compiled, region: Region, answer_bytes_max: int) -> None:
        self.numbers = compiled.transactions
        self.admitted = False
        self.rejected = 0
        self._table = compiled.table
        self._words, self._base = region.words, region.address
        self._memory = region.words.view(np.uint8)
        self._answer_bytes_max = answer_bytes_max
        self._replies = np.zeros(REPLIES_BYTES, np.uint8)
        self._told = np.zeros(lane.TOLD_WORDS, np.int64)

    def run(
        self,
        control: npt.NDArray[np.int64],
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        hashes: npt.NDArray[np.int64],
        first: int,
        count: int,
        now_ns: int,
    ) -> tuple[int, memoryview]:
        """Run frames `first` to `count`, for as long as it can: how many ran, and their replies,
        which are valid until the next run. See `store.lane.run_frames`.
        """
        told = self._told
        if not frames.flags.writeable:
            frames = frames.copy()  # the kernel is compiled for one type of array
        ran = run_frames(
            self._words,
            self._memory,
            self._base,
            control,
            frames,
            starts,
            hashes,
            first,
            count,
            self._table,
            self._replies,
            self._answer_bytes_max,
            now_ns,
            told,
        )
        size_bytes, self.rejected, admitted = told.tolist()
        self.admitted = bool(admitted)
        return ran, self._replies.data[:size_bytes]
