"""A transaction that has used up its time ends, whatever its handler does, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from diptych import App, Db, Rejected, key, ordered, ref
from diptych.control_page import ControlPage
from diptych.store import words as at
from diptych.store.faults import OverBudgetNow
from diptych.testing import Bench
from diptych_client.errors import OverBudget

FAR_TOO_OFTEN = 20_000_000
LANES = ("interpreted", "compiled")
DOOM_LATER = """
import os, sys, time
fd, sequence = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.read(1)
time.sleep(0.05)
os.pwrite(fd, sequence.to_bytes(8, "little"), 16)
"""

app = App("slow", compiled=True)
at_step: list[Callable[[], None]] = []
"""What `step` does; set by a test."""


def step() -> None:
    for action in at_step:
        action()


@app.table(capacity=1_000)
class Thing:
    id: int = key(auto=True)
    size: int = 0
    other: int | None
    by_size = ordered("size")


@app.table(capacity=10)
class Part:
    id: int = key()
    thing: int = ref(Thing)


@app.transaction
def make(db: Db, count: int) -> int:
    for number in range(count):
        db.thing.insert(size=number)
    return len(db.thing)


@app.transaction
def grow_for_ever(db: Db, id: int) -> int:
    row = db.thing[id]
    for _ in range(FAR_TOO_OFTEN):
        row.size += 1
    return row.size


@app.transaction
def act(db: Db, what: int) -> int:
    """One operation, and one that tells that the handler went on."""
    if what == 0:
        return db.thing.insert().id
    if what == 1:
        return db.thing[1].id
    if what == 2:
        return 1 if 1 in db.thing else 0
    if what == 3:
        return 0 if db.thing.get(1) is None else 1
    if what == 4:
        return 0 if db.thing.by_size.first() is None else 1
    if what == 5:
        for row in db.thing:
            return row.id
    if what == 6:
        for row in db.thing.by_size.range():
            return row.id
    if what == 7:
        db.part.insert(id=1, thing=1)
    if what == 8:
        return db.thing.get_or_insert(id=1).id
    if what == 9:
        return 2**62 * 4 // 2**62  # compiled code gives this up
    return 5


@app.transaction(compiled=False)
def stubborn(db: Db, how: int) -> int:
    """Catches what should have ended it, and goes on."""
    db.thing.insert(size=1)
    step()
    with suppress(BaseException):
        db.thing.insert(size=2)
    if how == 1:
        raise Rejected("no")
    if how == 2:
        raise KeyError("no")
    if how == 3:
        with pytest.raises(OverBudgetNow):
            db.thing[1].size = 5
        with pytest.raises(OverBudgetNow):
            db.thing.columns().write(size=5)
        with pytest.raises(OverBudgetNow):
            db.thing.delete(db.thing.insert(size=2))
    return 5


@app.transaction(compiled=False)
def needy(db: Db) -> int:
    """Asks for memory, which means to run again, and takes a step whatever comes of it."""
    try:
        return make(db, 500)
    finally:
        step()


@pytest.fixture
def bench() -> Iterator[Bench]:
    at_step.clear()
    with app.open(now=0) as made:
        made.make(3)
        yield made
        made.verify()


def doom_next(bench: Bench) -> None:
    engine = bench._engine
    engine.db.space.control[at.DOOMED] = engine.sequence + 1


def doom_in_a_step(bench: Bench) -> Callable[[], None]:
    """Dooms the next transaction as soon as it takes a step."""
    doomed = bench._engine.sequence + 1
    return lambda: bench._engine.db.space.control.__setitem__(at.DOOMED, doomed)


@pytest.mark.parametrize("lane", LANES)
def test_the_page_that_another_process_writes_ends_a_handler(lane: str) -> None:
    with app.open(now=0, lane=lane) as bench:
        control = ControlPage.create()
        bench._engine.db.space.share_control(control.fd)
        assert bench.make(3) == 3
        before = bench.fingerprint()
        sequence = str(bench._engine.sequence + 1)
        command = [sys.executable, "-c", DOOM_LATER, str(control.fd), sequence]
        with subprocess.Popen(command, pass_fds=[control.fd], stdin=subprocess.PIPE) as child:
            assert child.stdin is not None
            child.stdin.write(b"x")
            child.stdin.flush()
            with pytest.raises(OverBudget, match="grow_for_ever took longer"):
                bench.grow_for_ever(1)
        assert bench.fingerprint() == before
        assert bench.make(1) == 4  # the next one is not concerned
        control.close()


@pytest.mark.parametrize("lane", LANES)
def test_no_operation_is_left_to_a_doomed_transaction(lane: str) -> None:
    with app.open(now=0, lane=lane) as bench:
        bench.make(3)
        before = bench.fingerprint()
        for what in range(11):
            doom_next(bench)
            with pytest.raises(OverBudget):
                bench.act(what)
            assert bench.fingerprint() == before, what
        assert [bench.act(what) for what in range(11)] == [4, 1, 1, 1, 1, 1, 1, 5, 1, 4, 5]
        bench.verify()


@pytest.mark.parametrize("how", range(4))
def test_a_handler_that_catches_its_end_does_not_commit(bench: Bench, how: int) -> None:
    before = bench.fingerprint()
    at_step.append(doom_in_a_step(bench))
    with pytest.raises(OverBudget):
        bench.stubborn(how)
    assert bench.fingerprint() == before
    assert bench.stubborn(0) == 5  # that step dooms one that has ended
    assert bench._engine.failed == 1


def test_a_doomed_transaction_does_not_run_again_for_memory(bench: Bench) -> None:
    before = bench.fingerprint()
    engine, runs = bench._engine, []
    at_step.extend([lambda: runs.append(1), doom_in_a_step(bench)])
    with pytest.raises(OverBudget):
        bench.needy()
    assert runs == [1]
    assert engine._space.memory_needed is None
    assert bench.fingerprint() == before
    assert bench.needy() == 503
    assert len(runs) > 2  # once for each time that it was given memory


def test_what_compiled_code_gives_up_is_not_run_again(bench: Bench) -> None:
    def never(db: Db, what: int) -> None:
        raise AssertionError("it was run")

    operations = bench._engine._operations
    number = next(each.number for each in app.operations if each.name == "act")
    name, _, bind = operations[number]
    operations[number] = name, never, bind
    doom_next(bench)
    with pytest.raises(OverBudget, match="act"):
        bench.act(9)


def test_outside_of_frames_the_error_is_the_same(bench: Bench) -> None:
    doom_next(bench)
    with pytest.raises(OverBudget, match="make"):
        bench._engine.transact(make, 5)


def test_the_error_that_is_logged_tells_where_the_handler_was(bench: Bench) -> None:
    engine = bench._engine
    engine.db.space.control[at.DOOMED] = engine.sequence
    with pytest.raises(OverBudgetNow) as ended:
        engine._execute(make, (5,), lambda value: value)
    assert ended.value.__cause__ is not None
    assert "make" in {f.name for f in traceback.extract_tb(ended.value.__cause__.__traceback__)}
