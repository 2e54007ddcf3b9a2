"""What a start makes of a data directory: nothing, load, migrate, or refuse and say why.

`examine` decides, by headers and schemas alone, and changes nothing; `load` and `migrate` do what
it says; `save` writes a checkpoint. Knows regions and files; knows no processes.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from diptych.app import App
from diptych.durable import (
    Checkpoint,
    DataDirectory,
    Manifest,
    Progress,
    read_manifest,
    read_pages,
)
from diptych.durable.progress import in_mebibytes
from diptych.errors import ConfigurationError, CorruptionError
from diptych.evolution import Comparison, Difference, compare
from diptych.memory import Region
from diptych.schema import TableSpec
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import SCRATCH_BYTES, Database
from diptych.store.layout import Layout
from diptych.stored import StoredSchema, read_schema

log = logging.getLogger("diptych.engine")


@dataclass(frozen=True)
class Examined:
    """One checkpoint against the application. `refusal`: why a start refuses it, or ""."""

    manifest: Manifest
    stored: StoredSchema
    layout: Layout
    comparison: Comparison
    function: Callable[..., None] | None
    refusal: str = ""

    @property
    def fits(self) -> bool:
        """Whether the data is used as it is."""
        return self.manifest.schema == self.layout.schema


def examine(manifest: Manifest, app: App, capacities: Mapping[str, int] | None = None) -> Examined:
    """Compare a checkpoint with the application. Errors: ConfigurationError (another application's
    data), CorruptionError.
    """
    if manifest.app != app.name:
        raise ConfigurationError(
            f"the data is that of the application {manifest.app!r}, not of {app.name!r}; one "
            "application a directory"
        )
    stored = read_schema(manifest.schema)
    layout = layouts.of_app(app, capacities)
    comparison = compare(stored.tables, in_force(layout))
    function = app.migrations.get(stored.version)
    refusal = _refusal(manifest, stored, app, comparison, function)
    return Examined(manifest, stored, layout, comparison, function, refusal)


def in_force(layout: Layout) -> list[TableSpec]:
    """The tables of a layout, with the capacities that it gives them."""
    return [replace(table.spec, capacity=table.capacity) for table in layout.tables]


def load(checkpoint: Checkpoint, layout: Layout, region: Region) -> Manifest:
    """Read a checkpoint into a region of zeros, and see that it is what its name and manifest say.

    Errors: CorruptionError, ConfigurationError, AllocationFailed, OSError.
    """
    size_bytes = read_manifest(checkpoint.path).data_bytes
    what = f"loading {checkpoint.path}"
    progress = Progress(log, what, size_bytes, shown=in_mebibytes, unit="MiB")
    manifest = read_pages(checkpoint, region, progress.add)
    words = region.words
    try:
        layout.check(words)
    except CorruptionError as wrong:
        raise CorruptionError(f"{checkpoint.path}: {wrong}") from None
    if int(words[at.SEQUENCE]) != manifest.sequence or layout.extents(words) != list(
        manifest.extents
    ):
        raise CorruptionError(f"{checkpoint.path}: its pages are not what its manifest says")
    log.info(
        "loaded %s, %s MiB, in %.1f s",
        checkpoint.path.name,
        in_mebibytes(size_bytes),
        progress.elapsed_s,
    )
    return manifest


def migrate(
    app: App,
    checkpoint: Checkpoint,
    examined: Examined,
    region: Region,
    *,
    history: int,
    capacities: Mapping[str, int] | None = None,
) -> None:
    """Fill `region`, all zero, with what a checkpoint of another schema becomes.

    Touches no file. Errors: EvolutionError,
    CorruptionError, AllocationFailed, OSError, and what a migration raises.
    """
    from diptych.engine.migration import Migration  # has kernels that no other start needs

    log.info("%s", told(examined))
    before = stored_layout(examined)
    size_bytes = examined.manifest.region_bytes
    with Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES, name="stored") as stored:
        load(checkpoint, before, stored)
        old = Database(before, stored, writable=False)
        old.sequence, old.now = examined.manifest.sequence, int(stored.words[at.NOW])
        Migration(
            app,
            examined.comparison,
            examined.function,
            old,
            region,
            history=history,
            capacities=capacities,
        ).run()
    del old
    gc.collect()  # its views hold the memory of the stored data


def stored_layout(examined: Examined) -> Layout:
    """How the stored region lies. Errors: CorruptionError."""
    stored = examined.stored
    layout = layouts.plan(stored.tables, app=stored.app, version=stored.version)
    if layout.size_bytes != examined.manifest.region_bytes:
        raise CorruptionError("its schema asks for a region of another size than it has")
    return layout


def save(
    app: str, directory: DataDirectory, region: Region, layout: Layout, facts: str = ""
) -> Checkpoint:
    """Write a checkpoint of a region that nobody changes meanwhile: all of it, at full speed.

    Errors: OSError.
    """
    words = region.words
    return directory.save(
        region,
        layout.extents(words),
        app=app,
        schema=layout.schema,
        history=int(words[at.HISTORY]),
        sequence=int(words[at.SEQUENCE]),
        facts=facts,
    )


def told(examined: Examined) -> str:
    """What a start does about the differences, line by line."""
    stored, function = examined.stored, examined.function
    lines = [f"  {each}" for each in examined.comparison.differences]
    if function is not None:
        lines.append(f"  and the application's migration {function.__name__}")
    head = (
        f"migrating the data of transaction {examined.manifest.sequence}, version {stored.version}"
    )
    return "\n".join([f"{head}:", *lines]) if lines else f"{head}: its tables are the same"


def _refusal(
    manifest: Manifest,
    stored: StoredSchema,
    app: App,
    comparison: Comparison,
    function: Callable[..., None] | None,
) -> str:
    data = (
        f"the data of transaction {manifest.sequence} is of version {stored.version} of {app.name}"
    )
    if stored.version > app.version:
        return (
            f"{data}, and this is version {app.version}: older code does not know what newer code "
            "wrote; start the newer one"
        )
    if function is not None or not comparison.blocking:
        return ""
    by_itself = [each for each in comparison.differences if each.automatic]
    version = max(app.version, stored.version + 1)
    tables = ", ".join(sorted(comparison.blocked_tables))
    return "\n".join(
        [
            f"{data}, whose tables are not those of the code (version {app.version}). "
            "These differences need a migration:",
            *_listed(comparison.blocking),
            *(["these would be carried out by themselves:"] if by_itself else []),
            *_listed(by_itself),
            "Nothing was changed. Undo the change in code, or say what becomes of the data "
            "(docs/evolution.md):",
            f'  app = App("{app.name}", version={version})',
            f"  @app.migration(from_version={stored.version})",
            f"  def from_{stored.version}(old: Db, new: Db) -> None: ...  # fills: {tables}",
        ]
    )


def _listed(differences: Sequence[Difference]) -> list[str]:
    return [f"  {each}" for each in differences]
