"""Realistic order flow, made up: the same for the same seed, wherever and whenever it runs.

Of all events 55 % are new limit orders, 35 % cancels and 10 % immediate-or-cancel orders that cross
the spread. Prices lie around a middle that drifts in waves; most orders wait a little away from it,
some near the touch, some trade at once. Few symbols get most of the flow (Zipf). What is likely to
be filled is not cancelled and the rest is, so the book keeps its size however long this runs.

`Flow.events` are for `player`; as a mix of `diptych loadtest` (`--mix exchange.flow:Flow`) the same
events are calls, a stream for each connection, all around one market. Knows no sockets, no engine.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from itertools import count

from diptych.loadtest.mix import Call, ResultOf
from exchange.player import Cancel, Event, Place
from exchange.schema import Side, Until

# In the order of how much they are traded.
SYMBOLS: tuple[str, ...] = ("AAPL", "MSFT", "AMZN", "NVDA", "GOOG", "META", "TSLA", "JPM")
SYMBOLS += ("XOM", "V", "PG", "HD", "BAC", "KO", "PFE", "IBM")
NEW_SHARE, CANCEL_SHARE = 0.55, 0.35

TICK = 5
LOT = 10
WAVE_EVENTS = 4_000  # the middle is back where it was after so many events
WAVE_HEIGHT = 0.002  # of the price
CROSSING_SHARE = 0.1  # of the new limit orders
NEAR_TICKS = 7  # orders this near to the middle are left to be filled
DISTANCE_TICKS = 20.0  # mean distance of a waiting order
CANCEL_AFTER = 600  # events that pass before an order is cancelled: its number is known by then

CASH = 10**12
SHARES = 10**7


class Flow:
    """One market's flow. `connection` tells streams apart; all of them agree on the middle.

    `cancel_after`: events that pass before an order may be cancelled. More than a connection has
    calls in flight, so that the order's number is known by then.
    """

    def __init__(
        self,
        seed: int = 7,
        accounts: int = 400,
        symbols: int = len(SYMBOLS),
        cancel_after: int = CANCEL_AFTER,
    ) -> None:
        self.seed = seed
        self.cancel_after = cancel_after
        self.accounts = accounts
        self.symbols = SYMBOLS[:symbols]
        self._weights = [1 / (rank + 1) for rank in range(symbols)]
        self._middles = [self.middles(symbol) for symbol in self.symbols]

    def setup(self) -> Iterator[Call]:
        """List the symbols, open the accounts, and give everybody some of everything."""
        for symbol in self.symbols:
            yield "list_symbol", (symbol, TICK, LOT)
        for account in range(1, self.accounts + 1):
            yield "open_account", (account, CASH)
        for account in range(1, self.accounts + 1):
            for symbol in self.symbols:
                yield "issue_shares", (account, symbol, SHARES)

    def middles(self, symbol: str) -> list[int]:
        """The prices that a symbol's orders lie around, in ticks, for each event of a wave."""
        source = random.Random(f"{self.seed}/middles/{symbol}")
        base, phase = source.randint(400, 8_000), source.random()
        turns = [2 * math.pi * (event / WAVE_EVENTS + phase) for event in range(WAVE_EVENTS)]
        return [
            round(base * (1 + WAVE_HEIGHT * (math.sin(turn) + 0.3 * math.sin(7 * turn))))
            for turn in turns
        ]

    def events(self, connection: int = 0, waiting: list[int] | None = None) -> Iterator[Event]:
        """The stream of one connection, without end; an event's number is its order's key.

        `waiting` is where it keeps the orders that it is going to cancel, oldest first.
        """
        source = random.Random(f"{self.seed}/events/{connection}")
        draw, numbers = source.random, range(len(self.symbols))
        waiting = [] if waiting is None else waiting
        for event in count():
            kind = draw()
            if kind >= 1 - CANCEL_SHARE:
                if waiting and waiting[0] + self.cancel_after <= event:
                    # The oldest half of the time, else any that is old enough.
                    old = bisect_right(waiting, event - self.cancel_after)
                    yield Cancel(waiting.pop(max(0, source.randrange(-old, old))))
                    continue
                kind = 0.0
            symbol = source.choices(numbers, self._weights)[0]
            side = Side.BUY if draw() < 0.5 else Side.SELL
            lots = 1 + int(source.expovariate(0.25))
            account = source.randint(1, self.accounts)
            until = Until.CANCELLED
            if kind >= NEW_SHARE:
                until, lots = Until.NOW, 2 * lots
                away = -source.randint(5, 40)
            elif draw() < CROSSING_SHARE:
                away = -source.randint(0, 6)  # trades at once; what is left over rests
            else:
                away = 1 + int(source.expovariate(1 / DISTANCE_TICKS))
                if away > NEAR_TICKS:
                    waiting.append(event)
            middle = self._middles[symbol][event % WAVE_EVENTS]
            price = max(1, middle - side * away) * TICK
            yield Place(event, account, self.symbols[symbol], side, price, lots * LOT, until)

    def calls(self, connection: int) -> Iterator[Call]:
        """The same stream as calls, one wave long, and at its end every cancel that was still due.

        So it can be sent again and again. An event's key is its number, and so is its call's.
        """
        accounts: dict[int, int] = {}
        to_cancel: list[int] = []
        stream = self.events(connection, to_cancel)
        number = 0
        while number + len(to_cancel) < WAVE_EVENTS - 1:
            event = next(stream)
            if isinstance(event, Place):
                accounts[number] = event.account
                yield "place_order", tuple(event[1:])
            elif isinstance(event, Cancel):
                assert isinstance(event.key, int)
                yield "cancel_order", (accounts[event.key], ResultOf(event.key))
            number += 1
        for key in to_cancel:
            yield "cancel_order", (accounts[key], ResultOf(key))

    def queries(self, connection: int) -> Iterator[Call]:
        """What market watchers ask: mostly the book, now and then everything ever traded."""
        source = random.Random(f"{self.seed}/queries/{connection}")
        while True:
            symbol = source.choices(self.symbols, self._weights)[0]
            kind = source.random()
            if kind < 0.6:
                yield "depth", (symbol, source.choice((Side.BUY, Side.SELL)), 10)
            elif kind < 0.8:
                yield "best", (symbol,)
            elif kind < 0.9:
                yield "last_trades", (symbol, 20)
            else:
                yield "vwap", (symbol,)
