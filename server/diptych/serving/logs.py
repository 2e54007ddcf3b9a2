"""Log lines on stderr: who says what, for people or, one JSON object a line, for machines.

Every process of a server calls `configure` once, after it began. Lines are written whole, in one
write, so that those of several processes do not mix.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any


def configure(role: str, log_format: str) -> None:
    """Send this process's log to stderr, as `text` or `json`. `role`: what names it."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    stderr = _Descriptor(2)
    stderr.setFormatter(_Json(role) if log_format == "json" else _Text(role))
    root.addHandler(stderr)
    root.setLevel(logging.WARNING)
    logging.getLogger("diptych").setLevel(logging.INFO)


class _Descriptor(logging.Handler):
    """Writes to a descriptor: what `sys.stderr` was in a parent process means nothing here."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self.descriptor, (self.format(record) + "\n").encode(errors="replace"))
        except OSError:
            # Nobody reads the log any more; there is nowhere to say so.
            return


class _Text(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        head = f"{clock}.{int(record.msecs):03d} {self.role}[{os.getpid()}] "
        text = head + level + record.getMessage()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "role": self.role,
            "pid": os.getpid(),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
