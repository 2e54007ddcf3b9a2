"""Power fails at any moment of a writer's life: what the next start finds is what was answered.

`Life` is a writer without sockets, in this process: the real start, engine, log and checkpoints, on
files that keep a journal (`power`). It runs batches of transactions, some of them retries of
others, writes checkpoints while it does, and notes which answers have left. `CrashPoints` takes
moments of the journal at random, makes directories as a disk may then be, and starts from each: all
that was answered must be there, once and in order, and the region's bytes must be those that the
first life had after the same transaction. Some go on from there, and fail again.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import numpy.typing as npt
from tests.support.ledger import ACCOUNTS, app
from tests.support.power import (
    Named,
    RecordedFiles,
    Resize,
    Synced,
    Told,
    Write,
    after_power_loss,
    put,
)

from diptych.config import load
from diptych.durable import LogBroken, directory
from diptych.durable import log as command_log
from diptych.engine.facts import facts_of, to_text
from diptych.engine.system import SESSION_OPEN
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import Region
from diptych.serving.resources import make_memory
from diptych.serving.takeover import Request, take_memory
from diptych.store import words as at
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame

NUMBERS = {operation.name: operation.number for operation in app.operations}
CAPACITIES = {"entries": 4_000, "account": ACCOUNTS}
CLIENTS = 3
SECOND_SHARE = 0.3
"""Of the moments, those after which a second life goes on, and fails again."""
FOR_EVER_NS = 1 << 62
VERIFIED = 25
"""One in so many has all its structures checked."""


def settings(root: Path, **more: Any) -> Any:
    """Small everything, so that segments roll and checkpoints are many."""
    flags = {
        "data": root,
        "tracker": "compare",
        "images": 2,
        "segment_bytes": 1 << 16,
        "durability": "fsync",
    }
    return load(environment={}, flags=flags | more, capacities=CAPACITIES)


@dataclass
class Truth:
    """What is so after each transaction that ends a batch: the region's bytes. `acknowledged`: the
    transfers that were answered with a result, by sequence number, as client and number."""

    bytes_at: dict[int, bytes] = field(default_factory=dict)
    acknowledged: dict[int, tuple[int, int]] = field(default_factory=dict)


LIVES_KEPT = 4
"""After so many the memory of those that ended is given back."""


class Life:
    """One writer from its start on. Close it."""

    def __init__(
        self,
        root: Path,
        chance: Random,
        boot: str,
        truth: Truth,
        first: int = 1,
        files: RecordedFiles | None = None,
    ) -> None:
        self.chance, self.truth = chance, truth
        self.files = files or RecordedFiles(root, chance)
        self.settings = settings(root)
        self._memory = make_memory(app, self.settings)
        with _on(self.files, boot):
            self.taken = take_memory(app, self.settings, self._memory, Request(facts=FACTS))
        self.engine, self.log = self.taken.engine, self.taken.log
        self._outcome = self.taken.outcome
        self._held: deque[tuple[int, int]] = deque()
        self._sessions: dict[int, int] = {}
        self._requests: Counter[int] = Counter()
        self._sent: dict[int, list[bytes]] = {}
        self._first_client = first
        self._number = 0
        self._slots: dict[int, npt.NDArray[np.int64]] = {}
        self.truth.bytes_at[self.engine.sequence] = self.fingerprint()

    def close(self) -> None:
        with contextlib.suppress(LogBroken):
            self.log.close()
        self.taken.syncer.close()
        if self.taken.directory is not None:
            self.taken.directory.close()
        for fd in (self._memory.region_fd, *self._memory.image_fds):
            os.close(fd)

    def run(self, steps: int) -> None:
        """Batches, checkpoints and moments without work, by chance."""
        for _ in range(steps):
            what = self.chance.random()
            if what < 0.8:
                self.batch()
            elif what < 0.9:
                self.checkpoint()
            else:
                self.log.wait(self.log.written)
                self.release()
                self.log.idle()
            self.release()

    def batch(self) -> None:
        """Some transactions: logged, executed, and their answers held until they are safe."""
        most = 100 if self.chance.random() < 0.1 else 12
        frames = [self._frame() for _ in range(self.chance.randint(1, most))]
        data, engine, log = b"".join(frames), self.engine, self.log
        time_ns = time.time_ns()
        ticket = log.append_batch(data, engine.sequence + 1, len(frames), time_ns, self._outcome)
        log.start_sync()
        engine.begin(time_ns)
        starts = np.cumsum([0, *map(len, frames)], dtype=np.int64)
        engine.run(np.frombuffer(data, np.uint8), starts, 0, len(frames), FOR_EVER_NS)
        assert not engine.aborts, "nothing here is the machine's fault"
        self._outcome = engine.outcome
        self._learn(frames, bytes(engine.replies))
        engine.replies.clear()
        self._held.append((ticket, engine.sequence))
        self.files.tell(("ran", engine.sequence))
        self.truth.bytes_at[engine.sequence] = self.fingerprint()

    def release(self) -> None:
        """Answers leave whose record is safe: from here on the world knows of them."""
        self.log.on_wakeup()
        while self._held and self._held[0][0] <= self.log.durable:
            self.files.tell(("answered", self._held.popleft()[1]))

    def checkpoint(self) -> None:
        """Of what is durable; transactions go on while it is written."""
        self.log.wait(self.log.written)
        self.release()
        engine, region = self.engine, self.engine.region
        assert self.taken.directory is not None
        store = self.taken.directory.store
        slot = store.next_slot()
        extents = engine.extents()
        with Region.create(region.size_bytes) as image:
            for extent in extents:
                image.allocate(extent)
                part = slice(extent.start * 512, extent.stop * 512)
                image.words[part] = region.words[part]
            now = np.concatenate([_pages(image, extent) for extent in extents])
            before = self._slots.pop(slot, None)
            changed = None
            if before is not None and self.chance.random() < 0.8:
                numbers = np.concatenate([np.arange(e.start, e.stop) for e in extents])
                same = np.zeros(len(now), bool)
                count = min(len(now), len(before))
                same[:count] = (now[:count] == before[:count]).all(axis=1)
                changed = numbers[~same] if len(now) == len(before) else None
            store.save(
                image,
                extents,
                app=app.name,
                schema=engine.layout.schema,
                history=engine.history,
                sequence=int(image.words[at.SEQUENCE]),
                facts=FACTS,
                slot=slot,
                changed=changed,
                pacer=_Beside(self._work_beside),  # type: ignore[arg-type]  # a pacer of ours
            )
            self._slots[slot] = now

    def fingerprint(self) -> bytes:
        """Of all of the region but what is of this life: the stamp of images, and the history."""
        region, digest = self.engine.region, hashlib.sha256()
        for extent in self.engine.extents():
            words = region.words[max(1, extent.start) * 512 : extent.stop * 512].copy()
            if extent.start * 512 <= at.HISTORY < extent.stop * 512:
                words[at.HISTORY - max(1, extent.start) * 512] = 0
            digest.update(words)
        return digest.digest()

    def _work_beside(self) -> None:
        if self.chance.random() < 0.7:
            self.batch()
            self.release()

    def _frame(self) -> bytes:
        chance = self.chance
        client = self._first_client + chance.randrange(CLIENTS)
        if client not in self._sessions:
            self._sessions[client] = 0
            identity = client.to_bytes(16, "little")
            payload = msgpack.packb([identity, f"client {client}"])
            return encode_frame(
                Kind.TRANSACTION, payload, operation=SESSION_OPEN, request=client, context=client
            )
        sent = self._sent.setdefault(client, [])
        session = self._sessions[client]
        if session and sent and chance.random() < 0.1:
            return chance.choice(sent)  # a retry
        self._number += 1
        source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
        amount = chance.choice((1, 2, 3, 10_000_000)) if chance.random() < 0.99 else 0
        payload = msgpack.packb([client, self._number, source, target, amount])
        if session:
            self._requests[client] += 1
        frame = encode_frame(
            Kind.TRANSACTION,
            payload,
            operation=NUMBERS["transfer"] if chance.random() < 0.99 else 999,
            request=self._requests[client] if session else 1,
            sequence=session,
            context=client,
        )
        if session:
            sent.append(frame)
        return frame

    def _learn(self, frames: list[bytes], replies: bytes) -> None:
        """What the clients will be told."""
        position = 0
        for frame in frames:
            length, kind, _, operation, request, sequence, _ = HEADER.unpack_from(replies, position)
            answer = replies[position + HEADER_BYTES : position + HEADER_BYTES + length]
            position += HEADER_BYTES + length
            if kind != Kind.RESULT:
                continue
            if operation == SESSION_OPEN:
                self._sessions[request] = msgpack.unpackb(answer)
            elif operation == NUMBERS["transfer"]:
                client, number, *_ = msgpack.unpackb(frame[HEADER_BYTES:])
                self.truth.acknowledged[sequence] = client, number


class _Beside:
    """In a checkpoint's pauses, something else happens."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def spent(self, size_bytes: int) -> None:
        self._work()


FACTS = to_text(facts_of(app, "interpreted", CAPACITIES))


def _pages(image: Region, extent: Any) -> npt.NDArray[np.int64]:
    return image.words[extent.start * 512 : extent.stop * 512].reshape(-1, 512).copy()


@contextlib.contextmanager
def _on(files: RecordedFiles, boot: str) -> Iterator[None]:
    """A start in here has these files, on a host that was booted under that name."""
    say = directory._say

    def say_recorded(fd: int, name: str, state: str) -> None:
        say(fd, name, state)
        _record_lock(files, os.pread(fd, 1000, 0))

    with (
        mock.patch.object(directory, "Files", return_value=files),
        mock.patch.object(command_log, "Files", return_value=files),
        mock.patch.object(directory, "_boot_id", return_value=boot),
        mock.patch.object(directory, "_say", say_recorded),
    ):
        yield


def _record_lock(files: RecordedFiles, said: bytes) -> None:
    """The lock is no file of the seam: what it says is synced each time, its name is not."""
    file = files.number_of(directory.LOCK)
    files.journal.append(Write(file, 0, said))
    files.journal.append(Resize(file, len(said), len(said)))
    files.journal.append(Synced(file, len(files.journal)))


@dataclass
class Report:
    """`lossy`: moments at which something was lost that nobody had been told of."""

    points: int = 0
    second_lives: int = 0
    lossy: int = 0
    transactions: int = 0
    acknowledged: int = 0
    checkpoints: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self)) | {"well": self.well}


class CrashPoints:
    """So many moments, by a seed. `work` is an empty directory to work in."""

    def __init__(
        self,
        work: Path,
        *,
        points: int,
        seed: int,
        steps: int = 60,
        points_a_life: int = 100,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.work, self.points, self.seed, self.steps = work, points, seed, steps
        self.points_a_life = points_a_life
        self.report = Report()
        self._say = say
        self._made = 0

    def run(self) -> Report:
        began = time.monotonic()
        for number in range(-(-self.points // self.points_a_life)):
            self._life(Random(f"{self.seed}/{number}"))
        self.report.seconds = time.monotonic() - began
        return self.report

    def _life(self, chance: Random) -> None:
        """One life, and some of the moments at which it may end."""
        truth = Truth()
        root = self._directory()
        life = Life(root, chance, "boot 1", truth)
        try:
            life.run(self.steps)
        finally:
            life.close()
        report = self.report
        report.transactions += life.engine.sequence
        report.acknowledged += len(truth.acknowledged)
        report.checkpoints += len(life.files.journal) and sum(
            isinstance(step, Named) and step.name.startswith("checkpoint") and bool(step.before)
            for step in life.files.journal
        )
        moments = len(life.files.journal)
        for _ in range(min(self.points_a_life, self.points - report.points)):
            self.point(life.files, chance.randint(0, moments), truth, chance, 1)
        shutil.rmtree(root)

    def point(
        self, files: RecordedFiles, position: int, truth: Truth, chance: Random, lives: int
    ) -> None:
        """The power fails at `position` of a life's journal: start from what is left, and see what
        there is. `lives`: how many there were so far."""
        report = self.report
        report.points += lives == 1
        said = {"ran": 0, "answered": 0}
        said.update(step.what for step in files.journal[:position] if isinstance(step, Told))
        told = said["answered"]
        what = f"seed {self.seed}, point {report.points}, life {lives}, step {position}"
        root = self._directory()
        shutil.rmtree(root)
        put(after_power_loss(files, position, chance), root)
        known = Truth(dict(truth.bytes_at), dict(truth.acknowledged))
        first = 1 + CLIENTS * lives
        try:
            life = Life(root, chance, f"boot {lives + 1}", known, first)
        except (ConfigurationError, CorruptionError, LogBroken, OSError) as error:
            report.violations.append(f"{what}: the start is refused, {told} was told: {error}")
            self._say(f"{what}: refused; see {root}")
            return
        try:
            wrong = self._compare(life, truth, told)
            report.lossy += life.engine.sequence < said["ran"]
            report.violations += [f"{what}: {each}" for each in wrong]
            if not wrong and lives == 1 and chance.random() < SECOND_SHARE:
                report.second_lives += 1
                _forget(known, life.engine.sequence)
                life.run(8)
                again = life.files
            else:
                again = None
        finally:
            life.close()
        if again is not None:
            self.point(again, chance.randint(0, len(again.journal)), known, chance, 2)
        if wrong:
            self._say(f"{what}: {wrong[0]}; see {root}")
        else:
            shutil.rmtree(root)

    def _compare(self, life: Life, truth: Truth, told: int) -> list[str]:
        """What is wrong with what a start found."""
        engine, wrong = life.engine, []
        sequence = engine.sequence
        if sequence < told:
            wrong.append(f"transaction {told} was answered, and {sequence} is the last there is")
        expected = truth.bytes_at.get(sequence)
        if expected is None:
            wrong.append(f"no batch ended with transaction {sequence}")
        elif told and expected != life.fingerprint():
            wrong.append(f"the region is not what it was after transaction {sequence}")
        there = Counter((row.sequence, row.client, row.number) for row in engine.db.entries if told)
        for number, name in truth.acknowledged.items():
            if number <= told and there[(number, *name)] != 1:
                wrong.append(f"{name} was answered as {number}, and is not there so once")
        if self.report.points % VERIFIED == 0:
            engine.verify()
        return wrong

    def _directory(self) -> Path:
        self._made += 1
        if self._made % LIVES_KEPT == 0:
            gc.collect()  # engines that ended are cycles, with memory that Python does not count
        path = self.work / str(self._made)
        path.mkdir()
        return path


def _forget(truth: Truth, sequence: int) -> None:
    """What came after is not so any more."""
    for number in [each for each in truth.bytes_at if each > sequence]:
        del truth.bytes_at[number]
    for number in [each for each in truth.acknowledged if each > sequence]:
        del truth.acknowledged[number]
