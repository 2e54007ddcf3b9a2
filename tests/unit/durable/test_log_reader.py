"""What a reader of a log makes of it, whole or spoiled: never an exception, and never the wrong one
of "nobody was told of it" and "it was safe once"."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.disk import DIRECTORY, SimulatedFiles
from tests.unit.durable.logs import FACTS, HISTORY, Appended, Settings, begin, read

from diptych.durable import Files, Kind, State, log_format, read_tail, repair, segments
from diptych.durable.log_reader import Place, Record

FIRST = "log-00000000000000000001.diptych"
HEADER_BYTES = 4096
LARGE = bytes(range(256)) * 12
"""Two of them don't fit into a segment."""


def written(files: SimulatedFiles) -> Appended:
    """Five records: safe, safe, safe, then two that nobody was told of."""
    log = Appended(begin(files))
    log.batch(3, b"first")
    log.aborts((2, 1))
    log.batch(1, b"", 5)
    log.log.wait(3)
    log.batch(2, b"fourth, of some length")
    log.batch(1, b"fifth")
    return log


def records(files: SimulatedFiles) -> list[Record]:
    return list(read_tail(DIRECTORY, 0, HISTORY, files=files))


def test_what_was_written_is_read() -> None:
    files = SimulatedFiles()
    log = written(files)
    found, tail = read(files)
    assert found == log.records
    assert tail.ending is not None
    assert tail.ending.state is State.CLEAN
    assert tail.ending.where == f"{FIRST} at byte {tail.ending.at}"
    assert (tail.last, tail.history, tail.facts, tail.has_log) == (7, HISTORY, FACTS, True)
    assert tail.total_bytes == 8192
    third = records(files)[2]
    assert (third.number, third.first, third.last, third.durable_through) == (3, 4, 4, 0)
    assert (third.history, third.segment.path.name) == (HISTORY, FIRST)
    assert [record.durable_through for record in records(files)] == [0, 0, 0, 4, 4]
    assert records(files)[1].aborts == [(2, 1)]
    assert third.aborts == []


@pytest.mark.parametrize(("after", "kept"), [(3, 2), (4, 3), (6, 4), (7, 5)])
def test_damage_to_what_is_not_needed_is_passed_over(after: int, kept: int) -> None:
    """The first record, of three transactions, is damaged, and the checkpoint has them."""
    files = SimulatedFiles()
    log = written(files)
    files.content(FIRST)[HEADER_BYTES + 65] ^= 1
    found, tail = read(files, after)
    assert tail.ending is not None
    assert tail.ending.state is State.CLEAN
    assert found == log.records[kept:]
    assert tail.last == 7
    _, tail = read(files, 2)
    assert tail.ending is not None
    assert tail.ending.state is State.DAMAGED, "transaction 3 is in it"


def test_a_file_that_is_let_go_of_meanwhile_is_not_damaged(tmp_path: Path) -> None:
    class Listing(Files):
        def names(self, path: Path) -> list[str]:
            return [*super().names(path), FIRST]

    assert segments(tmp_path, Listing()) == []


@pytest.mark.parametrize(("after", "kept"), [(2, 0), (3, 2), (4, 3), (6, 4), (7, 5), (100, 5)])
def test_only_what_is_beyond(after: int, kept: int) -> None:
    """A batch that the checkpoint has a part of is given; aborts of what it has are not."""
    files = SimulatedFiles()
    log = written(files)
    found, tail = read(files, after)
    assert found == [r for r in log.records[kept:] if r != (Kind.ABORTS, (2, 1))]
    assert tail.last == 7


def test_payloads_stay_as_they_were() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files, settings=Settings(segment_bytes=1 << 23)))
    for number in range(40):
        log.batch(1, bytes([number]) * 200_000)
    kept = [(record.first, record.payload) for record in records(files)]
    assert all(bytes(payload) == bytes([n - 1]) * 200_000 for n, payload in kept)
    assert len(kept) == 40


def expected(files: SimulatedFiles, at: int, offsets: list[int], durable: list[int]) -> State:
    """What a flipped bit in byte `at` must be taken for, said another way than the reader does.

    `durable`: of each record, up to which (from 0) those before it were known to be safe.
    """
    if at < HEADER_BYTES:
        return State.DAMAGED
    index = sum(offset <= at for offset in offsets) - 1
    if index == len(offsets) - 1:
        return State.TORN  # in the free space
    told = any(known > index for known in durable[index + 1 :])
    return State.DAMAGED if told else State.TORN


def test_every_flipped_bit() -> None:
    files = SimulatedFiles()
    log = written(files)
    log.log.wait(4 + 1)
    log.log.idle()
    good = bytes(files.content(FIRST))
    all_records = records(files)
    assert [record.kind for record in all_records][-1] is Kind.MARK
    ends = read(files)[1].ending
    assert ends is not None
    offsets = [*(record.offset for record in all_records), ends.at]
    durable = [0, 0, 0, 3, 3, 5]
    states = set()
    positions = [*range(200), *range(200, HEADER_BYTES, 97), *range(HEADER_BYTES, ends.at)]
    for at in [*positions, *range(ends.at, len(good), 101), len(good) - 1]:
        for bit in range(8):
            files.content(FIRST)[:] = good
            files.content(FIRST)[at] ^= 1 << bit
            found, tail = read(files)
            assert tail.ending is not None
            assert tail.ending.state is expected(files, at, offsets, durable), (at, bit)
            whole = sum(offset <= at for offset in offsets) - 1
            assert found == log.records[: max(0, whole)]
            assert FIRST in tail.ending.where
            states.add(tail.ending.state)
    assert states == {State.DAMAGED, State.TORN}


def test_noise_of_every_kind_gives_an_ending() -> None:
    files = SimulatedFiles()
    log = written(files)
    log.log.close()
    good = bytes(files.content(FIRST))
    chance = random.Random(5)
    for _ in range(300):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at, length = chance.randrange(len(raw)), chance.choice((1, 8, 300, 5000))
            noise = chance.choice((chance.randbytes(length), bytes(length), b"DREC" * length))
            raw[at : at + length] = noise
        files.content(FIRST)[:] = raw[: chance.choice((len(raw), chance.randrange(len(raw))))]
        found, tail = read(files)
        assert found == log.records[: len(found)]
        assert tail.ending is not None


def state(
    files: SimulatedFiles, after: int = 0, history: int | None = HISTORY
) -> tuple[State, str]:
    ending = read(files, after, history=history)[1].ending
    assert ending is not None
    return ending.state, ending.where


def test_a_directory_without_a_log(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        tail = read_tail(path, 5, HISTORY)
        assert tail.finish().state is State.MISSING
        assert f"there is no log in {path}" in tail.finish().where
        assert (tail.has_log, tail.last, tail.place) == (False, 5, None)


@pytest.mark.parametrize("content", [b"", b"DIPTYLOG", bytes(8192), b"\xff" * 5000])
def test_a_segment_without_a_header(content: bytes) -> None:
    files = SimulatedFiles()
    written(files)
    files.content(FIRST)[:] = content
    assert state(files)[0] is State.DAMAGED
    assert state(files)[1].startswith(f"{FIRST}: ")


def test_a_segment_that_lost_its_end() -> None:
    files = SimulatedFiles()
    log = written(files)
    del files.content(FIRST)[8000:]
    found, tail = read(files)
    assert found == log.records
    assert tail.ending is not None
    assert tail.ending.state is State.DAMAGED
    assert "the file has 8000 bytes, and should have 8192" in tail.ending.where


def test_a_segment_under_another_ones_name() -> None:
    files = SimulatedFiles()
    written(files)
    files.names_now["log-00000000000000000005.diptych"] = files.names_now.pop(FIRST)
    assert state(files, 5) == (
        State.DAMAGED,
        "log-00000000000000000005.diptych: its header says that transaction 1 is its first",
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / FIRST).mkdir()
    ending = read_tail(tmp_path, 0, HISTORY).finish()
    assert ending.state is State.DAMAGED
    assert "it can't be read" in ending.where


def several(files: SimulatedFiles) -> tuple[Appended, list[str]]:
    """A log of four segments, all of it safe, and their names."""
    log = Appended(begin(files))
    for _ in range(4):
        log.batch(10, LARGE)
        log.log.wait(log.log.written)
    return log, [segment.path.name for segment in segments(DIRECTORY, files)]


def test_several_segments() -> None:
    files = SimulatedFiles()
    log, names = several(files)
    assert [int(name[4:24]) for name in names] == [1, 11, 21, 31]
    for after in range(0, 40, 5):
        found, tail = read(files, after)
        assert found == log.records[after // 10 :]
        assert tail.last == 40
        assert tail.total_bytes == 8192 * (4 - after // 10)
        assert [s.path.name for s in tail.read] == names[after // 10 :]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_segment_is_missing(missing: int) -> None:
    files = SimulatedFiles()
    log, names = several(files)
    del files.names_now[names[missing]]
    found, tail = read(files)
    assert found == log.records[:missing]
    assert tail.ending is not None
    assert tail.ending.state is State.MISSING
    assert f"{names[missing + 1]} says that what followed was safe" in tail.ending.where
    with pytest.raises(Exception, match="can't go on behind transaction"):
        begin(files)


def test_the_beginning_is_missing() -> None:
    files = SimulatedFiles()
    _, names = several(files)
    del files.names_now[names[0]]
    assert state(files) == (
        State.MISSING,
        f"the log begins with transaction 11 ({names[1]}), and 1 is needed",
    )
    assert state(files, 10)[0] is State.CLEAN


def test_a_bad_record_before_a_later_segment() -> None:
    files = SimulatedFiles()
    log, names = several(files)
    files.content(names[1])[HEADER_BYTES + 70] ^= 1
    found, tail = read(files)
    assert found == log.records[:1]
    assert tail.ending is not None
    assert tail.ending.state is State.DAMAGED
    assert f"{names[1]} at byte 4096: the record there is not whole" in tail.ending.where


def test_noise_behind_the_last_record_of_a_full_segment_hurts_nobody() -> None:
    files = SimulatedFiles()
    log, names = several(files)
    files.content(names[1])[-20:] = b"\xff" * 20
    found = read(files)[0]
    assert found == log.records
    assert state(files)[0] is State.CLEAN


def test_a_damaged_header_of_a_later_segment() -> None:
    files = SimulatedFiles()
    log, names = several(files)
    files.content(names[3])[30] ^= 1
    found = read(files)[0]
    assert found == log.records[:3]
    assert state(files) == (State.DAMAGED, f"{names[3]}: its header's checksum differs")


def test_a_segment_that_begins_too_early() -> None:
    files = SimulatedFiles()
    _, names = several(files)
    del files.names_now[names[2]], files.names_now[names[3]]
    raw = files.content(names[1])
    header = log_format.unpack_segment(bytes(raw[:HEADER_BYTES]))
    raw[:HEADER_BYTES] = replace(header, first=5).pack()
    files.names_now["log-00000000000000000005.diptych"] = files.names_now.pop(names[1])
    assert state(files) == (
        State.DAMAGED,
        f"log-00000000000000000005.diptych begins before the end of {names[0]}",
    )


def test_nobody_was_told_of_a_record_and_the_segment_behind_it() -> None:
    """The last sync of a full segment and the first of the next one both never ended."""
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(2, b"safe")
    log.log.wait(1)
    log.batch(10, LARGE)
    log.batch(10, LARGE)
    names = [segment.path.name for segment in segments(DIRECTORY, files)]
    assert len(names) == 2
    raw = files.content(names[0])
    raw[HEADER_BYTES + 72 :] = bytes(len(raw) - HEADER_BYTES - 72)
    found, tail = read(files)
    assert found == log.records[:1]
    assert tail.ending is not None
    assert tail.ending.state is State.TORN
    assert [segment.path.name for segment in tail.cut] == names[1:]
    repair(tail, files)
    assert tail.ending.state is State.CLEAN
    assert names[1] not in files.names_now
    assert state(files)[0] is State.CLEAN


def spoil_last(files: SimulatedFiles) -> Place:
    """Tear the last record of all: where it was."""
    *_, last = records(files)
    files.content(FIRST)[last.offset + 66] ^= 1
    _, tail = read(files)
    assert tail.ending is not None
    assert tail.ending.state is State.TORN
    assert tail.place is not None
    return tail.place


def test_a_torn_tail_is_cut_off_for_good() -> None:
    files = SimulatedFiles()
    log = written(files)
    place = spoil_last(files)
    tail = read_tail(DIRECTORY, 0, HISTORY, files=files)
    tail.finish()
    repair(tail, files)
    raw = files.content(FIRST)
    assert not any(raw[place.offset :])
    assert bytes(files.after_power_loss(random.Random(1), 0).content(FIRST)) == bytes(raw)
    assert read(files)[0] == log.records[:4]
    assert state(files)[0] is State.CLEAN


def test_a_whole_tail_is_left_alone() -> None:
    files = SimulatedFiles()
    written(files)
    tail = read_tail(DIRECTORY, 0, HISTORY, files=files)
    tail.finish()
    before = files.calls
    repair(tail, files)
    assert files.calls == before


def test_a_record_of_a_life_before_the_cut_does_not_follow_the_new_one() -> None:
    """The new record 4 is exactly as long as the old one was, and the old record 5 is there."""
    files = SimulatedFiles()
    log = written(files)
    old = bytes(files.content(FIRST))
    *_, fourth, fifth = records(files)
    files.content(FIRST)[fourth.offset + 66] ^= 1
    second = Appended(begin(files), 4, log.records[:3])
    second.batch(2, b"FOURTH, of some length")
    raw = files.content(FIRST)
    raw[fifth.offset :] = old[fifth.offset :]
    found, tail = read(files)
    assert found == second.records
    assert tail.ending is not None
    assert tail.ending.state is State.TORN
    assert "the record there is no next one" in tail.ending.where


def test_a_payload_that_looks_like_a_record_proves_nothing() -> None:
    """A client sends what says that everything was safe, in a record that was never finished."""
    files = SimulatedFiles()
    log = written(files)
    fake, _ = log_format.pack_record(
        0, b"", 0, Kind.MARK, 0, 0, 0, 99, 99, 0, 0, 0, log.sequence + 99
    )
    log.batch(1, bytes(8) + bytes(fake) * 3)
    spoil_last(files)


def test_another_history_is_not_ours() -> None:
    files = SimulatedFiles()
    written(files)
    assert read(files, 0, history=8)[0] == []
    assert state(files, 0, 8) == (State.CLEAN, "the log is all of another history")
    assert len(read(files, 0, history=None)[0]) == 5


def test_a_past_life_beside_ours() -> None:
    """Its segments may have any numbers; they are passed over."""
    files = SimulatedFiles()
    several(files)
    past = dict(files.names_now)
    files.names_now.clear()
    log = Appended(begin(files, history=9, after=4), 4)
    log.batch(20, b"ours")
    log.log.close()
    files.names_now |= past
    found, tail = read(files, 4, history=9)
    assert found == log.records
    assert state(files, 4, 9)[0] is State.CLEAN
    assert state(files, 24, 9)[0] is State.CLEAN
    assert tail.last == 24


def test_a_change_of_history_is_followed() -> None:
    files = SimulatedFiles()
    first = written(files)
    first.log.close()
    second = Appended(begin(files, new_history=8), 7, first.records)
    second.batch(1, b"of the new one")
    found, tail = read(files)
    assert found == second.records
    assert [r.history for r in records(files) if r.kind is not Kind.MARK] == [7] * 5 + [8]
    assert (tail.history, tail.last) == (8, 8)
    for history in (7, 8):
        assert read(files, 7, history=history)[0] == second.records[5:]


def test_a_system_that_only_has_it_in_memory_is_not_asked() -> None:
    """After a sync that failed: what can be read is not what is on the disk."""
    files = SimulatedFiles()
    log = written(files)
    files.fails_at = files.calls + 1
    with pytest.raises(Exception, match="failed to sync"):
        log.log.wait(5)
    assert len(read(files)[0]) == 5
    tail = read_tail(DIRECTORY, 0, HISTORY, from_disk=True, files=files)
    assert len(list(tail)) == 3
    assert tail.finish().state is State.CLEAN
