"""Realistic order flow, made up: the same for the same seed, wherever and whenever it runs.

Of all events 55 % are new limit orders, 35 % cancels and 10 % immediate-or-cancel orders that cross
the spread. Prices lie around a middle that drifts in waves; most orders wait a little away from it,
some near the touch, some trade at once. Few symbols get most of the flow (Zipf). What is likely to
be filled is not cancelled and the rest is, so the book keeps its size however long this runs.

`Flow.events` are for `player`; as a mix of `diptych loadtest` the same events are calls, a stream for
each connection around one market (`--mix exchange.flow:Flow`). Knows no sockets and no engine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from diptych.loadtest.mix import Call, ResultOf
from exchange.player import Cancel, Event, Place
from exchange.schema import Side, Until

SYMBOLS = tuple(
    "AAPL MSFT AMZN NVDA GOOG META TSLA JPM XOM V PG HD BAC KO PFE IBM".split()
)  # in the order of how much they are traded
NEW_SHARE, CANCEL_SHARE = 0.55, 0.35

TICK = 5
LOT = 10
WAVE_EVENTS = 4_000  # the middle is back where it was after so many events
WAVE_HEIGHT = 0.01  # of the price
NEAR_TICKS = 2  # orders this near to the middle are left to be filled
DISTANCE_TICKS = 9.0  # mean distance of a waiting order
CANCEL_AFTER = 64  # events that pass before an order is cancelled, so that its number is known
WAITING_MAX = 400  # orders that wait to be cancelled, per stream

CASH = 10**12
SHARES = 10**7


class Flow:
    """One market's flow. `connection` tells streams apart; all of them agree on the middle."""

    def __init__(self, seed: int = 7, accounts: int = 400, symbols: int = len(SYMBOLS)) -> None:
        self.seed = seed
        self.accounts = accounts
        self.symbols = SYMBOLS[:symbols]
        self._weights = [1 / (rank + 1) for rank in range(symbols)]

    def setup(self) -> Iterator[Call]:
        """List the symbols, open the accounts, and give everybody some of everything."""
        for symbol in self.symbols:
            yield "list_symbol", (symbol, TICK, LOT)
        for account in range(1, self.accounts + 1):
            yield "open_account", (account, CASH)
        for account in range(1, self.accounts + 1):
            for symbol in self.symbols:
                yield "issue_shares", (account, symbol, SHARES)

    def middle(self, symbol: int, event: int) -> int:
        """The price that the orders of a symbol lie around, in ticks."""
        source = random.Random(f"{self.seed}/middle/{symbol}")
        base, phase = source.randint(400, 8_000), source.random()
        wave = math.sin(2 * math.pi * (event / WAVE_EVENTS + phase))
        ripple = 0.3 * math.sin(2 * math.pi * (7 * event / WAVE_EVENTS + phase))
        return round(base * (1 + WAVE_HEIGHT * (wave + ripple)))

    def events(self, connection: int = 0) -> Iterator[Event]:
        """The stream of one connection, without end."""
        source = random.Random(f"{self.seed}/events/{connection}")
        draw, choice = source.random, source.choices
        middles = [
            [self.middle(symbol, event) for event in range(WAVE_EVENTS)]
            for symbol in range(len(self.symbols))
        ]
        numbers = range(len(self.symbols))
        waiting: list[tuple[int, int]] = []  # (key, event it was placed at)
        event = 0
        while True:
            kind = draw()
            symbol = choice(numbers, self._weights)[0]
            middle = middles[symbol][event % WAVE_EVENTS]
            if kind >= NEW_SHARE and kind < NEW_SHARE + CANCEL_SHARE:
                if waiting and waiting[0][1] + CANCEL_AFTER <= event:
                    # The oldest most often, but now and then one of the younger.
                    old = 0 if draw() < 0.5 else _old_enough(waiting, event, draw())
                    yield Cancel(waiting.pop(old)[0])
                    event += 1
                    continue
                kind = draw() * NEW_SHARE
            side = Side.BUY if draw() < 0.5 else Side.SELL
            lots = 1 + int(source.expovariate(0.25))
            account = source.randint(1, self.accounts)
            until = Until.CANCELLED
            if kind >= NEW_SHARE:
                until = Until.NOW
                away = -source.randint(5, 40)
            elif draw() < 0.12:
                away = -source.randint(0, 6)  # crosses the spread; what is left over rests
            else:
                away = 1 + int(source.expovariate(1 / DISTANCE_TICKS))
                if away > NEAR_TICKS and len(waiting) < WAITING_MAX:
                    waiting.append((event, event))
            price = max(1, middle - side * away) * TICK
            yield Place(event, account, self.symbols[symbol], side, price, lots * LOT, until)
            event += 1

    def calls(self, connection: int) -> Iterator[Call]:
        """The same stream as calls. An event's key is its number, and so is its call's."""
        accounts: dict[int, int] = {}
        for number, event in enumerate(self.events(connection)):
            if isinstance(event, Place):
                accounts[number] = event.account
                yield "place_order", tuple(event[1:])
            elif isinstance(event, Cancel):
                assert isinstance(event.key, int)
                yield "cancel_order", (accounts.pop(event.key), ResultOf(event.key))

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


def _old_enough(waiting: list[tuple[int, int]], event: int, draw: float) -> int:
    """A position in `waiting` whose order is old enough; the list is in order of age."""
    low, high = 0, len(waiting)
    while low < high:
        middle = (low + high) // 2
        if waiting[middle][1] + CANCEL_AFTER <= event:
            low = middle + 1
        else:
            high = middle
    return int(draw * low)
