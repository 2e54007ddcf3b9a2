"""Let the power fail at a thousand moments: is anything that was answered lost, doubled, changed?

    python bench/crash_points.py                         1,000 moments
    python bench/crash_points.py --points 100 --seed 7 --json

Writers without sockets live in this process, on real files of which a journal is kept: the real
start, engine, command log and checkpoints. From moments of the journal directories are made as a
disk may be then (what was not synced is there, missing, torn in sectors of 512 bytes, in any
order), and each is started from. All that was answered must be there once, and the region's bytes
must be those of the life before after the same transaction. Some go on, and fail again.

Exit codes: 0 all is well, 1 something is not.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.crash_points import CrashPoints  # noqa: E402 - tests come first
from tests.support.power import MEMORY  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000, help="(1000)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument("--steps", type=int, default=60, help="of each life (60)")
    parser.add_argument("--keep", type=Path, help="work here, and leave what was wrong")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        work = arguments.keep or Path(temporary)
        work.mkdir(exist_ok=True)
        report = CrashPoints(
            work,
            points=arguments.points,
            seed=arguments.seed,
            steps=arguments.steps,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        ).run()
    if arguments.json:
        print(json.dumps(report.as_dict()))
        return 0 if report.well else 1
    print(
        f"{report.points:,} moments and {report.second_lives:,} of second lives in "
        f"{report.seconds:.0f} s: {report.transactions:,} transactions, "
        f"{report.acknowledged:,} acknowledged, {report.checkpoints:,} checkpoints; at "
        f"{report.lossy:,} something was lost that nobody had been told of"
    )
    print(f"violations: {len(report.violations) or 'none'}")
    print("\n".join(report.violations[:50]))
    return 0 if report.well else 1


if __name__ == "__main__":
    sys.exit(main())
