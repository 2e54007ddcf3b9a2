"""For all tests: hypothesis without timings and without chance, so that a test says the same twice.

DIPTYCH_SEED=random looks at other examples than the usual ones; a failure prints how to repeat it.
Ctrl-C ends what tests start also where a shell started all this in the background, deaf to it.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile(
    "diptych",
    deadline=None,
    derandomize=os.environ.get("DIPTYCH_SEED") != "random",
    print_blob=True,
    database=None,
)
settings.load_profile("diptych")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
