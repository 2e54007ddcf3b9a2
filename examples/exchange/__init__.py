"""The reference application: an exchange, with a generator of order flow and a player of tapes.

`diptych serve exchange:app` serves it, `python -m exchange.tape [FILE]` plays a tape against it,
`python -m exchange.demo` shows all of it at work, and `exchange.flow:Flow` is its mix for
`diptych loadtest`.
"""

from exchange.app import (
    account,
    best,
    cancel_order,
    deposit,
    depth,
    issue_shares,
    last_trades,
    list_symbol,
    move_order,
    open_account,
    open_orders,
    place_order,
    reduce_order,
    vwap,
    withdraw,
)
from exchange.invariants import conservation
from exchange.schema import (
    Average,
    Conservation,
    Level,
    OpenOrder,
    Placed,
    Position,
    Print,
    Side,
    Statement,
    Tables,
    Until,
    app,
)

__all__ = [
    "Average",
    "Conservation",
    "Level",
    "OpenOrder",
    "Placed",
    "Position",
    "Print",
    "Side",
    "Statement",
    "Tables",
    "Until",
    "account",
    "app",
    "best",
    "cancel_order",
    "conservation",
    "deposit",
    "depth",
    "issue_shares",
    "last_trades",
    "list_symbol",
    "move_order",
    "open_account",
    "open_orders",
    "place_order",
    "reduce_order",
    "vwap",
    "withdraw",
]
