"""`python -m bench`, from the project's root: the whole suite. See `bench/suite/command.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.serving.spawn import forbid_library_threads

if __name__ == "__main__":
    forbid_library_threads()  # servers are forked from here; and before numpy comes, with:
    from bench.suite.command import main

    sys.exit(main())
