"""What outlives the process: the data directory and the checkpoint files in it.

Knows regions as pages and extents, and a schema as text that it keeps; knows neither tables nor
transactions, and never decides what to do about a difference (`engine.opening` does).
docs/formats.md has the files byte by byte.
"""

from __future__ import annotations

from diptych.durable.checkpoint import Checkpoint, read_header, read_pages, verify_pages
from diptych.durable.directory import DataDirectory, Ended, checkpoints_in
from diptych.durable.files import Files
from diptych.durable.header import Header
from diptych.durable.progress import Progress

__all__ = [
    "Checkpoint",
    "DataDirectory",
    "Ended",
    "Files",
    "Header",
    "Progress",
    "checkpoints_in",
    "read_header",
    "read_pages",
    "verify_pages",
]
