"""The engine on a region of its own: frames in, replies out, all or nothing."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
import pytest
from tests.support import club

from diptych import App, Db, Rejected, key, ordered
from diptych.engine.engine import Engine, layout_bytes
from diptych.errors import CorruptionError, OutOfMemory, TableFull
from diptych.memory import PAGE_BYTES, AllocationFailed, Extent, Region
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

FAR_AWAY_NS = 1 << 62


class Rig:
    """An engine, the clock it reads, and how often it was given memory."""

    def __init__(self, app: App, capacities: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.now_ns = 1_000
        self.grown: list[Extent] = []
        self.capacities = capacities
        self.region = Region.create(layout_bytes(app, capacities), scratch_bytes=SCRATCH_BYTES)
        self.engine = Engine.create(
            app,
            self.region,
            grow=self.grow,
            history=77,
            capacities=capacities,
            now_ns=lambda: self.now_ns,
        )

    def grow(self, extent: Extent) -> None:
        self.region.allocate(extent)
        self.grown.append(extent)

    def frame(self, name: str, *arguments: Any, **header: int) -> bytes:
        return self.raw(self.app.operation(name).number, msgpack.packb(arguments), **header)

    @staticmethod
    def raw(number: int, payload: bytes, request: int = 1, context: int = 9) -> bytes:
        return encode_frame(
            Kind.TRANSACTION, payload, operation=number, request=request, context=context
        )

    def run(self, *frames: bytes, deadline_ns: int = FAR_AWAY_NS) -> list[tuple[Header, Any]]:
        data = np.frombuffer(b"".join(frames), np.uint8)
        starts = np.cumsum([0, *map(len, frames)])
        self.engine.begin(self.now_ns)
        ran = self.engine.run(data, starts, 0, len(frames), deadline_ns)
        replies = self.replies()
        assert len(replies) == ran
        return replies

    def replies(self) -> list[tuple[Header, Any]]:
        found, at, data = [], 0, bytes(self.engine.replies)
        self.engine.replies.clear()
        while at < len(data):
            header = Header.read(data, at)
            end = at + HEADER_BYTES + header.length
            found.append((header, msgpack.unpackb(data[at + HEADER_BYTES : end])))
            at = end
        return found

    def call(self, name: str, *arguments: Any) -> Any:
        ((header, value),) = self.run(self.frame(name, *arguments))
        return value if header.kind == Kind.RESULT else (Kind(header.kind).name, value)

    def memory(self) -> bytes:
        """All of the application's bytes; page 1 holds the sequence number and the time."""
        parts = [
            bytes(self.region.buffer[max(extent.start, 2) * PAGE_BYTES : extent.stop * PAGE_BYTES])
            for extent in self.engine.layout.data_extents(self.region.words)
        ]
        return b"".join(parts)

    def counts(self) -> tuple[int, int, int]:
        return self.engine.committed, self.engine.rejected, self.engine.failed


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    rig = Rig(club.app)
    yield rig
    rig.engine.verify()
    rig.region.close()


def test_a_transaction_commits(rig: Rig) -> None:
    ((header, value),) = rig.run(rig.frame("join", "a", "Ann", request=5, context=12))
    assert value == 1
    assert header == Header(1, Kind.RESULT, 0, 0, 5, 1, 12)
    assert rig.engine.db.person[1].name == "Ann"
    assert rig.call("join", "b") == 2
    assert (rig.engine.sequence, rig.engine.history, rig.counts()) == (2, 77, (2, 0, 0))


def test_a_row_is_a_result(rig: Rig) -> None:
    rig.call("join", "a")
    assert rig.call("visit", 1, "here") == [1, "a", "", 1, True, 0.5, 1]


def test_a_rejection_leaves_no_trace(rig: Rig) -> None:
    rig.call("join", "a", "Ann")
    before = rig.memory()
    assert rig.call("spend", 1, 2_000_000) == ("REJECTED", ["too_much", {"limit": 1_000_000}])
    assert rig.call("spend", 7, 1) == ("REJECTED", ["not_found", {"table": "person", "key": 7}])
    assert rig.memory() == before
    assert (rig.engine.sequence, rig.counts()) == (3, (1, 2, 0))


def test_a_bug_leaves_no_trace_in_memory_but_one_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.call("join", "a", "Ann")
    before = rig.memory()
    with caplog.at_level(logging.ERROR, "diptych.engine"):
        kind, told = rig.call("spend", 1, 13)
    assert (kind, told["code"]) == ("ERROR", "server_error")
    assert f"error {told['error_id']} in spend" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text
    assert rig.memory() == before
    assert rig.counts() == (1, 0, 1)


@pytest.mark.parametrize(
    ("kind", "code"),
    [("object", "server_error"), ("large", "server_error"), ("bytes", "result_too_large")],
)
def test_a_result_that_can_not_be_sent_undoes_the_transaction(
    rig: Rig, kind: str, code: str
) -> None:
    before = rig.memory()
    name, told = rig.call("answer_oddly", kind)
    assert (name, told["code"]) == ("ERROR", code)
    assert rig.memory() == before
    assert len(rig.engine.db.setting) == 0


def test_what_can_not_be_run_is_answered_in_its_place(rig: Rig) -> None:
    count = rig.app.operation("count").number
    replies = rig.run(
        rig.frame("join", "a", request=1),
        rig.raw(999, b"\x90", request=2),
        rig.raw(count, b"\x90", request=3),
        rig.raw(0, b"", request=4),
        rig.raw(0, b"\x93\x01", request=5),
        rig.raw(0, b"\xc1", request=6),
        rig.raw(0, msgpack.packb([["x"]]), request=7),
        rig.raw(0, b"\x91\x81\x90\x01", request=8),  # a map whose key is an array
        rig.raw(0, b"\x91" * 2000 + b"\xc0", request=9),
        rig.raw(0, msgpack.packb({}), request=10),
        rig.frame("join", "b", request=11),
    )
    assert [header.request for header, _ in replies] == list(range(1, 12))
    assert [header.sequence for header, _ in replies] == list(range(1, 12))
    kinds = [header.kind for header, _ in replies]
    assert kinds == [Kind.RESULT, *[Kind.ERROR] * 9, Kind.RESULT]
    told = [value for _, value in replies[1:-1]]
    assert [each["code"] for each in told] == ["unknown_operation"] * 2 + ["bad_arguments"] * 7
    assert "club has no operation number 999" in told[0]["message"]
    assert "count is a query, not a transaction" in told[1]["message"]
    assert "the payload is not msgpack" in told[2]["message"]
    assert told[5]["parameter"] == "code"
    assert rig.counts() == (2, 0, 9)


def test_only_some_frames_of_a_buffer_are_run(rig: Rig) -> None:
    frames = [rig.frame("join", f"c{i}", request=i) for i in range(6)]
    data = np.frombuffer(b"".join(frames), np.uint8)
    starts = np.cumsum([0, *map(len, frames)])
    assert rig.engine.run(data, starts, 2, 5, FAR_AWAY_NS) == 3
    assert [header.request for header, _ in rig.replies()] == [2, 3, 4]
    assert rig.engine.run(data, starts, 5, 5, FAR_AWAY_NS) == 0


def test_a_deadline_ends_a_batch_after_one_frame_at_least(rig: Rig) -> None:
    frames = [rig.frame("join", f"c{i}", request=i) for i in range(500)]
    assert len(rig.run(*frames, deadline_ns=time.monotonic_ns())) == 1
    assert len(rig.engine.db.person) == 1
    soon_ns = time.monotonic_ns() + 200_000
    assert len(rig.run(*frames[1:], deadline_ns=soon_ns)) < 499


# Time -------------------------------------------------------------------------------------------


def test_time_never_goes_back(rig: Rig) -> None:
    assert rig.call("clock") == [1_000, 1]
    rig.now_ns = 5_000
    assert rig.call("clock") == [5_000, 2]
    rig.now_ns = 2_000
    assert rig.call("clock") == [5_000, 3]
    assert rig.engine.transact(lambda db: db.now) == 5_000
    with rig.engine.transaction() as db:
        assert (db.now, db.sequence) == (5_000, 5)
    rig.now_ns = 6_000
    batch = rig.run(*[rig.frame("clock")] * 3)
    assert [value for _, value in batch] == [[6_000, 6], [6_000, 7], [6_000, 8]]


# Memory -----------------------------------------------------------------------------------------


def test_tables_grow_by_running_the_transaction_again(rig: Rig) -> None:
    before = rig.engine.extents()
    grown = len(rig.grown)
    assert rig.call("join_many", 0, 4_000) == 4_000  # 512 rows, then 1,024, 2,048 and 4,096
    assert len(rig.grown) > grown + 3 * 11
    assert sum(e.page_count for e in rig.engine.extents()) > sum(e.page_count for e in before)
    assert sorted(row.visits for row in rig.engine.db.person) == list(range(4_000))
    assert [row.visits for row in rig.engine.db.person.by_name.range("name 3")] == list(
        range(3, 4_000, 7)
    )
    assert (rig.engine.sequence, rig.counts()) == (1, (1, 0, 0))
    allocated = set()
    for extent in rig.grown:
        pages = set(range(*extent))
        assert not pages & allocated, "no page is allocated twice"
        allocated |= pages
    assert allocated == {page for extent in rig.engine.extents() for page in range(*extent)}


def swallow(db: Any) -> int:
    for number in range(2_000):
        with contextlib.suppress(BaseException):
            db.person.insert(code=f"{number}", name="n")
    return len(db.person)


def give_up(db: Any) -> None:
    try:
        for number in range(2_000):
            db.person.insert(code=f"g{number}", name="n")
    except BaseException:
        raise Rejected("given_up") from None


@pytest.mark.parametrize("handler", [swallow, give_up])
def test_a_handler_that_catches_everything_runs_again_too(rig: Rig, handler: Any) -> None:
    rig.engine.transact(handler)
    assert len(rig.engine.db.person) == 2_000


def test_what_ends_the_process_is_not_run_again(rig: Rig) -> None:
    runs = []

    def interrupted(db: Any) -> None:
        runs.append(len(db.person))
        swallow(db)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.engine.transact(interrupted)
    assert (runs, len(rig.engine.db.person)) == ([0], 0)
    assert rig.call("join_many", 0, 10) == 10


def test_transactions_do_not_nest(rig: Rig) -> None:
    with rig.engine.transaction() as db:
        db.person.insert(code="a", name="n")
        for inner in (
            lambda: rig.call("join", "b", "Bea"),
            lambda: rig.engine.transact(swallow),
            lambda: rig.engine.transaction().__enter__(),
        ):
            with pytest.raises(RuntimeError, match="don't nest"):
                inner()
    assert [row.code for row in rig.engine.db.person] == ["a"]


def test_a_full_table_rejects(rig: Rig) -> None:
    full = ("REJECTED", ["table_full", TableFull("person", 5_000).details])
    before = rig.memory()
    assert rig.call("join_many", 0, 5_001) == full
    assert len(rig.engine.db.person) == 0
    # What was given to the table stays with it, as zeros.
    assert len(rig.memory()) > len(before)
    assert rig.call("join_many", 0, 5_000) == 5_000
    before = rig.memory()
    assert rig.call("join", "x") == full
    assert rig.memory() == before


def test_one_row_is_enough_for_a_full_table() -> None:
    rig = Rig(club.app, {"seat": 1})
    assert rig.call("sit", 4) is None
    assert rig.call("sit", 5) == ("REJECTED", ["table_full", TableFull("seat", 1).details])
    rig.engine.verify()


@pytest.mark.parametrize("error", [OSError(28, "no space"), AllocationFailed("no memory")])
def test_a_machine_without_memory(
    rig: Rig, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    rig.call("join_many", 0, 512)
    before = rig.memory()

    def refuse(extent: Extent) -> None:
        raise error

    rig.engine.growth.grow = refuse
    kind, told = rig.call("join", "x")
    assert (kind, told["code"]) == ("ERROR", "unavailable")
    assert told["message"] == "the server had no memory for join; it is undone"
    assert rig.call("join", "x")[0] == "ERROR"
    assert len(caplog.records) == 1, "the log must not fill up, too"
    with pytest.raises(OutOfMemory), rig.engine.transaction() as db:
        db.person.insert(code="x")
    assert rig.memory() == before
    rig.engine.growth.grow = rig.grow
    assert rig.call("join", "x") == 513


def test_growth_inside_a_block_that_can_not_run_again(rig: Rig) -> None:
    with rig.engine.transaction() as db:
        for i in range(3_000):
            row = db.person.insert(code=f"{i}", name=f"{i % 10}")
            row.visits = i
            row.grade = club.Grade.HIGH
    assert rig.engine.db.space.give_memory is None
    assert len(rig.engine.db.person) == 3_000
    with pytest.raises(Rejected, match="not_found"), rig.engine.transaction() as db:
        db.person[max(db.person.insert(code=f"x{i}").id for i in range(1_500)) + 1]
    assert len(rig.engine.db.person) == 3_000


def test_assigning_to_an_indexed_column_can_make_an_index_grow(rig: Rig) -> None:
    rig.call("join_many", 0, 500)

    def spread(db: Any) -> None:
        for row in db.person:
            row.name = f"{row.visits:020}"
            row.visits = -row.visits

    before = len(rig.grown)
    rig.engine.transact(spread)
    assert len(rig.grown) >= before
    assert [row.visits for row in rig.engine.db.person.by_name.range()] == list(range(0, -500, -1))


# Setup, invariants, recovery --------------------------------------------------------------------


def bank() -> App:
    app = App("bank")

    @app.table(capacity=3_000)
    class Account:
        id: int = key()
        cash: int = 0
        by_cash = ordered("cash")

    @app.setup
    def setup(db: Db) -> None:
        for number in range(2_000):
            db.account.insert(id=number, cash=number % 3)

    @app.transaction
    def pay(db: Db, account: int, amount: int) -> int:
        db.account[account].cash += amount
        return db.account[account].cash

    @app.invariant
    def nobody_owes(db: Db) -> bool:
        return all(account.cash >= 0 for account in db.account.by_cash.range(stop=0))

    return app


def test_setup_is_the_first_transaction() -> None:
    rig = Rig(bank())
    assert (rig.engine.sequence, len(rig.engine.db.account)) == (1, 2_000)
    rig.engine.verify()
    assert rig.call("pay", 4, 10) == 11


def test_invariants() -> None:
    rig = Rig(bank())
    rig.call("pay", 4, -10)
    with pytest.raises(AssertionError, match="invariant nobody_owes does not hold"):
        rig.engine.verify()


def test_an_invariant_that_changes_data_is_undone_and_told() -> None:
    app = App("wrong")

    @app.table
    class Thing:
        id: int = key()

    @app.invariant
    def busy(db: Db) -> bool:
        db.thing.insert(id=len(db.thing))
        return True

    rig = Rig(app)
    before = rig.memory()
    with pytest.raises(AssertionError, match="invariant busy changes data"):
        rig.engine.verify()
    assert rig.memory() == before


def test_damage_is_found(rig: Rig) -> None:
    rig.call("join_many", 0, 10)
    table = rig.engine.layout.tables[0]
    word = table.bases[table.spec.by_name["visits"].first_word] + 4
    rig.region.words[word] += 1
    with pytest.raises(CorruptionError, match="table person"):
        rig.engine.verify()
    rig.region.words[word] -= 1


def test_an_engine_opens_restored_memory() -> None:
    rig = Rig(bank())
    rig.call("pay", 4, 10)
    again = Region.attach(
        rig.region.fd, rig.region.size_bytes, scratch_bytes=SCRATCH_BYTES, writable=True
    )
    other = Engine.recover(rig.app, again, grow=again.allocate, history=78, now_ns=lambda: 5)
    assert (other.sequence, other.history, other.db.account[4].cash) == (2, 78, 11)
    assert other.transact(lambda db: (db.now, db.sequence)) == (1_000, 3)
    other.verify()
    with pytest.raises(CorruptionError, match="another schema"):
        Engine.recover(rig.app, again, grow=again.allocate, history=79, capacities={"account": 5})


def test_handlers_can_be_replaced_by_name() -> None:
    app = bank()
    region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
    rig = Rig(app)
    rig.engine = Engine.create(
        app,
        region,
        grow=region.allocate,
        history=1,
        handlers={"pay": lambda db, account, amount: -1},
        setup=False,
    )
    assert rig.call("pay", 1, 2) == -1
    assert len(rig.engine.db.account) == 0


def test_nothing_of_a_failed_transaction_is_kept(rig: Rig) -> None:
    """Exceptions hold frames, and frames hold what handlers made: none may pile up."""
    rig.call("join", "a")
    gc.collect()
    for _ in range(3):
        rig.call("spend", 1, 2_000_000)
    before = len(gc.get_objects())
    for _ in range(50):
        rig.call("spend", 1, 2_000_000)
    assert len(gc.get_objects()) - before < 50


def test_a_rejection_caught_by_a_handler_leaves_each_operation_whole(rig: Rig) -> None:
    def careless(db: Any) -> None:
        db.person.insert(code="a")
        for wrong in ({"code": "a"}, {"code": "b", "id": 1}, {"code": "x" * 9}):
            with pytest.raises(Rejected):
                db.person.insert(**wrong)

    rig.engine.transact(careless)
    assert [row.code for row in rig.engine.db.person] == ["a"]
