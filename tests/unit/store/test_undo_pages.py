"""The undo log kept in pages: the same bytes come back as from the log kept in words."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some

from diptych import App, key, ordered, unique
from diptych.store import rows, undo
from diptych.store import words as at

app = App("paged")


@app.table(capacity=3000)
class Thing:
    id: int = key()
    group: int = 0
    size: int = 0
    by_group = ordered("group", "size")
    by_size = unique("size", "id")


numbers = some.integers(0, 40)
steps = some.lists(
    some.tuples(some.sampled_from(["insert", "insert", "delete", "update"]), numbers, numbers),
    max_size=60,
)


class Bare:
    """A table of an open bench, worked on with kernels alone."""

    def __init__(self, bench) -> None:
        space = bench._engine.db.space
        self.words, self.scratch = space.words, space.scratch
        (self.table,) = bench._engine.layout.tables
        self.bench = bench
        for index in self.table.indexes:
            for _ in range(6):
                bench._engine.growth.give(index.descriptor)

    def take(self, name: str, one: int, other: int) -> int:
        t = self.table.descriptor
        if name == "insert":
            for i, value in enumerate((one, other % 7, other)):
                self.scratch[at.S_ARGUMENT + i] = value
            return rows.insert(self.words, t)
        if name == "delete":
            return rows.delete(self.words, t, one)
        return rows.update(self.words, t, one, 2, other)

    def bytes(self) -> bytes:
        return self.bench.fingerprint()


@settings(max_examples=60, deadline=None)
@given(steps, steps, some.integers(0, 60))
def test_both_modes_roll_back_to_the_same_bytes(first, second, switch) -> None:
    with app.open(now=0) as bench:
        bare = Bare(bench)
        for step in first:
            bare.take(*step)
        bench._engine.db.commit()
        bare.words[at.SEQUENCE] += 1
        before = bare.bytes()
        outcomes = [bare.take(*step) for step in second]
        changed = bare.bytes()
        undo.rollback(bare.words, 0)
        assert bare.bytes() == before
        # Words up to `switch`, then pages, then words again: one log, taken back as a whole.
        again = [bare.take(*step) for step in second[:switch]]
        assert undo.begin_pages(bare.words)
        for step, outcome in zip(second[switch:], outcomes[switch:], strict=False):
            if outcome >= 0:  # what fails in page mode leaves half of its work to the end
                again.append(bare.take(*step))
        undo.end_pages(bare.words)
        assert again == [o for i, o in enumerate(outcomes) if o >= 0 or i < switch]
        assert bare.bytes() == changed
        for step in second[:3]:
            bare.take(*step)
        undo.rollback(bare.words, 0)
        assert bare.bytes() == before
        bench.verify()


def test_what_fails_in_page_mode_is_undone_with_the_rest() -> None:
    with app.open(now=0) as bench:
        bare = Bare(bench)
        for number in range(400):
            bare.take("insert", number, number)
        bench._engine.db.commit()
        before = bare.bytes()
        undo.begin_pages(bare.words)
        assert bare.take("insert", 1000, 1000) >= 0
        assert bare.take("insert", 7, 1) == at.DUPLICATE_KEY
        limit = bare.scratch[at.S_PAGES]
        bare.scratch[at.S_PAGES] = bare.words[at.SCRATCH] + at.S_UNDO  # no room for any more
        assert bare.take("delete", 200, 0) == at.UNDO_FULL
        bare.scratch[at.S_PAGES] = limit
        undo.end_pages(bare.words)
        undo.rollback(bare.words, 0)
        assert bare.bytes() == before
        bench.verify()


def test_a_page_is_saved_once_and_an_empty_one_costs_a_word() -> None:
    with app.open(now=0) as bench:
        bare = Bare(bench)
        scratch = bare.scratch
        limit = scratch[at.S_UNDO_LIMIT]
        bare.take("insert", 1, 1)
        bench._engine.db.commit()
        full, empty = bare.table.bases[0], bare.table.bases[1]
        assert bare.words[full] == 1
        assert bare.words[empty] == 1
        bare.words[empty] = 0
        assert undo.begin_pages(bare.words)
        assert undo.put(bare.words, empty + 5, 9)
        assert scratch[at.S_UNDO_TOP] == 1
        assert undo.put(bare.words, full + 5, 9)
        assert scratch[at.S_UNDO_TOP] == 1 + at.PAGE_WORDS + 1
        assert undo.save(bare.words, full + 100, 50)
        assert undo.put(bare.words, empty + 6, 9)
        assert scratch[at.S_UNDO_TOP] == 1 + at.PAGE_WORDS + 1
        undo.rollback(bare.words, 0)
        assert bare.words[full + 5] == 9  # not before the pages have ended
        undo.end_pages(bare.words)
        assert scratch[at.S_UNDO_LIMIT] == limit
        undo.rollback(bare.words, 0)
        assert not bare.words[empty : empty + at.PAGE_WORDS].any()
        assert list(bare.words[full : full + 6]) == [1, 0, 0, 0, 0, 0]


def test_without_room_for_the_bitmap_nothing_begins() -> None:
    with app.open(now=0) as bench:
        bare = Bare(bench)
        limit = bare.scratch[at.S_UNDO_LIMIT]
        bare.scratch[at.S_UNDO_LIMIT] = 3
        assert not undo.begin_pages(bare.words)
        assert bare.scratch[at.S_PAGES] == 0
        bare.scratch[at.S_UNDO_LIMIT] = limit
