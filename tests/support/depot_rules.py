"""Helpers of `depot` in a module of their own: compiled along, also without a database."""

from __future__ import annotations

from typing import Any

from diptych import Rejected


def reroute(db: Any, row: Any, target: str) -> None:
    row.depot = target
    place = db.depot.get(target)
    if place is None:
        place = db.depot.insert(code=target)
    place.parcels += 1


def checked(moved: int) -> int:
    return _doubled(moved) - moved if moved < 50 else _sum_to(moved)


def sum_of(numbers: tuple[int, ...]) -> int:
    total = 0
    for number in numbers:
        total += number
    return total


def refuse(how: int) -> None:
    if how > 2:
        raise Rejected("refused", how=how)


def _doubled(number: int) -> int:
    return 2 * number


def _sum_to(number: int) -> int:
    return number if number == 0 else number - number + _sum_to(number - 1)
