"""Queries on images: what they may keep, what they see, and when their answer does not count."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from diptych import App, Db, Rejected, key
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.queries import ImageChanged, Queries, ViewKept
from diptych.memory import Region, Stamp, State, write_stamp
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER_BYTES, Header, Kind

app = App("images")
kept: list[Any] = []
during: list[Callable[[], None]] = []


@app.table(capacity=1_000)
class Thing:
    id: int = key()
    size: int = 0


@app.setup
def setup(db: Db) -> None:
    for number in range(100):
        db.thing.insert(id=number, size=number * 2)


@app.query
def total(db: Db) -> int:
    return db.thing.columns().size.sum()  # type: ignore[no-any-return]


@app.query
def keep(db: Db, what: str) -> int:
    columns = db.thing.columns()
    size = columns.size
    keepers: dict[str, Callable[[], Any]] = {
        "view": lambda: size,
        "slice": lambda: size[3:9],
        "cast": lambda: size.view("u1"),
        "reshaped": lambda: size.reshape(10, 10).T,
        "memoryview": lambda: memoryview(size),
        "asarray": lambda: np.asarray(memoryview(size)),
        "frombuffer": lambda: np.frombuffer(size, "u1"),
        "iterator": lambda: iter(size),
        "closure": lambda: lambda: size,
        "generator": lambda: (each for each in size),
        "copy": lambda: size.copy(),
        "sum": lambda: size.sum(),
        "item": lambda: size[5],
        "list": lambda: size.tolist(),
        "filtered": lambda: db.thing.columns(size=4).id,
        "compared": lambda: size > 4,
        "row": lambda: db.thing[1],
        "selection": lambda: columns,
    }
    kept.append(keepers[what]())
    return 1


@app.query
def cycle(db: Db) -> int:
    ring: list[Any] = [db.thing.columns().size]
    ring.append(ring)
    return len(ring)


@app.query
def fail(db: Db, how: str) -> int:
    size = db.thing.columns().size
    if how == "rejected":
        raise Rejected("no", sizes=size[:2])
    if how == "bug":
        raise ZeroDivisionError(len(size))
    db.thing.insert(id=5000)
    return 1


@app.query
def meanwhile(db: Db) -> int:
    for each in during:
        each()
    return len(db.thing)


@app.query
def where_am_i(db: Db) -> tuple[int, int]:
    return db.sequence, db.now


@app.transaction
def change(db: Db) -> None: ...


class Rig:
    """Queries on two images that are really written by hand."""

    def __init__(self) -> None:
        size_bytes = layout_bytes(app)
        self.written = [Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES) for _ in range(2)]
        for number, region in enumerate(self.written):
            Engine.create(
                app, region, grow=region.allocate, history=1, now_ns=lambda n=number: 100 + n
            )
            self.stamp(number, epoch=number + 1)
        images = [
            Region.attach(region.fd, size_bytes, scratch_bytes=SCRATCH_BYTES)
            for region in self.written
        ]
        self.queries = Queries(app, images)

    def stamp(self, image: int, epoch: int, state: State = State.COMPLETE) -> None:
        write_stamp(self.written[image], Stamp(state, epoch, 1, 1, 0))

    def run(self, name: str, *arguments: Any, image: int = 0, age_ns: int = 0) -> Any:
        number = app.operation(name).number
        return self.raw(number, msgpack.packb(arguments), image=image, age_ns=age_ns)

    def raw(self, number: int, payload: bytes, image: int = 0, age_ns: int = 0) -> Any:
        cut_ns = time.monotonic_ns() - age_ns
        return read(self.queries.run(image, image + 1, 41 + image, cut_ns, number, 6, payload))


def read(reply: bytes) -> tuple[Header, Any]:
    header = Header.read(reply)
    assert header.length == len(reply) - HEADER_BYTES
    return header, msgpack.unpackb(reply[HEADER_BYTES:])


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    kept.clear()
    during.clear()
    yield Rig()
    kept.clear()


def test_an_answer_says_what_it_saw_and_how_old_that_was(rig: Rig) -> None:
    header, value = rig.run("total", age_ns=5_000_000)
    assert value == 9_900
    assert (header.kind, header.request, header.sequence) == (Kind.RESULT, 6, 41)
    assert 5_000 <= header.context < 5_000_000
    assert rig.run("total", age_ns=-(10**12))[0].context == 0
    assert rig.run("where_am_i")[1] == [41, 100]
    assert rig.run("where_am_i", image=1)[1] == [42, 101]


@pytest.mark.parametrize(
    "what",
    [
        *("view", "slice", "cast", "reshaped", "memoryview", "asarray", "frombuffer"),
        *("iterator", "closure", "generator"),
    ],
)
def test_a_kept_view_is_noticed(rig: Rig, what: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ViewKept) as error:
        rig.run("keep", what)
    header, told = read(error.value.reply)
    assert (header.kind, header.request, header.sequence) == (Kind.ERROR, 6, 41)
    assert told["code"] == "server_error"
    assert "kept a view of the data" in told["message"]


@pytest.mark.parametrize(
    "what", ["copy", "sum", "item", "list", "filtered", "compared", "row", "selection"]
)
def test_what_is_no_view_may_be_kept(rig: Rig, what: str) -> None:
    assert rig.run("keep", what)[1] == 1
    assert rig.run("total")[1] == 9_900
    assert len(kept) == 1


def test_a_view_in_a_cycle_is_garbage_and_not_kept(rig: Rig) -> None:
    gc.disable()
    try:
        assert rig.run("cycle")[1] == 2
    finally:
        gc.enable()


def test_views_are_counted_for_each_query_by_itself(rig: Rig) -> None:
    for _ in range(3):
        assert rig.run("total")[1] == 9_900
    with pytest.raises(ViewKept):
        rig.run("keep", "view")
    assert rig.run("total")[1] == 9_900  # the view is the other query's


@pytest.mark.parametrize(
    ("how", "kind", "code"),
    [("rejected", Kind.REJECTED, "no"), ("bug", Kind.ERROR, None), ("write", Kind.ERROR, None)],
)
def test_a_query_that_fails_keeps_no_view_even_when_its_error_is_kept(
    rig: Rig, caplog: pytest.LogCaptureFixture, how: str, kind: Kind, code: str | None
) -> None:
    with caplog.at_level(logging.ERROR, "diptych.engine"):
        header, told = rig.run("fail", how)
    assert header.kind == kind
    if code:
        assert told == ["no", {"sizes": [0, 2]}]
    else:
        assert told["code"] == "server_error"
        # pytest's log handler keeps the exception with its frames.
        assert caplog.records[0].exc_info is not None
    assert rig.run("total")[1] == 9_900


def test_an_image_that_changes_meanwhile_gives_no_answer(rig: Rig) -> None:
    during.append(lambda: rig.stamp(0, epoch=0, state=State.FILLING))
    with pytest.raises(ImageChanged, match="image 0 is at"):
        rig.run("meanwhile")
    during[0] = lambda: rig.stamp(0, epoch=3)
    rig.stamp(0, epoch=1)
    with pytest.raises(ImageChanged, match="not at epoch 1"):
        rig.run("meanwhile")
    during.clear()
    with pytest.raises(ImageChanged):  # and before it begins
        rig.run("meanwhile")
    rig.stamp(0, epoch=1)
    assert rig.run("meanwhile")[1] == 100
    rig.written[0].buffer[40] ^= 255  # a torn stamp is none
    with pytest.raises(ImageChanged, match="is at None"):
        rig.run("meanwhile")
    assert rig.run("meanwhile", image=1)[1] == 100


def test_a_view_kept_of_an_image_that_changed_is_not_the_next_querys(rig: Rig) -> None:
    def keep_one() -> None:
        kept.append(rig.queries.databases[0].thing.columns().size)
        rig.stamp(0, epoch=9)

    during.append(keep_one)
    with pytest.raises(ImageChanged):
        rig.run("meanwhile")
    rig.stamp(0, epoch=1)
    assert rig.run("total")[1] == 9_900


@pytest.mark.parametrize(
    ("number", "payload", "code", "text"),
    [
        (999, b"\x90", "unknown_operation", "no query number 999"),
        (app.operation("change").number, b"\x90", "unknown_operation", "no query number"),
        (0, b"", "bad_arguments", "not msgpack"),
        (0, b"\xc1", "bad_arguments", "not msgpack"),
        (0, b"\x91\x81\x90\x01", "bad_arguments", "not msgpack"),
        (0, b"\x91\x01", "bad_arguments", "takes 0 arguments at most"),
        (1, b"\x90", "bad_arguments", "what is missing"),
    ],
)
def test_calls_that_are_wrong(rig: Rig, number: int, payload: bytes, code: str, text: str) -> None:
    header, told = rig.raw(number, payload)
    assert (header.kind, told["code"]) == (Kind.ERROR, code)
    assert text in told["message"]
