"""Whether the transaction that runs has used up its time: one comparison, in what handlers call.

The control page lies over a page of the scratch, beside those that kernels use all the time, so
that looking at it costs next to nothing. Who watches the time writes the number of a transaction
there; from then on every operation of that transaction refuses, whatever its handler makes of it,
and the next transaction, whose number is another, is not concerned. Without a server there is a
page of zeros. Who watches, and for how long, is not known here.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.words import DOOMED, S_CONTROL, SCRATCH, SEQUENCE


@kernel
def is_over_budget(words: Words) -> bool:
    """Whether the transaction that runs has to end."""
    doomed = words[words[SCRATCH] + S_CONTROL + DOOMED]
    return bool(doomed != 0 and doomed == words[SEQUENCE])
