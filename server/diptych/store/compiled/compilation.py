"""What belongs to one application while it is compiled: functions, and numbers of its rejections.

Numbers in machine code begin with 0 in each application and mean nothing to another one. So nothing
that has them may be shared, and functions are compiled anew for each, too. One application is
compiled at a time: Numba's compiler has one lock, and the hooks that it calls get no arguments of
ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FunctionType, TracebackType
from typing import Any

from numba.core.compiler_lock import global_compiler_lock


@dataclass(frozen=True)
class Site:
    """A `raise Rejected` as it was written: its literal code and the names of its details."""

    code: str
    names: tuple[str, ...]


@dataclass
class Compilation:
    """A context manager. `rejections`: by number, how each is written as MessagePack;
    `dispatchers`: what Numba compiles in place of plain functions.
    """

    dispatchers: dict[FunctionType, Any] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    rejections: list[list[int]] = field(default_factory=list)

    def site_number(self, site: Site) -> int:
        """The number under which `refuse` is told a site."""
        return _number(self.sites, site)

    def rejection_number(self, program: list[int]) -> int:
        """The number that compiled code leaves for a rejection with this program."""
        return _number(self.rejections, program)

    def __enter__(self) -> Compilation:
        global_compiler_lock.acquire()
        _running.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _running.remove(self)
        global_compiler_lock.release()


_running: list[Compilation] = []


def running() -> Compilation:
    """The application that is compiled now."""
    return _running[-1]


def _number(known: list[Any], each: Any) -> int:
    if each not in known:
        known.append(each)
    return known.index(each)
