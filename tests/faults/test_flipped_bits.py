"""One bit is wrong in one of the files of a data directory: a start says so, or does without.

Never is anything lost or changed silently: what starts has the same bytes as before.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.support.crash_points import Life, Truth
from tests.support.power import PAGE_BYTES, Content, put, read_state

from diptych.durable import checkpoints_in, read_manifest, read_tail
from diptych.errors import ConfigurationError, CorruptionError

FLIPS = 12
RECORD = b"DREC"
Choose = Callable[[Path, dict[str, Content], Random], tuple[str, int]]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A directory with three checkpoints and a log beyond them, of a writer that was killed."""
    path = tmp_path_factory.mktemp("flips") / "old"
    path.mkdir()
    truth = Truth()
    life = Life(path, Random(8), "boot 1", truth)
    for _ in range(3):
        life.run(3)
        life.checkpoint()
    for _ in range(6):
        life.batch()
    life.log.wait(life.log.written)
    life.log.idle()
    state = read_state(path)
    life.close()
    shutil.rmtree(path)
    put(state, path)
    return path, truth


def newest_segment(state: dict[str, Content]) -> tuple[str, bytes]:
    name = max(name for name in state if name.startswith("log-") and "next" not in name)
    return name, bytes(state[name])


def segment_header(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """Within the first bytes, which are all in use."""
    return newest_segment(state)[0], chance.randrange(128)


def needed(path: Path) -> int:
    """Where in the newest segment the first record is that the newest checkpoint does not have."""
    newest = read_manifest(checkpoints_in(path)[-1].path)
    return next(iter(read_tail(path, newest.sequence, newest.history))).offset


def record(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """From the first that is needed to the last one that tells that those before it are safe."""
    name, content = newest_segment(state)
    return name, chance.randrange(needed(path), content.rindex(RECORD))


def covered_record(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """In one that the newest checkpoint has."""
    name, content = newest_segment(state)
    return name, chance.randrange(content.index(RECORD), needed(path))


def last_record(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """The last with transactions: a mark follows it."""
    name, content = newest_segment(state)
    mark = content.rindex(RECORD)
    return name, chance.randrange(content.rindex(RECORD, 0, mark), mark)


def zeros(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """Behind the last record."""
    name, content = newest_segment(state)
    return name, chance.randrange(content.rindex(RECORD) + 64, len(content))


def manifest(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    name = checkpoints_in(path)[-1].path.name
    return name, chance.randrange(state[name].size_bytes)


def page(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    """In a page of the newest checkpoint."""
    newest = read_manifest(checkpoints_in(path)[-1].path)
    extent = chance.choice(newest.extents)
    number = chance.randrange(extent.start, extent.stop)
    return f"pages-{newest.slot}.diptych", number * PAGE_BYTES + chance.randrange(PAGE_BYTES)


def pages_header(path: Path, state: dict[str, Content], chance: Random) -> tuple[str, int]:
    newest = read_manifest(checkpoints_in(path)[-1].path)
    return f"pages-{newest.slot}.diptych", chance.randrange(PAGE_BYTES)


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (segment_header, {"refused"}),
        (record, {"refused"}),
        (covered_record, {"started"}),
        (last_record, {"refused"}),
        (zeros, {"started"}),
        (manifest, {"started"}),
        (page, {"started"}),
        (pages_header, {"started"}),
    ],
)
def test_a_flipped_bit(
    old: tuple[Path, Truth],
    tmp_path: Path,
    choose: Choose,
    expected: set[str],
) -> None:
    path, truth = old
    chance = Random(choose.__name__)
    last = max(truth.bytes_at)
    ends: Counter[str] = Counter()
    for number in range(FLIPS):
        state = read_state(path)
        name, offset = choose(path, state, chance)
        where, within = divmod(offset, PAGE_BYTES)
        flipped = state[name].pages.setdefault(where, bytearray(PAGE_BYTES))
        flipped[within] ^= 1 << chance.randrange(8)
        root = tmp_path / str(number)
        put(state, root)
        try:
            life = Life(root, chance, "boot 2", Truth(), 9)
        except (ConfigurationError, CorruptionError) as refused:
            ends["refused"] += 1
            told = str(refused)
        else:
            ends["started"] += 1
            told = f"{name} is damaged"
            assert life.engine.sequence == last, (name, offset)
            assert life.fingerprint() == truth.bytes_at[last], (name, offset)
            life.close()
        assert name in told, (offset, told)
        assert "damaged" in told
    assert set(ends) == expected, ends
