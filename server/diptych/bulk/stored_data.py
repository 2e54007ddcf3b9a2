"""Tables of a data directory: what its newest checkpoint holds, without a server.

The checkpoint's own schema says what is in it, so the application is not needed. It is loaded into
memory as a whole, every page checked; the directory is not changed, and a server may be using it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diptych.bulk.exporting import Rows, Snapshot
from diptych.bulk.files import BadFile
from diptych.durable import checkpoints_in, read_manifest
from diptych.engine.opening import load
from diptych.errors import CorruptionError, did_you_mean
from diptych.memory import Region
from diptych.store import layout as layouts
from diptych.store.database import SCRATCH_BYTES, Database
from diptych.store.spool import columns_in
from diptych.stored import read_schema


@contextmanager
def from_data(directory: Path, tables: Sequence[str]) -> Iterator[Snapshot]:
    """Tables as of the newest checkpoint. Errors: BadFile, CorruptionError, ConfigurationError,
    OSError.
    """
    if not directory.is_dir():
        raise BadFile(f"{directory} is not a directory")
    found = checkpoints_in(directory)
    if not found:
        raise BadFile(f"{directory} holds no checkpoint")
    manifest = read_manifest(found[-1].path)
    stored = read_schema(manifest.schema)
    layout = layouts.plan(stored.tables, app=stored.app, version=stored.version)
    if layout.size_bytes != manifest.region_bytes:
        raise CorruptionError(f"{found[-1].path}: its schema and its size contradict each other")
    known = [spec.name for spec in stored.tables]
    for name in tables:
        if name not in known:
            raise BadFile(f"{stored.app} has no table {name!r}{did_you_mean(name, known)}")
    with Region.create(manifest.region_bytes, scratch_bytes=SCRATCH_BYTES, name="export") as region:
        load(found[-1], layout, region)
        db = Database(layout, region, writable=False)
        yield _snapshot(db, manifest.sequence, tables)
        del db
        gc.collect()  # views of the memory that is about to go


def _snapshot(db: Database, sequence: int, tables: Sequence[str]) -> Snapshot:
    views = [db.tables[name] for name in tables]
    rows = [Rows(view.layout.spec, len(view), columns_in(view)) for view in views]
    return Snapshot(sequence, rows)
