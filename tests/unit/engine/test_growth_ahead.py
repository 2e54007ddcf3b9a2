"""Memory that is got ready before it is needed: when, in what pieces, and what it leaves alone."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from tests.support import club
from tests.unit.engine.test_engine import Rig

from diptych.engine import growth_ahead
from diptych.engine.growth_ahead import PIECE_PAGES, WARM_PAGES, GrowthAhead
from diptych.memory import AllocationFailed, Extent
from diptych.store import words as at
from diptych.store.answers import FIRST_POSITION
from diptych.store.fill import range_words
from diptych.store.layout import range_extents, range_growth, table_growth

CAPACITIES = {"person": 200_000}


class Ahead:
    """What gets memory ready for a rig's engine, by a clock of its own."""

    def __init__(self, rig: Rig) -> None:
        self.now_ns = 0
        self.warmed: list[Extent] = []
        self.error: Exception | None = None
        self.ahead = GrowthAhead(rig.engine.growth, self.warm, now_ns=lambda: self.now_ns)

    def warm(self, extent: Extent) -> None:
        if self.error is not None:
            raise self.error
        self.warmed.append(extent)

    def work(self, times: int = 200, step_ns: int = growth_ahead.STEP_NS) -> None:
        """Let it work; its thread is done with each job before the next step."""
        for _ in range(times):
            self.now_ns += step_ns
            self.ahead.step()
            helper = self.ahead._helper
            if helper is not None and helper.busy:
                select.select([helper.fd], [], [], 10)


@pytest.fixture
def rig() -> Rig:
    return Rig(club.app, CAPACITIES)


@pytest.fixture
def ahead(rig: Rig) -> Iterator[Ahead]:
    ahead = Ahead(rig)
    yield ahead
    ahead.ahead.close()


def fill(rig: Rig, rows: int) -> None:
    have = len(rig.engine.db.person)
    while have < rows:  # in pieces that the undo log has room for
        count = min(rows - have, 5_000)
        have = rig.call("join_many", have, count)
        assert isinstance(have, int)


def pages(extents: list[Extent]) -> set[int]:
    return {page for extent in extents for page in range(extent.start, extent.stop)}


def test_a_table_finds_its_memory_ready(rig: Rig, ahead: Ahead) -> None:
    fill(rig, 20_000)
    table = rig.engine.layout.tables[0]
    assert table.spec.name == "person"
    ahead.work()
    assert ahead.warmed, "more than half of what it was given is in use"
    ready = pages(rig.grown)
    del rig.grown[:]
    allocated = table.descriptor + at.T_ALLOCATED
    before = int(rig.region.words[allocated])
    fill(rig, before + 1)
    assert rig.region.words[allocated] == table_growth(table, before)
    grown = pages(rig.grown)
    assert not grown & ready, "what was ready is not given twice"
    own = {
        page
        for each in table.ranges
        for page in range(each.start // 512, each.start // 512 + each.pages(table.capacity))
    }
    assert not grown & own, "nothing was left to do for the table"
    rig.engine.verify()


def test_in_small_pieces_and_paced(rig: Rig, ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(rig, 110_000)
    del rig.grown[:]
    grow = rig.engine.growth.grow

    def slow(extent: Extent) -> None:
        ahead.now_ns += 1_000_000
        grow(extent)

    monkeypatch.setattr(rig.engine.growth, "grow", slow)
    ahead.work(2)
    assert len(rig.grown) == 1
    ahead.work(4)
    assert len(rig.grown) == 1, "it rests as many times as long as that took"
    ahead.work(1)
    assert len(rig.grown) == 2
    assert max(extent.page_count for extent in rig.grown) <= PIECE_PAGES
    assert max(extent.page_count for extent in ahead.warmed) <= WARM_PAGES


def test_nothing_is_got_ready_for_what_has_room(rig: Rig, ahead: Ahead) -> None:
    fill(rig, 513)  # of 1,024
    ahead.work()
    fill(rig, 520)
    del ahead.warmed[:], rig.grown[:]
    ahead.work()
    assert not ahead.warmed
    assert not rig.grown


def test_the_data_is_the_same_with_it_and_without(rig: Rig, ahead: Ahead) -> None:
    plain = Rig(club.app, CAPACITIES)
    for rows in range(1_000, 30_000, 700):
        fill(rig, rows)
        fill(plain, rows)
        ahead.work(rows % 40)  # sometimes it is done in time, sometimes not
        assert rig.engine.extents() == plain.engine.extents()
    assert bytes(rig.memory()) == bytes(plain.memory())
    assert pages(plain.grown) <= pages(rig.grown)
    rig.engine.verify()


@pytest.mark.parametrize("error", [OSError(28, "no space"), AllocationFailed("no memory")])
def test_without_memory_to_spare_nothing_is_said_and_it_tries_later(
    rig: Rig, ahead: Ahead, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    fill(rig, 20_000)
    del rig.grown[:]
    ahead.error = error
    ahead.work(3)
    assert not rig.grown
    assert not caplog.records
    ahead.error = None
    ahead.work(50)
    assert not ahead.warmed, "not at once again"
    ahead.work(300, growth_ahead.AGAIN_NS)
    assert ahead.warmed
    assert rig.grown
    fill(rig, 21_000)
    rig.engine.verify()


def test_a_full_table_wants_nothing() -> None:
    rig = Rig(club.app, {"seat": 1})
    ahead = Ahead(rig)
    assert rig.call("sit", 4) is None
    ahead.work(20)
    ahead.ahead.close()
    seat = next(table for table in rig.engine.layout.tables if table.spec.name == "seat")
    rows = pages([Extent(each.start // 512, each.start // 512 + 1) for each in seat.ranges])
    assert not pages(ahead.warmed) & rows


def test_an_import_and_answers_find_their_memory_ready(rig: Rig, ahead: Ahead) -> None:
    layout, words = rig.engine.layout, rig.region.words
    person = next(table for table in layout.tables if table.spec.name == "person")
    each = layout.staging[0]
    growth = rig.engine.growth
    ahead.work(20)
    assert not ahead.warmed, "what has no memory at all may never be used"
    growth.give(each.header)
    first = int(words[each.allocated_word])
    words[at.STAGING_TABLE] = person.descriptor
    words[at.STAGING_ROWS] = first * 3 // 4 // person.spec.words
    ahead.work(20)
    assert not pages(ahead.warmed) & pages(range_extents(each, first, 2 * first)), "none runs"
    words[at.STAGING_TOKEN] = 9
    ahead.work(400)
    assert pages(range_extents(each, first, 2 * first)) <= pages(ahead.warmed)
    words[at.STAGING_TOKEN] = 0

    answers = next(each for each in layout.requests if each.header == at.ANSWERS)
    if not words[answers.allocated_word]:
        growth.give(at.ANSWERS)
    first = int(words[answers.allocated_word])
    del ahead.warmed[:]
    words[at.ANSWERS_HEAD] = FIRST_POSITION + first * 6
    ahead.work(400)
    more = range_growth(answers, first)
    assert pages(range_extents(answers, first, more)) <= pages(ahead.warmed)
    words[at.ANSWERS_HEAD] = FIRST_POSITION


def test_every_range_tells_what_is_in_use(rig: Rig) -> None:
    layout, words = rig.engine.layout, rig.region.words
    used = {each.header: range_words(words, layout, each) for each in layout.system_ranges}
    assert set(used) == {at.STAGING, at.STAGING_BLOB, at.SESSIONS, at.ANSWERS, at.KEYS}
    assert all(0 <= used[each.header] <= each.words for each in layout.system_ranges)
