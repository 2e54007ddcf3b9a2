"""Tables with a column of each kind, for handlers that are compiled, or refused."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

from diptych import App, data, key, ordered, ref, text

Name = Annotated[str, text(8)]
Tag = Annotated[bytes, data(3)]


class Kind(IntEnum):
    GOOD = 1
    BAD = 2


class Thing:
    id: int = key()
    name: Name = "x"
    kind: Kind = Kind.GOOD
    count: int = 0
    size: float = 0.0
    ready: bool = False
    tag: Tag = b"abc"
    limit: int | None
    title: str = ""
    image: bytes | None
    essay: Annotated[str, text(600)] = "long"
    by_name = ordered("name")


class Part:
    id: int = key(auto=True)
    thing: int = ref(Thing)


class Book:
    id: int = key()
    title: str = "untitled"


def application(function: Callable[..., Any] | None = None) -> App:
    app = App("things")
    app.table(Thing)
    app.table(Part)
    app.table(Book)
    if function is not None:
        app.transaction(function)
    return app
