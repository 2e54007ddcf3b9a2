"""Both lanes do the same, byte for byte: thousands of random calls of four applications."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.support import crates, depot
from tests.support.lanes import Lanes

import bank
import exchange
from diptych.engine.engine import Engine
from diptych.engine.growth import Growth
from diptych_client.protocol import Kind

INTS = [0, 1, -1, 2, 7, 63, 64, 2**31, 2**32 + 1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), -(2**62)]
PARCELS = [1]  # numbers of parcels that the test has made
NAMES = [
    "",
    "A",
    "M",
    "Zoë",
    "nineteen characters",
    "twenty characters ..",
    "fail",
    "x",
    "AAAAAAAAA",
]
CODES = ["", "A", "AB", "ZZ", "north", "Ä", "M", "same"]


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that compiled code left to the interpreter, which returned something, although
    there was memory enough.
    """
    names: list[str] = []
    grown: list[int] = []
    answer, give = Engine.answer, Growth.give

    def given(growth: Growth, descriptor: int) -> None:
        grown.append(descriptor)
        give(growth, descriptor)

    def noted(engine: Engine, number: int, payload: memoryview, packed: Any) -> Any:
        before = len(grown)
        kind, told = answer(engine, number, payload, packed)
        if number in engine._batches._compiled and kind == Kind.RESULT and len(grown) == before:
            names.append(engine._operations[number][0])
        return kind, told

    monkeypatch.setattr(Growth, "give", given)
    monkeypatch.setattr(Engine, "answer", noted)
    return names


def test_bank(given_up: list[str]) -> None:
    source = random.Random(1)
    with Lanes(bank.app, setup=True) as lanes:
        for _ in range(2_000):
            account = source.randint(0, 102), source.randint(1, 100)
            lanes.call("transfer", *account, source.choice([0, 1, 50, 400, 900, 10**6, *INTS]))
        lanes.compare()
        assert lanes.call("total") == 100_000
    assert given_up == []


def test_exchange(given_up: list[str]) -> None:
    source = random.Random(2)
    orders: list[int] = [1]
    seen: dict[str, int] = {}
    with Lanes(exchange.app) as lanes:
        for symbol, tick, lot in (("AAPL", 1, 1), ("GOLD", 5, 10)):
            lanes.call("list_symbol", symbol, tick, lot)
        for account in range(1, 31):
            lanes.call("open_account", account, 10**7)
            for symbol in ("AAPL", "GOLD"):
                lanes.call("issue_shares", account, symbol, 10**4)
        for step in range(6_000):
            name, arguments = random_order(source, orders)
            result = lanes.call(name, *arguments)
            if isinstance(result, tuple) and result[0] == "rejected":
                seen[result[1]] = seen.get(result[1], 0) + 1
            elif name in ("place_order", "move_order") and result.order:
                orders.append(result.order)
            if step % 1_000 == 0:
                lanes.compare()
        lanes.compare()
        for bench in lanes.benches:
            bench.verify()
    assert given_up == []
    codes = {"unknown_symbol", "bad_price", "bad_quantity", "unknown_account", "not_filled"}
    codes |= {"insufficient_funds", "insufficient_shares", "unknown_order", "not_yours"}
    assert codes | {"beyond_reserve"} <= seen.keys()


def random_order(source: random.Random, orders: list[int]) -> tuple[str, tuple[Any, ...]]:
    kind = source.random()
    account = source.randint(1, 31)
    order = source.choice(orders[-400:]) if source.random() < 0.98 else 10**9
    if kind < 0.7:
        symbol = source.choice(["AAPL", "AAPL", "GOLD"]) if source.random() < 0.99 else "NONE"
        price = source.choice([5 * source.randint(190, 210), source.randint(950, 1050)])
        quantity = source.choice([10 * source.randint(1, 20), source.randint(1, 50), 10**4 + 10])
        quantity = 10**10 if source.random() < 0.01 else quantity
        until = source.choices([0, 1, 2], [8, 1, 1])[0]
        return "place_order", (account, symbol, source.choice([1, -1]), price, quantity, until)
    if kind < 0.8:
        return "cancel_order", (account, order)
    if kind < 0.9:
        return "reduce_order", (account, order, source.choice([1, 10]))
    reserve = source.choice([None, 990, 1010])
    return "move_order", (account, order, 5 * source.randint(190, 210), reserve)


def test_every_kind_of_call(given_up: list[str]) -> None:
    source = random.Random(3)
    calls = dict.fromkeys(ARGUMENTS, 0)
    rejected: set[str] = set()
    with Lanes(depot.app) as lanes:
        for code in CODES:
            lanes.call("add_depot", code, "name of " + code)
        for owner in range(50):
            lanes.call("add_owner", owner, owner / 4, owner % 3 == 0)
        for step in range(6_000):
            name = source.choice([*ARGUMENTS, *["add_parcel"] * 10])
            result = lanes.call(name, *ARGUMENTS[name](source))
            if isinstance(result, tuple) and result[:1] == ("rejected",):
                rejected.add(result[1])
            else:
                calls[name] += 1
            if name == "add_parcel" and isinstance(result, int):
                PARCELS.append(result)
            if step % 1_000 == 0:
                lanes.advance(1.5)
                lanes.compare()
        lanes.compare()
        for bench in lanes.benches:
            bench.verify()
    assert min(calls.values()) >= 5, calls
    assert {"not_found", "duplicate_key", "not_unique", "bad_value", "too_many"} <= rejected
    assert {"same_depot", "unknown_parcel", "refused"} <= rejected
    left = {
        "compute",
        "compute_float",
        "store_large",
        "use_deleted",
        "drop",
        "fail",
        "narrow",
        "book",
    }
    assert set(given_up) <= left | {"add_parcel", "set_state", "shelve"}


def test_every_kind_of_column(given_up: list[str]) -> None:
    source = random.Random(4)
    seen: dict[str, int] = {}
    with Lanes(crates.app, setup=True) as lanes:
        for step in range(4_000):
            name = source.choice(["several"] * 5 + list(CRATE_CALLS))
            result = lanes.call(name, *CRATE_CALLS[name](source))
            told = result[1] if isinstance(result, tuple) and result[0] == "rejected" else "done"
            seen[told] = seen.get(told, 0) + 1
            if step % 100 == 0:
                lanes.compare()
        lanes.compare()
        for bench in lanes.benches:
            bench.verify()
    wanted = {"done", "bad_value", "not_found", "not_unique", "duplicate_key", "table_full"}
    assert wanted | {"as_wanted", "endless"} == set(seen)
    assert seen["done"] > 1_500
    assert len(given_up) < 900, (seen, len(given_up))


def random_step(source: random.Random) -> crates.Step:
    """Mostly a value that its column can hold, and a key that a row may have."""
    what = source.choice([*range(5), *range(crates.ASSIGN, crates.ASSIGN + len(crates.ASSIGNED))])
    number = source.choice([None, 0, 1, source.randrange(-9, 99)])
    if source.random() < 0.1:
        number = source.choice([*INTS, 200, -2, 255, 2**16, 2**31, 2**32 - 1])
    real = source.choice([None, 0.1, -0.0, 1.5, 1e5, source.random()])
    if source.random() < 0.1:
        real = source.choice([float("nan"), float("inf"), 1e39, -1e-300, -2.0, 1e6])
    label = source.choice([None, "", "a", "eight by", "twelve bytes", "é" * 6, "Ä"])
    if source.random() < 0.05:
        label = "twenty bytes of text"
    tag = source.choice([None, b"abc", b"\0\0\0", b"\xff\0a"])
    at = crates.At(source.choice(["", "a"]), source.randrange(4))
    return crates.Step(what, at, number, real, label, tag)


def random_steps(source: random.Random) -> tuple[Any, ...]:
    """Three steps, of which mostly one does something, since any may fail."""
    nothing = crates.Step(crates.NOTHING, crates.At("", 0))
    some = [random_step(source) if source.random() < 0.3 else nothing for _ in range(2)]
    return (random_step(source), *some, source.choice([0] * 12 + [1, 2]))


CRATE_CALLS: dict[str, Any] = {
    "several": random_steps,
    "thin_out": lambda s: (s.randrange(3), s.random() < 0.5, s.choice([4, 5, 8, 9, 9, 9])),
    "count_up": lambda s: (s.choice([None, -9, 3]), s.randrange(50), s.randrange(-2, 9)),
    "add_all": lambda s: (s.choice(["all", "b"]), s.randrange(4)),
    "found": lambda s: (
        s.choice([None, 0, 1, 7, 2**40]),
        s.choice([None, 0.1, 1.5, -0.0, float("nan"), 1e39]),
        s.choice([None, "", "a", "twelve bytes"]),
    ),
    "read_numbers": lambda s: (s.choice(["", "a", "all"]), s.randrange(3)),
    "read_others": lambda s: (s.choice(["", "a", "all"]), s.randrange(3)),
    "read_big": lambda s: (s.choice(["", "a"]), s.choice([0, 1, 2, 2**40])),
}


def random_line(source: random.Random) -> depot.Line:
    weight = source.choice([None, 0.5, 1e300])
    state = source.choice([depot.State.NEW] * 9 + [depot.State.LOST])
    point = depot.Point(source.choice(INTS), 0.5)
    return depot.Line(source.choice(CODES), source.randrange(60), weight, state, point)


def label(source: random.Random) -> str:
    return source.choice(NAMES) if source.random() < 0.2 else str(source.randrange(10**6))


ARGUMENTS: dict[str, Any] = {
    "add_depot": lambda s: (s.choice([*CODES, str(s.randrange(9_000))]), s.choice(NAMES)),
    "add_owner": lambda s: (s.randrange(60), s.choice([0.5, -0.0, 1e300]), s.random() < 0.5),
    "add_parcel": lambda s: (
        s.randrange(60),
        s.choice(CODES),
        label(s),
        s.choice([1, 1, 2, -1, 5]),
        s.choice([1.25, 0.0, float("nan"), float("inf")]),
    ),
    "summarize": lambda s: (s.choice(PARCELS[-200:]),),
    "set_state": lambda s: (s.choice(PARCELS[-200:]), s.choice([1, 2, -1, 0])),
    "relabel": lambda s: (s.choice(PARCELS[-200:]), label(s)),
    "rename": lambda s: (s.choice(CODES), s.choice(NAMES)),
    "narrow": lambda s: (s.choice([*CODES, "sixsix", "eight888"]), s.randrange(100)),
    "shelve": lambda s: (s.choice(CODES), s.choice(INTS)),
    "drop": lambda s: (s.choice(PARCELS[-200:]),),
    "use_deleted": lambda s: (s.choice(PARCELS[-200:]),),
    "count_states": lambda s: (s.choice(CODES),),
    "bounds": lambda s: (s.choice(CODES), s.randrange(60), s.randrange(60), s.random() < 0.5),
    "ends": lambda s: (s.choice(CODES),),
    "clear_depot": lambda s: (s.choice(CODES),) if s.random() < 0.1 else ("none",),
    "sum_weights": lambda s: (),
    "move": lambda s: (s.choice(CODES), s.choice(CODES), s.randrange(60)),
    "fill": lambda s: (s.randrange(9), s.choice(CODES), s.randrange(60), s.randrange(50)),
    "give_back": lambda s: (s.randrange(60),),
    "maybe": lambda s: (
        s.choice([None, 5]),
        s.choice([None, *NAMES]),
        s.choice([None, (1, 2.0), (-1, 0.0)]),
    ),
    "now": lambda s: (),
    "compute": lambda s: (s.randrange(12), s.choice(INTS), s.choice(INTS)),
    "compute_float": lambda s: (s.choice(INTS), s.choice(INTS), s.choice([0.1, 1e300, -0.0])),
    "store_large": lambda s: (s.randrange(60), s.choice(INTS)),
    "compare_text": lambda s: (s.choice([*NAMES, *CODES]), s.choice(CODES)),
    "truths": lambda s: (
        s.randrange(60),
        s.choice([None, 0, 5]),
        s.choice([None, *NAMES]),
        s.choice([0.0, -0.0, 0.5]),
    ),
    "book": lambda s: (
        [random_line(s) for _ in range(s.choice([0, 1, 1, 2, 3, 5]))],
        tuple(s.choice(INTS[:8]) for _ in range(s.randrange(4))),
        s.choice([0, 0, 1, -1, 2, -3, 5]),
    ),
    "fail": lambda s: (s.randrange(5),),
    "by_hand": lambda s: (),
}
