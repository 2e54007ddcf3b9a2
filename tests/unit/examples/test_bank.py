"""The smallest application, as the README walks through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bank import app
from diptych import Rejected
from diptych.testing import Bench


@pytest.fixture(params=["interpreted"])
def bank(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with app.open(lane=request.param, check=True, setup=True) as bank:
        yield bank


def test_transfer_moves_money(bank: Bench) -> None:
    assert bank.total() == 100_000
    assert bank.transfer(1, 2, 300) == 700
    assert bank.balance(2) == 1_300
    assert bank.total() == 100_000


@pytest.mark.parametrize("amount", [1_001, 0, -5])
def test_transfer_of_what_is_not_there_changes_nothing(bank: Bench, amount: int) -> None:
    before = bank.fingerprint()
    with pytest.raises(Rejected) as no:
        bank.transfer(1, 2, amount)
    assert no.value == Rejected("insufficient_funds", needed=amount, available=1_000)
    assert bank.fingerprint() == before


def test_unknown_account_is_not_found(bank: Bench) -> None:
    with pytest.raises(Rejected) as no:
        bank.transfer(1, 999, 5)
    assert no.value == Rejected("not_found", table="account", key=999)
