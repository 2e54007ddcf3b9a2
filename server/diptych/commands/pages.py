"""`diptych pages`: the test program of page tracking.

Ten pages of memory; integers are written at four places in pages 0, 0, 1 and 3; then the three
calls (turn tracking on or off, get the offsets of written pages, clear them) show what they do.
Offsets count from the first of the ten pages: the region has one more before them, its stamp.
"""

from __future__ import annotations

import argparse
import json
import sys

from diptych.memory import (
    PAGE_BYTES,
    Extent,
    KernelTracker,
    PageTracker,
    Region,
    TrackingUnavailable,
    choose_tracker,
)

HELP = "the page-tracking test program: write, then list the pages written"

PAGES = 10
INTEGERS = PAGE_BYTES // 4
WRITES = {0: 5, 1: 9, INTEGERS: 14, 3 * INTEGERS + 60: 35}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracker",
        choices=("auto", "kernel", "compare"),
        default="auto",
        help="how written pages are found (default: auto, the kernel's way where it works)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    with Region.create((1 + PAGES) * PAGE_BYTES, name="pages") as region:
        try:
            tracker = choose_tracker(region, arguments.tracker)
        except TrackingUnavailable as reason:
            print(f"diptych pages: {reason}", file=sys.stderr)
            return 1
        try:
            steps = _steps(region, tracker)
        finally:
            tracker.stop()
    opened_by = tracker.opened_by if isinstance(tracker, KernelTracker) else ""
    values, offsets = steps["values"], steps["written"]
    if arguments.json:
        print(json.dumps({"tracker": tracker.name, "opened_by": opened_by, **steps}))
    else:
        way = f"{tracker.name} (userfaultfd by {opened_by})" if opened_by else tracker.name
        print(f"tracker: {way}")
        for value in values:
            print(value)
        for offset in offsets:
            print(f"offset {offset}")
        print(f"asked again: {_listed(steps['again'])}")
        print(f"at most two: {_listed(steps['limited'])}")
        print(f"after clearing: {_listed(steps['cleared'])}")
        print(f"page 5 written, tracking off: {_listed(steps['off'])}")
        print(f"page 6 written, tracking on again: {_listed(steps['on'])}")
    return 0


def _steps(region: Region, tracker: PageTracker) -> dict[str, list[int]]:
    """Each step's offsets by name, and the values written."""
    tracker.track(Extent(1, 1 + PAGES))
    area = region.buffer[PAGE_BYTES:].cast("i")
    for place, value in WRITES.items():
        area[place] = value
    steps = {
        "values": [area[place] for place in WRITES],
        "written": _offsets(tracker),
        "again": _offsets(tracker),
        "limited": _offsets(tracker, limit=2),
    }
    tracker.clear()
    steps["cleared"] = _offsets(tracker)
    tracker.stop()
    area[5 * INTEGERS] = 1
    steps["off"] = _offsets(tracker)
    tracker.start()
    area[6 * INTEGERS] = 1
    steps["on"] = _offsets(tracker)
    area.release()
    return steps


def _offsets(tracker: PageTracker, limit: int | None = None) -> list[int]:
    return [int(page) - 1 for page in tracker.written(limit)]


def _listed(offsets: list[int]) -> str:
    return ", ".join(f"offset {offset}" for offset in offsets) or "nothing"
