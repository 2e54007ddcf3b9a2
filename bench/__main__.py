"""`python -m bench`, from the project's root: the whole suite. See `bench/suite/command.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.serving.spawn import forbid_library_threads

# Servers are forked from here. `diptych serve` does the same before it imports numpy.
forbid_library_threads()

from bench.suite.command import main  # noqa: E402 -- numpy comes with it

if __name__ == "__main__":
    sys.exit(main())
