"""What outlives the process: the data directory, the checkpoints and the command log in it.

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
    read_outline,
    read_pages,
    verify_pages,
)
from diptych.durable.directory import DataDirectory, Ended, Lock, look_at_lock
from diptych.durable.files import Files
from diptych.durable.log import CommandLog, DiskFull, LogBroken
from diptych.durable.log_format import Kind, Mode
from diptych.durable.log_reader import Ending, Record, State, Tail, read_tail, repair
from diptych.durable.log_removal import Removed, remove_covered
from diptych.durable.log_segments import Segment, segments
from diptych.durable.manifest import Manifest
from diptych.durable.pacing import Pacer
from diptych.durable.progress import Progress
from diptych.durable.store import CheckpointStore, Saved

__all__ = [
    "Checkpoint",
    "CheckpointReplaced",
    "CheckpointStore",
    "CommandLog",
    "DataDirectory",
    "DiskFull",
    "Ended",
    "Ending",
    "Files",
    "Kind",
    "Lock",
    "LogBroken",
    "Manifest",
    "Mode",
    "Pacer",
    "Progress",
    "Record",
    "Removed",
    "Saved",
    "Segment",
    "State",
    "Tail",
    "checkpoints_in",
    "look_at_lock",
    "read_manifest",
    "read_outline",
    "read_pages",
    "read_tail",
    "remove_covered",
    "repair",
    "segments",
    "verify_pages",
]
