"""Times and days as people write them in files: text to numbers, where Arrow's own reading ends.

Arrow reads nearly all of them, and faster: this is for what it refuses (times at the ends of what
64 bits hold, plain numbers, a column that mixes forms), and to tell a wrong one from those.
"""

from __future__ import annotations

import datetime
import re

NS = 1_000_000_000
EPOCH = datetime.date(1970, 1, 1).toordinal()
NUMBER = re.compile(r"[+-]?\d+")
DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s*(Z|[+-]\d\d(?::?\d\d)?)?"
)


def day_of(text: str) -> int:
    """Days since 1970 of 2024-01-31, or of the number itself. Errors: ValueError."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        return int(text)
    found = DAY.fullmatch(text)
    if found is None:
        raise ValueError(f"no day: {text!r}")
    return datetime.date(*map(int, found.groups())).toordinal() - EPOCH


def time_of(text: str) -> int:
    """Nanoseconds since 1970 of 2024-01-31T12:00:00.5Z, or of the number itself. Without a zone it
    is UTC. Errors: ValueError.
    """
    text = text.strip()
    if NUMBER.fullmatch(text):
        return int(text)
    found = TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"no time: {text!r}")
    day, hours, minutes, seconds, fraction, zone = found.groups()
    clock = datetime.time(int(hours or 0), int(minutes or 0), int(seconds or 0))
    total_s = clock.hour * 3600 + clock.minute * 60 + clock.second + day_of(day) * 86_400
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset_s = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        total_s -= offset_s if zone[0] == "+" else -offset_s
    return total_s * NS + int((fraction or "").ljust(9, "0"))
