"""`python -m bench`, from the project's root: the whole suite. See `bench/suite/command.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from bench.suite.command import main

if __name__ == "__main__":
    sys.exit(main())
