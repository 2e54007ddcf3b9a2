"""The command log on a model of a disk: power is lost after each call, and nothing promised is.

The rule that is checked: whatever is read back is the beginning of what was appended, in its order,
and reaches at least to the last record that was reported durable; and that again after a second
life, which went on behind what the first one left.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from tests.support.disk import SimulatedFiles
from tests.unit.durable.logs import Appended, Settings, begin, read

from diptych.durable import CommandLog, DiskFull, LogBroken, State

SEEDS = range(5)
STEPS = 60
KEEPS = (0.0, 0.5, 0.9, 1.0)
Records = list[tuple[object, ...]]


class Life:
    """A writer for some time. `records` is all that was ever appended and not cut off."""

    def __init__(
        self, files: SimulatedFiles, before: Records, chance: random.Random, promised: int = 0
    ) -> None:
        self.files, self.chance = files, chance
        self.before = len(before)
        self.records = list(before)
        self.promised = promised
        """Of `records`, how many were reported durable."""
        self.log: CommandLog | None = None

    def run(self, steps: int, settings: Settings) -> None:
        """Errors: LogBroken, DiskFull."""
        try:
            self._run(steps, settings)
        finally:
            self.note()

    def note(self) -> None:
        if self.log is not None:
            self.promised = max(self.promised, self.before + self.log.durable)

    def _run(self, steps: int, settings: Settings) -> None:
        self.log = begin(self.files, settings=settings)
        self.promised = self.before  # what was read is durable by now
        appended = Appended(self.log, self.log.durable_sequence, self.records)
        for _ in range(steps):
            self._step(appended)
            self.note()
        if self.chance.random() < 0.5:
            self.log.close()
            self.promised = len(self.records)

    def _step(self, appended: Appended) -> None:
        log, chance = appended.log, self.chance
        what = chance.random()
        if what < 0.5:
            length_bytes = chance.choice((0, 5, 64, 700, 1500, 1500, 5000))
            count = chance.randint(1, 9)
            # Equal lengths and times in both lives: an old record would fit where a new one ends.
            appended.batch(count, chance.randbytes(length_bytes), chance.choice((None, 0, 9)))
            log.start_sync()
        elif what < 0.65 and appended.sequence > 1:
            appended.aborts((appended.sequence, 2), (appended.sequence - 1, 4))
            log.start_sync()
        elif what < 0.85:
            log.on_wakeup()
        elif what < 0.93:
            log.wait(log.written)
            log.idle()
        else:
            log.idle()


def check(files: SimulatedFiles, appended: Records, promised: int) -> Records:
    """What is there: the beginning of `appended`, all that was promised included."""
    found, tail = read(files)
    assert found == appended[: len(found)], "something that was never appended, or not in order"
    assert len(found) >= promised, f"{promised} were durable, {len(found)} are there"
    assert tail.ending is not None
    if tail.has_log:
        assert tail.ending.state in (State.CLEAN, State.TORN), tail.ending
    return found


def two_lives(seed: int, durability: str, files: SimulatedFiles) -> tuple[int, int]:
    """Lose power after each call of a life, and go on from there now and then: how often it was
    lost, and how often there were records that did not survive it.
    """
    chance = random.Random(seed)
    settings = Settings(durability, chance.choice((8192, 12288)))
    life = Life(files, [], random.Random(seed))
    times = lossy = 0

    def power_is_lost() -> None:
        nonlocal times, lossy
        life.note()
        promised = life.promised if durability == "fsync" else 0
        after = files.after_power_loss(chance, chance.choice(KEEPS))
        found = check(after, life.records, promised)
        times += 1
        lossy += len(found) < len(life.records)
        if chance.random() < 0.15:
            second = Life(after, found, chance, promised)
            after.told = lambda: lost_again(second)
            second.run(6, settings)

    def lost_again(second: Life) -> None:
        second.note()
        after = second.files.after_power_loss(chance, chance.choice(KEEPS))
        check(after, second.records, second.promised if durability == "fsync" else 0)

    files.told = power_is_lost
    life.run(STEPS, settings)
    return times, lossy


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("seed", SEEDS)
def test_power_is_lost_after_each_call(seed: int, durability: str) -> None:
    times, lossy = two_lives(seed, durability, SimulatedFiles())
    assert times > 60
    assert lossy > 5, "nothing was ever lost, so nothing was tested"


def test_a_disk_that_lies_is_noticed() -> None:
    """The check above finds what it is for."""
    files = SimulatedFiles()
    files.syncs_lie = True
    with pytest.raises(AssertionError, match="durable"):
        two_lives(1, "fsync", files)


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_process_is_killed_after_each_call(seed: int, durability: str) -> None:
    """The system goes on: all that was written is there, however little of it was synced."""
    chance = random.Random(seed)
    settings = Settings(durability)
    files = SimulatedFiles()
    life = Life(files, [], random.Random(seed))

    def killed() -> None:
        life.note()
        after = files.after_kill()
        written = life.before + life.log.written if life.log else 0
        found = check(after, life.records, written)
        # The next writer says that it is durable, so it must be.
        begin(after, settings=settings)
        check(after.after_power_loss(chance, 0), life.records, len(found))

    files.told = killed
    life.run(STEPS, settings)
    assert len(life.records) > STEPS // 3


def outcome_with_fault(seed: int, call: int, number: int) -> tuple[SimulatedFiles, type | None]:
    """A life in which one call fails, and a check of what it leaves."""
    files = SimulatedFiles()
    files.fails_at, files.with_errno = call, number
    life = Life(files, [], random.Random(seed))
    ended: type | None = None
    try:
        life.run(STEPS, Settings())
    except (LogBroken, DiskFull) as error:
        ended = type(error)
    if ended is LogBroken and life.log is not None:
        durable = life.log.durable
        refused: list[Callable[[], object]] = [
            life.log.start_sync,
            life.log.on_wakeup,
            life.log.idle,
            lambda: life.log and life.log.wait(0),
            lambda: life.log and life.log.append_batch(b"", 1, 1, 1, None),
            lambda: life.log and life.log.append_aborts([]),
        ]
        for call_again in refused:
            with pytest.raises(LogBroken):
                call_again()
        assert life.log.durable == durable
    check(files.after_power_loss(random.Random(call), 0), life.records, life.promised)
    return files, ended


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_each_call_fails_in_turn(seed: int, number: int) -> None:
    files, ended = outcome_with_fault(seed, -1, number)
    assert ended is None
    seen = set()
    for call in range(1, files.calls + 1):
        files, ended = outcome_with_fault(seed, call, number)
        assert files.failed == 1, "the fault never came"
        seen.add(ended)
    assert LogBroken in seen
    assert (DiskFull in seen) == (number == errno.ENOSPC)
