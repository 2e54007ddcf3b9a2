"""The generator: the same for the same seed, and of the mix it promises."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from diptych.loadtest import Mix, ResultOf
from exchange.flow import CANCEL_AFTER, LOT, TICK, WAVE_EVENTS, Flow
from exchange.player import Cancel, Place
from exchange.schema import Until

EVENTS = 30_000


def test_same_seed_same_events() -> None:
    first, again = (list(islice(Flow(seed=3).events(1), 2_000)) for _ in range(2))
    assert first == again
    assert first != list(islice(Flow(seed=4).events(1), 2_000))
    assert first != list(islice(Flow(seed=3).events(2), 2_000))
    # Pinned, so that a change to the flow is a decision: figures of before and after differ.
    assert next(Flow().events()) == Place(0, 171, "MSFT", 1, 34255, 140, 0)


def test_mix_of_kinds() -> None:
    kinds = Counter(
        "cancel" if isinstance(event, Cancel) else Until(event.until).name
        for event in islice(Flow().events(), EVENTS)
        if isinstance(event, Cancel | Place)
    )
    shares = {kind: count / EVENTS for kind, count in kinds.items()}
    assert 0.53 < shares["CANCELLED"] < 0.58
    assert 0.32 < shares["cancel"] < 0.36
    assert 0.09 < shares["NOW"] < 0.11


def test_orders_are_valid_and_skewed() -> None:
    flow = Flow()
    orders = [event for event in islice(flow.events(), EVENTS) if isinstance(event, Place)]
    assert all(order.price % TICK == 0 < order.price for order in orders)
    assert all(order.quantity % LOT == 0 < order.quantity for order in orders)
    assert all(1 <= order.account <= flow.accounts for order in orders)
    traded = Counter(order.symbol for order in orders)
    assert [symbol for symbol, _ in traded.most_common(2)] == list(flow.symbols[:2])
    assert traded[flow.symbols[0]] > 10 * traded[flow.symbols[-1]]


def test_a_cancel_names_an_older_order_once() -> None:
    cancelled = set()
    for number, event in enumerate(islice(Flow().events(), EVENTS)):
        if isinstance(event, Cancel):
            assert isinstance(event.key, int)
            assert event.key <= number - CANCEL_AFTER
            assert event.key not in cancelled
            cancelled.add(event.key)
    assert len(cancelled) > EVENTS // 4


def test_calls_can_be_sent_round_and_round() -> None:
    flow = Flow()
    assert isinstance(flow, Mix)
    calls = list(flow.calls(0))
    assert WAVE_EVENTS - 10 <= len(calls) <= WAVE_EVENTS
    for number, (operation, arguments) in enumerate(calls):
        if operation == "cancel_order":
            account, order = arguments
            assert isinstance(order, ResultOf)
            assert order.call < number
            placed, placed_arguments = calls[order.call]
            assert placed == "place_order"
            assert placed_arguments[0] == account


def test_setup_comes_before_what_needs_it() -> None:
    flow = Flow(accounts=3, symbols=2)
    operations = Counter(operation for operation, _ in flow.setup())
    assert operations == {"list_symbol": 2, "open_account": 3, "issue_shares": 6}
    queries = {operation for operation, _ in islice(flow.queries(0), 200)}
    assert queries == {"depth", "best", "vwap", "last_trades"}
