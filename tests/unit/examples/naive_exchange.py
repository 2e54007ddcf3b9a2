"""The exchange again, as slowly and plainly as possible: dicts, lists and sorting at every step.

Written from the rules of the documentation and not from the example's code, to be compared with it.
Refuses with (code,) where the example raises Rejected with that code.
"""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    pass


class NaiveExchange:
    def __init__(self) -> None:
        self.markets: dict[str, tuple[int, int]] = {}
        self.cash: dict[int, int] = {}
        self.shares: dict[tuple[int, str], int] = {}
        self.orders: dict[int, dict[str, Any]] = {}
        self.trades: list[tuple[str, int, int, int, int]] = []
        self.numbers = 0

    def reserved_cash(self, account: int) -> int:
        return sum(
            order["price"] * order["open"]
            for order in self.orders.values()
            if order["account"] == account and order["side"] == 1
        )

    def reserved_shares(self, account: int, symbol: str) -> int:
        return sum(
            order["open"]
            for order in self.orders.values()
            if (order["account"], order["symbol"], order["side"]) == (account, symbol, -1)
        )

    def book(self, symbol: str, side: int) -> list[tuple[int, dict[str, Any]]]:
        """Open orders of one side, best price first and older before younger."""
        chosen = [
            (number, order)
            for number, order in self.orders.items()
            if order["symbol"] == symbol and order["side"] == side
        ]
        return sorted(chosen, key=lambda item: (-side * item[1]["price"], item[0]))

    def levels(self, symbol: str, side: int, count: int) -> list[tuple[int, int]]:
        sums: dict[int, int] = {}
        for _, order in self.book(symbol, side):
            sums[order["price"]] = sums.get(order["price"], 0) + order["open"]
        return list(sums.items())[:count]

    def place_order(
        self, account: int, symbol: str, side: int, price: int, quantity: int, until: int = 0
    ) -> tuple[int, int]:
        if symbol not in self.markets:
            raise Refused("unknown_symbol")
        tick, lot = self.markets[symbol]
        if price % tick:
            raise Refused("bad_price")
        if quantity % lot:
            raise Refused("bad_quantity")
        if account not in self.cash:
            raise Refused("unknown_account")
        if side == 1 and self.cash[account] - self.reserved_cash(account) < price * quantity:
            raise Refused("insufficient_funds")
        held = self.shares.get((account, symbol), 0)
        if side == -1 and held - self.reserved_shares(account, symbol) < quantity:
            raise Refused("insufficient_shares")
        matches = []
        rest = quantity
        for number, order in self.book(symbol, -side):
            if rest == 0 or side * order["price"] > side * price:
                break
            matches.append((number, order, min(rest, order["open"])))
            rest -= matches[-1][2]
        if until == 2 and rest:
            raise Refused("not_filled")
        for number, order, fill in matches:
            buyer, seller = (
                (account, order["account"]) if side == 1 else (order["account"], account)
            )
            self.cash[buyer] -= order["price"] * fill
            self.cash[seller] += order["price"] * fill
            self.shares[buyer, symbol] = self.shares.get((buyer, symbol), 0) + fill
            self.shares[seller, symbol] -= fill
            self.trades.append((symbol, order["price"], fill, buyer, seller))
            order["open"] -= fill
            if order["open"] == 0:
                del self.orders[number]
        if rest == 0 or until != 0:
            return 0, quantity - rest
        self.numbers += 1
        self.orders[self.numbers] = {
            "account": account,
            "symbol": symbol,
            "side": side,
            "price": price,
            "open": rest,
        }
        return self.numbers, quantity - rest

    def own(self, account: int, order: int) -> dict[str, Any]:
        if order not in self.orders:
            raise Refused("unknown_order")
        if self.orders[order]["account"] != account:
            raise Refused("not_yours")
        return self.orders[order]

    def cancel_order(self, account: int, order: int) -> int:
        rest: int = self.own(account, order)["open"]
        del self.orders[order]
        return rest

    def reduce_order(self, account: int, order: int, quantity: int) -> int:
        row = self.own(account, order)
        if quantity > row["open"] or quantity % self.markets[row["symbol"]][1]:
            raise Refused("bad_quantity")
        row["open"] -= quantity
        if row["open"] == 0:
            del self.orders[order]
        rest: int = row["open"]
        return rest

    def move_order(
        self, account: int, order: int, price: int, reserve: int | None = None
    ) -> tuple[int, int]:
        row = self.own(account, order)
        side = row["side"]
        if reserve is not None and side * price > side * reserve:
            raise Refused("beyond_reserve")
        del self.orders[order]
        try:
            return self.place_order(account, row["symbol"], side, price, row["open"])
        except Refused:
            self.orders[order] = row
            raise
