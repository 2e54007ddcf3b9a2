"""Which of the pages files a checkpoint goes to, so that two complete ones are never touched.

There are three, and a checkpoint changes one in place. The newest two complete checkpoints are not
touched by the one after them: however that ends, and should one of the two turn out to be damaged,
there is another. Knows numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping

SLOTS = (1, 2, 3)
UNTOUCHED = 2


def free_slots(epochs: Mapping[int, int]) -> list[int]:
    """Where the next checkpoint may go, the best first. `epochs`: of each slot's checkpoint, if it
    has a complete one.

    A slot without is taken first, then the oldest.
    """
    untouched = sorted(epochs, key=lambda slot: epochs[slot])[-UNTOUCHED:]
    free = [slot for slot in SLOTS if slot not in untouched]
    return sorted(free, key=lambda slot: (epochs.get(slot, 0), slot))
