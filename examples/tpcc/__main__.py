"""TPC-C at work: `python -m tpcc`. A tenth of a warehouse, with all conditions watched."""

from __future__ import annotations

import argparse
import sys

from tpcc.driver import add_arguments, run


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tpcc",
        description="Start a server, load a small warehouse, run TPC-C's mix on it while the "
        "consistency conditions are checked on one image after another, and say how it went.",
        epilog="python -m tpcc.driver measures, at full size or against a server that runs",
    )
    add_arguments(parser, items=10_000, customers=300)
    return run(parser.parse_args(words), None, watch=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
