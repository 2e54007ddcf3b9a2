"""GET load for a Redis, by the suite's generator: closed loop, one line of JSON.

    python -m bench.resp PORT --connections 50 --in-flight 32 --duration 3 --keys 1000

The generator is the load test's own with Redis's protocol (`bench/suite/loads`), as for every other
system. So what differs between two measurements is the server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.resp import Redis, Resp, command

from diptych.loadtest import LoadSettings
from diptych.loadtest.mix import Call


class Commands(Resp):
    """Calls that are commands of Redis's own."""

    def __init__(self, port: int) -> None:
        super().__init__(port, {})

    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        return command(name, *arguments), -1


class Gets:
    """GETs of so many keys in turn; a mix."""

    def __init__(self, keys: int) -> None:
        self._keys = keys

    def setup(self) -> Iterator[Call]:
        yield from ()

    def calls(self, connection: int) -> Iterator[Call]:
        for number in count(connection * 17):
            yield "GET", (f"account:{1 + number % self._keys}",)

    queries = calls


def main() -> int:
    arguments = parsed()
    with closing(Redis(arguments.port)) as redis:
        numbers = range(1, arguments.keys + 1)
        redis.ask_all(command("SET", f"account:{number}", 1_000) for number in numbers)
    settings = LoadSettings(
        connections=arguments.connections,
        in_flight=arguments.in_flight,
        duration_s=arguments.duration,
        setup=False,
    )
    report = run_ordered(Commands(arguments.port), Gets(arguments.keys), settings)
    if not report.clean or any(each.refused for each in report.operations):
        raise SystemExit("redis gave other answers than values")
    latency_us = report.transactions_latency_us
    told = {"p50_us": latency_us["p50"], "p99_us": latency_us["p99"]}
    print(json.dumps({"per_s": report.transactions_rate} | told))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--duration", type=float, default=3.0)
    parser.add_argument("--keys", type=int, default=1_000)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
