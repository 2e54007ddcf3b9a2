"""One reader's work without sockets: run queries on images that somebody else writes.

A query runs on the image and epoch it was sent for, and its answer counts only if the image is
still that epoch's when it ends. All numpy views of a query derive from one array; when something
keeps one of them beyond the query, the answer is an error and the process must end before the
image is let go. Rows that it keeps are made stale.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from diptych.app import App, Operation
from diptych.engine.arguments import binder
from diptych.engine.exports import Exports
from diptych.engine.results import failure, packer
from diptych.engine.system import system_queries
from diptych.memory import Region
from diptych.memory.stamp import read_stamp
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.lifetimes import Lifetimes, is_view_kept
from diptych_client.errors import BadArguments, ServerError, UnknownOperation
from diptych_client.protocol import HEADER, Kind


class ImageChanged(Exception):
    """The image was overwritten while a query read it: the answer must not be used. A bug."""


class ViewKept(Exception):
    """Something kept a numpy view beyond its query. `reply` says so; the reader must exit."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("a view was kept after its query")
        self.reply = reply


class Queries:
    """Queries of one application on `images`, all mapped read-only with scratch.

    `exports`: where exports of tables are kept, in a server.
    """

    def __init__(
        self,
        app: App,
        images: Sequence[Region],
        capacities: Mapping[str, int] | None = None,
        exports: Exports | None = None,
    ) -> None:
        layout = layouts.of_app(app, capacities)
        self.app = app
        self.images = list(images)
        self.databases = [Database(layout, image, writable=False) for image in images]
        self._lifetimes = [Lifetimes(db.space, db.tables.values()) for db in self.databases]
        self._packed = packer()
        self._operations: dict[int, tuple[Operation, Callable[[list[Any]], list[Any]]]] = {
            operation.number: (operation, binder(operation))
            for operation in app.operations
            if operation.kind == "query"
        }
        for operation in system_queries(exports):
            self._operations[operation.number] = operation, binder(operation)

    def run(
        self,
        image: int,
        epoch: int,
        sequence: int,
        time_ns: int,
        number: int,
        request: int,
        payload: bytes | memoryview,
    ) -> bytes:
        """Run query `number` on `image` as of `epoch`; the reply frame, with the data's age in us.

        `sequence` and `time_ns` (monotonic): what the image shows, and when it was cut. Errors:
        ImageChanged, ViewKept.
        """
        self.check(image, epoch)
        db = self.databases[image]
        db.sequence, db.now = sequence, db.space.ints[at.NOW]
        kind, answer = self._answer(db, number, payload)
        kept = is_view_kept(db.space)
        if self._lifetimes[image].count() != self._lifetimes[image].alone:
            self._lifetimes[image].end()
        self.check(image, epoch)
        if kept:
            error = ServerError(
                "the query kept a view of the data beyond its end; copy what must outlive it"
            )
            kind, answer = failure(error, "query")
        age_us = max(0, time.monotonic_ns() - time_ns) // 1000
        reply = HEADER.pack(len(answer), kind, 0, number, request, sequence, age_us) + answer
        if kept:
            raise ViewKept(reply)
        return reply

    def _answer(self, db: Database, number: int, payload: bytes | memoryview) -> tuple[int, bytes]:
        name = "?"
        try:
            found = self._operations.get(number)
            if found is None:
                raise UnknownOperation(f"{self.app.name} has no query number {number}")
            operation, bind = found
            name = operation.name
            try:
                values = msgpack.unpackb(payload, strict_map_key=False)
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise BadArguments(f"the payload is not msgpack: {error}") from None
            return Kind.RESULT, self._packed(operation.function(db, *bind(values)))
        except Exception as error:
            answer = failure(error, name)
            # A log handler may keep the error for longer; its frames must not keep our views.
            traceback.clear_frames(error.__traceback__)
            return answer

    def check(self, image: int, epoch: int) -> None:
        """Errors: ImageChanged, unless `image` is that epoch's."""
        stamp = read_stamp(self.images[image])
        if stamp is None or stamp.epoch != epoch:
            raise ImageChanged(f"image {image} is at {stamp}, not at epoch {epoch}")
