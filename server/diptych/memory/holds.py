"""Who may still be looking at which image: an image is overwritten only when nobody may.

A hold names its holder, the image and the epoch, so that a late "I have left image 0", meant for an
earlier epoch, cannot release the image that carries number 0 now. A hold ends when its holder says
so, or when the holder is gone together with every process that mapped the image for it; the caller
knows when that is. Holders of an earlier life, of which nothing is known yet, hold everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeAlias

Holder: TypeAlias = int | str


class Hold(NamedTuple):
    holder: Holder
    image: int
    epoch: int


class Holds:
    """All holds on the images of one mirror. `unknown` holders were there before it was."""

    def __init__(self, unknown: Iterable[Holder] = ()) -> None:
        self._holds: set[Hold] = set()
        self._unknown = set(unknown)

    @property
    def unknown(self) -> frozenset[Holder]:
        """Holders that have not said yet what they hold: until then every image counts as held."""
        return frozenset(self._unknown)

    def acquire(self, holder: Holder, image: int, epoch: int) -> None:
        self._holds.add(Hold(holder, image, epoch))

    def release(self, holder: Holder, image: int, epoch: int) -> bool:
        """End this very hold; False, and no change, if there is none such."""
        hold = Hold(holder, image, epoch)
        if hold not in self._holds:
            return False
        self._holds.remove(hold)
        return True

    def answered(self, holder: Holder, held: Iterable[tuple[int, int]]) -> None:
        """`holder` says what it holds, all of it, as (image, epoch)."""
        self.drop_holder(holder)
        for image, epoch in held:
            self.acquire(holder, image, epoch)

    def drop_holder(self, holder: Holder) -> None:
        """`holder` is gone, and so is every process that looked at images for it."""
        self._unknown.discard(holder)
        self._holds = {hold for hold in self._holds if hold.holder != holder}

    def held(self, image: int) -> bool:
        return bool(self._unknown) or any(hold.image == image for hold in self._holds)

    def oldest(self, *, besides: int = -1, exempt: Collection[Holder] = ()) -> Hold | None:
        """The hold on the earliest epoch, of images other than `besides` and those that a holder
        who is `exempt` holds as well.
        """
        left_out = {besides} | {hold.image for hold in self._holds if hold.holder in exempt}
        candidates = [hold for hold in self._holds if hold.image not in left_out]
        return min(candidates, key=lambda hold: hold.epoch, default=None)

    def holders_of(self, image: int, epoch: int) -> list[Holder]:
        held = (hold.holder for hold in self._holds if hold[1:] == (image, epoch))
        return sorted(held, key=str)
