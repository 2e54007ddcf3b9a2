"""The bench that applications are tested on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from tests.support.club import Grade, app, count

from diptych import App, Db, Rejected, key
from diptych.errors import CorruptionError
from diptych_client.errors import BadArguments, ServerError, UnknownOperation

bank = App("bank")
kept: list[Any] = []


@bank.table(capacity=1_000)
class Account:
    id: int = key()
    cash: int = 0


@bank.setup
def setup(db: Db) -> None:
    for number in range(3):
        db.account.insert(id=number, cash=10)


@bank.transaction
def pay(db: Db, account: int, amount: int = 1) -> int:
    db.account[account].cash += amount
    return db.account[account].cash  # type: ignore[no-any-return]


@bank.transaction
def verify(db: Db) -> str:
    return "an operation with the name of a method"


@bank.query
def total(db: Db) -> int:
    return int(db.account.columns().cash.sum())


@bank.query
def keep(db: Db) -> int:
    kept.append(db.account.columns().cash)
    return 1


@bank.invariant
def nobody_owes(db: Db) -> bool:
    return bool((db.account.columns().cash >= 0).all())


def test_operations_are_called_as_a_client_calls_them() -> None:
    with app.open(now=0, check=True) as club:
        assert club.join("a", name="Ann") == 1
        assert club.join("b", grade=Grade.HIGH) == 2
        assert club.call("count") == club.call(count) == 2
        assert club.call("join", name="Bob", code="c") == 3
        (other, ann, _) = club.people()
        assert (ann.name, ann.grade.name, other.grade.value) == ("Ann", "LOW", -5)
        with pytest.raises(Rejected) as error:
            club.spend(9, 1)
        assert error.value == Rejected("not_found", table="person", key=9)
        with pytest.raises(BadArguments, match="code"):
            club.join(5)
        with pytest.raises(BadArguments, match="nmae"):
            club.join("c", nmae="x")
        with pytest.raises(ServerError) as bug:
            club.spend(1, 13)
        assert bug.value.error_id
        with pytest.raises(UnknownOperation, match="did you mean 'join'"):
            club.jion("a")
        assert not hasattr(club, "_nothing")


def test_setup_runs_when_asked() -> None:
    with bank.open(setup=True) as bench:
        assert (bench.total(), len(bench.db.account)) == (30, 3)
    with bank.open() as bench:
        assert bench.total() == 0
        with bench.transaction() as db:
            db.account.insert(id=1)
        assert bench.pay(1) == 1
        assert bench.call("verify") == "an operation with the name of a method"


def test_what_is_undone_leaves_the_fingerprint() -> None:
    with bank.open(setup=True, now=0) as bench:
        before = bench.fingerprint()
        with pytest.raises(Rejected):
            bench.pay(7)
        with pytest.raises(Rejected), bench.transaction() as db:
            db.account[db.account.insert(id=7).id + 1]
        assert bench.fingerprint() == before
        bench.pay(1, 5)
        assert bench.fingerprint() != before
        bench.pay(1, -5)
        assert bench.fingerprint() == before


def test_histories_with_one_seed_agree_and_with_another_do_not() -> None:
    def history(seed: int) -> bytes:
        with bank.open(setup=True, now=0, seed=seed) as bench:
            bench.pay(1)
            return bench.fingerprint()

    assert history(1) == history(1) != history(2)


def test_time() -> None:
    with app.open(now=5) as club:
        assert club.clock() == (5, 1)
        club.advance(seconds=1.5)
        assert club.clock() == (1_500_000_005, 2)
        assert (club.db.now, club.db.sequence) == (1_500_000_005, 2)
        with pytest.raises(KeyError), club.transaction() as db:
            raise KeyError(db.sequence)
        assert club.db.sequence == 3
    with app.open() as club:
        assert abs(club.clock()[0] - time.time_ns()) < 10**10
        with pytest.raises(ValueError, match="open the app with now="):
            club.advance(seconds=1)


def test_checks_run_after_each_transaction() -> None:
    with bank.open(setup=True, check=True) as bench:
        with pytest.raises(AssertionError, match="invariant nobody_owes does not hold"):
            bench.pay(1, -11)
        assert bench.pay(1, 1) == 0
    with bank.open(setup=True) as bench:
        assert bench.pay(1, -11) == -1
        with pytest.raises(AssertionError, match="nobody_owes"):
            bench.verify()


def test_damage_fails_a_check() -> None:
    with app.open(check=True) as club:
        club.join("a")
        table = club.db.tables["person"].layout
        club._region.words[table.live] = 0
        with pytest.raises(CorruptionError):
            club.join("b")


def test_a_look_inside_is_read_only_and_may_keep_views() -> None:
    with bank.open(setup=True) as bench:
        cash = bench.db.account.columns().cash
        with pytest.raises(TypeError, match="a query can't change data"):
            bench.db.account.insert(id=9)
        bench.pay(0)
        assert bench.total() == 31
        assert cash.tolist() == [11, 10, 10]
        assert np.shares_memory(cash, bench.db.account.columns().cash)


def test_a_query_that_keeps_a_view_is_told_as_a_client_is_told() -> None:
    with bank.open(setup=True) as bench:
        with pytest.raises(ServerError, match="kept a view"):
            bench.keep()
        kept.clear()
        assert bench.total() == 30


def test_a_lane_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="a lane is one of"):
        bank.open(lane="compield")


def test_a_bench_that_is_closed() -> None:
    with bank.open() as bench:
        pass
    with pytest.raises(RuntimeError, match="inside `with app"):
        bench.total()
    with pytest.raises(RuntimeError, match="inside `with app"):
        bank.open().total()


def test_extents_begin_after_the_stamp() -> None:
    with bank.open() as bench:
        assert bench.extents()[0].start == 1
