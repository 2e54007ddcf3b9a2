"""Everything that can be known about the data in a directory without changing any of it.

Reads every checkpoint, opens the newest whole one in memory of this process, and looks at it:
structures, references, invariants, how full tables are, what a start would make of it and of the
log behind it, and what looking cost. Needs no lock: a server that changes the pages of an older
checkpoint has removed its name first. While one is at work the log is left to it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diptych.app import App
from diptych.durable import (
    Checkpoint,
    Ended,
    Files,
    checkpoints_in,
    look_at_lock,
    read_manifest,
    verify_pages,
)
from diptych.engine import facts
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.lane import lane_of
from diptych.engine.opening import Examined, examine, load, migrate, stored_layout
from diptych.engine.recovery import Action, Checkpoints
from diptych.engine.starting import Base, decide_on, look_at_log
from diptych.errors import ConfigurationError, CorruptionError, EvolutionError
from diptych.memory import MemoryFailure, Region
from diptych.store import words as at
from diptych.store.database import SCRATCH_BYTES, Database
from diptych.store.transfer import read_words


@dataclass(frozen=True)
class FileReport:
    """One checkpoint. `damage`: what is wrong with it, or ""; then the rest is unknown."""

    name: str
    damage: str
    sequence: int
    written_ns: int = 0
    size_bytes: int = 0
    pages: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class TableReport:
    """How full one table is. `nodes`: used, and the most there can be, of each index."""

    name: str
    rows: int
    capacity: int
    allocated_rows: int
    nodes: Mapping[str, tuple[int, int]]
    heap_bytes: int
    heap_bytes_max: int
    dangling: Mapping[str, int]
    """Values of reference columns to which no row belongs, by column."""


@dataclass
class DataReport:
    """All about a directory. `start`: nothing, load, replay, migrate or refuse; `log`: of a
    replay, what it does.
    """

    directory: Path
    files: list[FileReport] = field(default_factory=list)
    start: str = "nothing"
    log: str = ""
    differences: list[str] = field(default_factory=list)
    migration: str = ""
    refusal: str = ""
    tables: list[TableReport] = field(default_factory=list)
    structures: str = ""
    structures_s: float = 0.0
    invariants: dict[str, str] = field(default_factory=dict)
    """What is wrong with each, or "", by name. Run on the data as a start would have it."""
    invariants_s: float = 0.0
    migration_s: float = 0.0

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def sound(self) -> bool:
        damaged = any(each.damage for each in self.files)
        broken = any(self.invariants.values())
        return not (damaged or broken or self.refusal or self.structures)


@dataclass(frozen=True)
class _Unlocked:
    """A directory as a start would find it, once it had it locked."""

    path: Path
    ended: Ended
    mode_before: str
    files: Files = field(default_factory=Files)


def inspect_data(
    app: App, path: Path, capacities: Mapping[str, int] | None = None, target: str = ""
) -> DataReport:
    """Look at a data directory. `target`: what a command line calls the application.

    Errors: ConfigurationError when there is none; OSError.
    """
    if not path.is_dir():
        raise ConfigurationError(f"data: {path} is not a directory")
    report = DataReport(path)
    whole: list[Checkpoint] = []
    for checkpoint in checkpoints_in(path):
        file = _read(checkpoint)
        # Gone: a running server has written newer ones, and is changing the pages of this.
        if checkpoint.path.exists():
            report.files.append(file)
            whole += [] if file.damage else [checkpoint]
    base = Base(0, 0, checkpoints=_state(report), newest=_newest(path))
    try:
        if whole:
            base = _look(report, app, whole[-1], capacities, base)
        if report.start != "refuse":
            _decide(
                report, base, facts.to_text(facts.facts_of(app, lane_of(app), capacities)), target
            )
    except (ConfigurationError, CorruptionError, MemoryFailure) as error:
        report.start, report.refusal = "refuse", str(error)
    return report


def _state(report: DataReport) -> Checkpoints:
    if not report.files:
        return Checkpoints.NONE
    if not report.files[-1].damage:
        return Checkpoints.NEWEST_GOOD
    any_whole = any(not file.damage for file in report.files)
    return Checkpoints.OLDER_GOOD if any_whole else Checkpoints.ALL_DAMAGED


def _newest(path: Path) -> Checkpoint | None:
    found = checkpoints_in(path)
    return found[-1] if found else None


def _decide(report: DataReport, base: Base, facts_now: str, target: str) -> None:
    """What a start makes of checkpoint and log together, unless a server is at work there."""
    lock = look_at_lock(report.directory)
    if lock is not None and lock.held:
        return
    directory = _Unlocked(
        report.directory, lock.ended if lock else Ended.CLEAN, lock.mode if lock else ""
    )
    decision = decide_on(base, look_at_log(directory, base), directory, facts_now, target)
    if decision.action is Action.REFUSE:
        report.start, report.refusal = "refuse", decision.message
    elif decision.action in (Action.LOAD_AND_REPLAY, Action.CUT_AND_REPLAY):
        report.start, report.log = "replay", decision.why


def _read(checkpoint: Checkpoint) -> FileReport:
    began = time.monotonic()
    try:
        manifest = verify_pages(checkpoint, lambda _: None)
    except (CorruptionError, ConfigurationError, OSError) as error:
        return FileReport(checkpoint.path.name, str(error), checkpoint.sequence)
    return FileReport(
        checkpoint.path.name,
        "",
        manifest.sequence,
        manifest.time_ns,
        manifest.data_bytes,
        manifest.page_count,
        time.monotonic() - began,
    )


def _look(
    report: DataReport,
    app: App,
    checkpoint: Checkpoint,
    capacities: Mapping[str, int] | None,
    base: Base,
) -> Base:
    """Look at the data in a checkpoint. `base` as it is with it."""
    manifest = read_manifest(checkpoint.path)
    examined = examine(manifest, app, capacities)
    report.differences = [str(each) for each in examined.comparison.differences]
    report.migration = examined.function.__name__ if examined.function else ""
    report.refusal = examined.refusal
    report.start = "refuse" if examined.refusal else "load" if examined.fits else "migrate"
    base = replace(
        base,
        sequence=manifest.sequence,
        history=manifest.history,
        checkpoint=checkpoint,
        examined=examined,
    )
    size_bytes = manifest.region_bytes
    with Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES, name="check") as region:
        layout = stored_layout(examined)
        load(checkpoint, layout, region)
        db = Database(layout, region, writable=False)
        report.tables = [_table(db, name) for name in db.tables]
        began = time.monotonic()
        try:
            db.verify()
        except CorruptionError as wrong:
            report.structures = str(wrong)
        report.structures_s = time.monotonic() - began
        if report.structures:
            return base
        if examined.fits:
            engine = Engine.recover(
                app, region, grow=region.allocate, history=manifest.history, capacities=capacities
            )
            _invariants(report, engine)
    if report.start == "migrate":
        _rehearse(report, app, checkpoint, examined, capacities)
    return base


def _rehearse(
    report: DataReport,
    app: App,
    checkpoint: Checkpoint,
    examined: Examined,
    capacities: Mapping[str, int] | None,
) -> None:
    """Migrate in memory, as a start would, and throw the result away."""
    began = time.monotonic()
    size_bytes = layout_bytes(app, capacities)
    with Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES, name="rehearsal") as region:
        try:
            migrate(app, checkpoint, examined, region, history=1, capacities=capacities)
        except EvolutionError as unfit:
            report.start, report.refusal = "refuse", str(unfit)
        except Exception as error:
            told = f"the migration {report.migration} fails: {type(error).__name__}: {error}"
            report.start, report.refusal = "refuse", told
        else:
            # It would have failed over an invariant that does not hold.
            report.invariants = {each.__name__: "" for each in app.invariants}
    report.migration_s = time.monotonic() - began


def _invariants(report: DataReport, engine: Engine) -> None:
    began = time.monotonic()
    for invariant in engine.app.invariants:
        name = invariant.__name__
        try:
            engine.check_invariant(invariant)
            report.invariants[name] = ""
        except Exception as error:
            shown = str(error) if isinstance(error, AssertionError) else repr(error)
            report.invariants[name] = shown
    report.invariants_s = time.monotonic() - began


def _table(db: Database, name: str) -> TableReport:
    layout, words = db.tables[name].layout, db.space.words
    nodes = {
        index.spec.name: (int(words[index.state + at.NODE_HIGH]), index.nodes_max)
        for index in layout.indexes
    }
    used_words = int(words[layout.heap_state + at.H_TOP]) if layout.heap_words else 0
    return TableReport(
        name,
        int(words[layout.state + at.ROW_COUNT]),
        layout.capacity,
        int(words[layout.descriptor + at.T_ALLOCATED]),
        nodes,
        used_words * 8,
        layout.heap_words * 8,
        _dangling(db, name),
    )


def _dangling(db: Database, name: str) -> dict[str, int]:
    found = {}
    layout, words = db.tables[name].layout, db.space.words
    rows = _live(db, name)
    for column in layout.spec.columns:
        if column.reference not in db.tables:
            continue
        target = db.tables[column.reference].layout
        keys = read_words(
            words, target, target.spec.keys[0].first_word, _live(db, column.reference)
        )
        values = read_words(words, layout, column.first_word, rows)
        if column.optional:
            values = values[read_words(words, layout, column.valid_word, rows) != 0]
        count = int((~np.isin(values, keys)).sum())
        if count:
            found[column.name] = count
    return found


def _live(db: Database, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    layout, words = db.tables[name].layout, db.space.words
    high = int(words[layout.state + at.ROW_HIGH])
    return np.flatnonzero(words[layout.live : layout.live + high] == -1)
