"""Kill a server's processes, again and again, under load: is anything lost, doubled, out of order?

    python bench/kills.py                                500 kills, 20 clients
    python bench/kills.py --kills 50 --seed 7 --json

Serves the ledger of tests/support with a data directory, durability fsync. Clients that retry by
themselves transfer money and write down what they were told; meanwhile writer, readers, gateway,
checkpointer and the whole server are killed with -9, or frozen for a while, at random moments of a
seeded schedule. Every hundred faults, at the end, after a cold start and after a start in order all
that the clients saw is held against what is there, and `diptych check` reads the files.

Exit codes: 0 all is well, 1 something is not, or a kill did not happen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.kills import KillFailed, Soak  # noqa: E402 - tests come first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, help="(500)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the load (1)")
    parser.add_argument("--clients", type=int, default=20, help="(20)")
    parser.add_argument("--check-every", type=int, default=100, metavar="N", help="faults (100)")
    parser.add_argument("--durability", default="fsync", choices=("fsync", "os", "none"))
    parser.add_argument("--data", type=Path, help="an empty directory (a temporary one)")
    parser.add_argument("--progress", action="store_true", help="say each fault")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        if arguments.progress:
            print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        soak = Soak(
            arguments.data or Path(temporary) / "data",
            kills=arguments.kills,
            seed=arguments.seed,
            clients=arguments.clients,
            check_every=arguments.check_every,
            say=say,
            durability=arguments.durability,
        )
        try:
            report = soak.run()
        except KillFailed as failure:
            print(f"bench/kills.py: {failure}", file=sys.stderr)
            return 1
    if arguments.json:
        print(json.dumps(report.as_dict()))
    else:
        print("\n".join(report.lines()))
    return 0 if report.well and report.kills == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
