"""What transactions do that a replay may do otherwise is found, and nothing else is."""

from __future__ import annotations

import collections
import datetime
import hashlib
import math
import os
import random
import random as chance
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import datetime as moment
from time import time_ns as clock
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from tests.support import club, crates, depot, everything, semantics

import bank
import exchange
import tpcc
from diptych import App, Db, key
from diptych.determinism import CHANCE, CLOCK, OUTSIDE, PROCESSOR, UNORDERED, hazards

CACHE: dict[int, int] = {}
QUEUE: collections.deque[int] = collections.deque()
ALLOWED = frozenset({"a", "b"})
PRIMES = frozenset({2, 3, 5})
GENERATOR = np.random.default_rng(5)
SEEDED = random.Random(5)
COUNT = 0


class Settings:
    limit = 5


class Proxy:
    """Of which nothing can be asked before its time."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("too early")


PROXY = Proxy()


class Thing:
    id: int = key()
    size: int = 0


def found(*handlers: Callable[..., Any]) -> list[tuple[int, str, str]]:
    """Line in the first function, what, and the cure."""
    app = App("shop")
    app.table(Thing)
    for handler in handlers:
        app.transaction(handler)
    first = handlers[0].__code__.co_firstlineno
    told = []
    for hazard in app.hazards():
        assert hazard.file == __file__
        told.append((hazard.line - first, hazard.what, hazard.cure))
    return told


# What is found ----------------------------------------------------------------------------------


def test_clocks() -> None:
    def handler(db: Db) -> int:
        a = time.time() + time.monotonic()
        b = clock()
        datetime.datetime.now(datetime.UTC)
        moment.utcnow()
        datetime.date.today()
        return int(a) + b

    assert found(handler) == [
        (1, "time.monotonic", CLOCK),
        (1, "time.time", CLOCK),
        (2, "clock", CLOCK),
        (3, "datetime.datetime.now", CLOCK),
        (4, "moment.utcnow", CLOCK),
        (5, "datetime.date.today", CLOCK),
    ]


def test_chance() -> None:
    def handler(db: Db) -> None:
        random.random()
        chance.choice([1])
        secrets.token_hex()
        uuid.uuid4()
        os.urandom(8)
        np.random.rand()
        default_rng()
        GENERATOR.integers(5)
        SEEDED.random()
        random.Random()
        sorted([2, 1], key=random.random)

    assert found(handler) == [
        (1, "random.random", CHANCE),
        (2, "chance.choice", CHANCE),
        (3, "secrets.token_hex", CHANCE),
        (4, "uuid.uuid4", CHANCE),
        (5, "os.urandom", CHANCE),
        (6, "np.random.rand", CHANCE),
        (7, "default_rng()", CHANCE),
        (8, "GENERATOR.integers", CHANCE),
        (9, "SEEDED.random", CHANCE),
        (10, "random.Random()", CHANCE),
        (11, "random.random", CHANCE),
    ]


def test_what_differs_from_process_to_process() -> None:
    def handler(db: Db, name: str) -> int:
        return hash(name) + id(db) + uuid.getnode()

    assert [(line, what) for line, what, _ in found(handler)] == [
        (1, "hash"),
        (1, "id"),
        (1, "uuid.getnode"),
    ]


def test_the_order_of_a_set() -> None:
    def handler(db: Db, names: list[str]) -> list[str]:
        for name in {"a", "b"}:
            db.thing.insert(id=len(name))
        chosen = set(names)
        fewer = chosen - {"a"}
        for name in fewer:
            db.thing.insert(id=len(name))
        for name in ALLOWED:
            db.thing.insert(id=len(name))
        found = list({name for name in names})  # noqa: C416
        return [name for name in frozenset(names)] + found  # noqa: C416

    assert found(handler) == [
        (1, "{'a', 'b'}", UNORDERED),
        (5, "fewer", UNORDERED),
        (7, "ALLOWED", UNORDERED),
        (9, "{name for name in names}", UNORDERED),
        (10, "frozenset(names)", UNORDERED),
    ]


def test_functions_of_which_each_processor_has_its_own() -> None:
    def handler(db: Db, a: float) -> float:
        b = float(np.exp(a) + np.log1p(a) + np.power(a, 1.1))
        return b + float(np.dot([a], [b]) + np.linalg.norm([a]))

    assert {what for _, what, cure in found(handler) if cure == PROCESSOR} == {
        *("np.exp", "np.log1p", "np.power", "np.dot", "np.linalg.norm"),
    }


def test_what_is_kept_outside_of_the_data() -> None:
    kept: list[int] = []

    def handler(db: Db) -> None:
        global COUNT
        COUNT += 1
        CACHE[1] = COUNT
        QUEUE.append(2)
        Settings.limit = 6
        kept.append(1)
        del CACHE[1]
        CACHE[2] += 1

    assert found(handler) == [
        (2, "the global COUNT", OUTSIDE),
        (3, "CACHE[1]", OUTSIDE),
        (4, "QUEUE.append", OUTSIDE),
        (5, "Settings.limit", OUTSIDE),
        (6, "kept.append", OUTSIDE),
        (7, "CACHE[1]", OUTSIDE),
        (8, "CACHE[2]", OUTSIDE),
    ]


def test_what_a_handler_imports_itself() -> None:
    def handler(db: Db) -> float:
        import random as numbers
        from time import time as seconds

        return numbers.random() + seconds()

    assert [what for _, what, _ in found(handler)] == ["numbers.random", "seconds"]


def stamp() -> int:
    return time.time_ns()


def make_stamp(db: Db) -> int:
    return stamp() if db.now else make_stamp(db)


def test_helpers_count_for_whoever_calls_them() -> None:
    def one(db: Db) -> int:
        return make_stamp(db)

    def other(db: Db) -> int:
        return stamp()

    (hazard,) = hazards({"one": one, "other": other}, {})
    line = stamp.__code__.co_firstlineno + 1
    assert (hazard.line, hazard.operations) == (line, ("one", "other"))
    assert str(hazard) == f"{__file__}:{line}: one, other: time.time_ns: {CLOCK}"


# What is not ------------------------------------------------------------------------------------


def test_what_is_the_same_each_time_is_not_told() -> None:
    def handler(db: Db, names: list[str], time: int, CACHE: dict[int, int]) -> list[str]:
        """time.time(), random.random()"""
        CACHE[1] = time.real  # both are parameters
        drawn = random.Random(db.sequence).random() + default_rng(5).random()
        db.thing[1].size += int(drawn) + db.random.integers(3) + db.now
        hashlib.sha256(b"x").digest()
        uuid.uuid5(uuid.NAMESPACE_DNS, "x")
        datetime.datetime(2020, 1, 1).isoformat()
        moment.fromisoformat("2020-01-01")
        math.exp(np.sqrt(4.0) + np.add(1, 2))
        rows = []
        rows.append(max({1, 2}) + len(set(names)))
        for number in {1, 2, 3}:
            rows.append(number)
        for number in PRIMES:
            rows.append(number)
        for name in sorted(set(names)):
            rows.append(len(name))
        chosen = set(names)
        chosen = sorted(chosen)
        rows.append(PROXY.size)
        for row in PROXY:
            rows.append(row)
        return [name for name in chosen if name in ALLOWED]

    assert found(handler) == []


def test_queries_setups_and_functions_of_others_are_not_looked_at() -> None:
    app = App("shop")
    app.table(Thing)

    @app.query
    def ask(db: Db) -> float:
        return time.time()

    @app.setup
    def setup(db: Db) -> None:
        db.thing.insert(id=secrets.randbits(30))

    @app.transaction
    def use(db: Db) -> str:
        return str(uuid.UUID(int=5)) + hashlib.md5(b"").hexdigest()

    assert app.hazards() == []


@pytest.mark.parametrize(
    "module", [bank, exchange, tpcc, club, crates, depot, everything, semantics]
)
def test_the_examples_are_deterministic(module: Any) -> None:
    assert module.app.hazards() == []
