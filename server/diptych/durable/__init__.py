"""What outlives the process: the data directory and the checkpoints in it.

Knows regions as pages and extents, and a schema as text that it keeps; knows neither tables nor
transactions, and never decides what to do about a difference (`engine.opening` does).
docs/formats.md has the files byte by byte.
"""

from __future__ import annotations

from diptych.durable.checkpoint import (
    Checkpoint,
    CheckpointReplaced,
    checkpoints_in,
    read_manifest,
    read_pages,
    verify_pages,
)
from diptych.durable.directory import DataDirectory
from diptych.durable.files import Files
from diptych.durable.manifest import Manifest
from diptych.durable.pacing import Pacer
from diptych.durable.progress import Progress
from diptych.durable.store import CheckpointStore, Saved

__all__ = [
    "Checkpoint",
    "CheckpointReplaced",
    "CheckpointStore",
    "DataDirectory",
    "Files",
    "Manifest",
    "Pacer",
    "Progress",
    "Saved",
    "checkpoints_in",
    "read_manifest",
    "read_pages",
    "verify_pages",
]
