"""Exports: the rows of some tables as one image shows them, kept in a file until somebody has them.

`begin` runs as a query and writes the rows to a file in a directory that all readers share (see
`store.spool`); `part`, in any reader, gives pieces of it. The image is let go of at once, however
slow the client is. Files that nobody has read from for `expiry_s` are removed by the next `begin`,
and all together they may have `bytes_max`. Whoever made the directory removes it at its end.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.errors import did_you_mean
from diptych.store.database import Database
from diptych.store.spool import spool, spool_bytes
from diptych.store.tables import TableView
from diptych_client.errors import BadArguments, Rejected

PART_BYTES = 2 << 20
TOKEN = re.compile(r"[0-9a-f]{16}")
TOKEN_BYTES = 8


@dataclass(frozen=True)
class Exports:
    """The exports in `directory`. `bytes_max`: of all of them together."""

    directory: Path
    bytes_max: int
    expiry_s: float
    now_s: Callable[[], float] = time.time

    def begin(self, db: Database, tables: list[str]) -> dict[str, Any]:
        """Write the tables' rows to a file. Errors: BadArguments, Rejected `export_too_large`."""
        views = [self._table(db, name) for name in tables]
        in_use = self._expire()
        bytes_wanted = sum(spool_bytes(view) for view in views)
        if in_use + bytes_wanted > self.bytes_max:
            raise Rejected(
                "export_too_large", bytes=bytes_wanted, in_use=in_use, limit=self.bytes_max
            )
        token = secrets.token_hex(TOKEN_BYTES)
        path = self._path(token)
        partial = path.with_suffix(".partial")
        try:
            with open(partial, "wb", opener=_private) as file:
                told = [spool(view, file) for view in views]
                size_bytes = file.tell()
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return {"token": token, "bytes": size_bytes, "sequence": db.sequence, "tables": told}

    def part(self, token: str, offset: int) -> bytes:
        """Bytes from `offset` on; none at the end. Errors: Rejected `export_expired`."""
        if offset < 0:
            raise BadArguments("offset must be 0 or more", "offset")
        try:
            with self._path(token).open("rb") as file:
                now_s = self.now_s()
                os.utime(file.fileno(), (now_s, now_s))
                return os.pread(file.fileno(), PART_BYTES, offset)
        except FileNotFoundError:
            raise Rejected("export_expired", token=token) from None

    def end(self, token: str) -> bool:
        """Remove an export; whether there was one."""
        try:
            self._path(token).unlink()
        except FileNotFoundError:
            return False
        return True

    def _table(self, db: Database, name: str) -> TableView:
        if name not in db.tables:
            known = did_you_mean(name, db.tables)
            raise BadArguments(f"there is no table {name!r}{known}", "tables")
        return db.tables[name]

    def _path(self, token: str) -> Path:
        # What a client sends must not become a path of its choice.
        if not TOKEN.fullmatch(token):
            raise Rejected("export_expired", token=token)
        return self.directory / f"{token}.export"

    def _expire(self) -> int:
        """Remove what is too old; bytes of the rest."""
        in_use = 0
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime < self.now_s() - self.expiry_s:
                    path.unlink()
                else:
                    in_use += found.st_size
        return in_use


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
