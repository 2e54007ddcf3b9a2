"""What a server says of itself when it begins to serve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import diptych
from diptych.config import Settings
from diptych.serving.control import Message
from diptych.serving.placement import configured

log = logging.getLogger("diptych.serving")


def announce(
    app: str,
    settings: Settings,
    facts: Message,
    addresses: Sequence[str],
    pids: Mapping[str, Sequence[int]],
) -> None:
    """Log it, a line a subject. `facts`: what the writer said of itself."""
    shown = ", ".join(f"{role} {' '.join(map(str, numbers))}" for role, numbers in pids.items())
    data_bytes, images = facts["data_bytes"], settings.sync.images
    log.info("Diptych %s serves %s at %s", diptych.__version__, app, ", ".join(addresses))
    log.info("processes: %s", shown)
    if places := configured(settings.processes):
        log.info("places: %s", "; ".join(places))
    log.info("written pages are found by: %s", facts["tracker"])
    log.info(
        "memory: (1 + %d images) x %s of data = %s now",
        images,
        _size(data_bytes),
        _size(data_bytes * (1 + images)),
    )
    log.info("durability: %s", _durability(settings))


def _durability(settings: Settings) -> str:
    data = settings.data
    if data is None:
        return (
            "none: nothing is on disk, so nothing outlives this server (--data DIR keeps it); "
            "if the writer dies, work since the last sync may be lost"
        )
    match settings.log.durability:
        case "fsync":
            return f"fsync: an answer leaves when its transaction is on the disk, in {data}"
        case "os":
            return (
                f"os: an answer leaves when the system has its transaction, in {data}: it outlives "
                "every process, but not a host that fails"
            )
        case _:
            return (
                f"none: saved to {data} now and then, and at a clean stop; what came after may be "
                "lost if the writer, the server or the host dies"
            )


def _size(size_bytes: int) -> str:
    """For people: 36 KiB, 1.5 GiB."""
    size, units = size_bytes / 1024, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"
