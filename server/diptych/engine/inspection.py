"""Everything that can be known about the data in a directory without changing any of it.

Reads every checkpoint, opens the newest in memory of this process, and looks at it: structures,
references, invariants, how full tables are, what a start would make of it, and what looking cost.
Needs no lock: a server that changes the pages of an older checkpoint has removed its name first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diptych.app import App
from diptych.durable import Checkpoint, checkpoints_in, read_manifest, verify_pages
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.opening import Examined, examine, load, migrate, stored_layout
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
    """All about a directory. `start`: nothing, load, migrate or refuse."""

    directory: Path
    files: list[FileReport] = field(default_factory=list)
    start: str = "nothing"
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


def inspect_data(app: App, path: Path, capacities: Mapping[str, int] | None = None) -> DataReport:
    """Look at a data directory. Errors: ConfigurationError when there is none; OSError."""
    if not path.is_dir():
        raise ConfigurationError(f"data: {path} is not a directory")
    report = DataReport(path)
    checkpoints = checkpoints_in(path)
    for checkpoint in checkpoints:
        file = _read(checkpoint)
        # Gone: a running server has written newer ones, and is changing the pages of this.
        if checkpoint.path.exists():
            report.files.append(file)
    if not report.files:
        return report
    if report.files[-1].damage:
        report.start, report.refusal = "refuse", "the newest checkpoint is damaged"
        return report
    try:
        _look(report, app, checkpoints[-1], capacities)
    except (ConfigurationError, CorruptionError, MemoryFailure) as error:
        report.start, report.refusal = "refuse", str(error)
    return report


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
    report: DataReport, app: App, checkpoint: Checkpoint, capacities: Mapping[str, int] | None
) -> None:
    manifest = read_manifest(checkpoint.path)
    examined = examine(manifest, app, capacities)
    report.differences = [str(each) for each in examined.comparison.differences]
    report.migration = examined.function.__name__ if examined.function else ""
    report.refusal = examined.refusal
    report.start = "refuse" if examined.refusal else "load" if examined.fits else "migrate"
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
            return
        if examined.fits:
            engine = Engine.recover(
                app, region, grow=region.allocate, history=manifest.history, capacities=capacities
            )
            _invariants(report, engine)
    if report.start == "migrate":
        _rehearse(report, app, checkpoint, examined, capacities)


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
