"""Addresses and the pauses between attempts."""

from __future__ import annotations

import pytest

from diptych_client.connecting import RETRY_FIRST_S, RETRY_LAST_S, Address, Backoff


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("localhost:7200", "localhost", 7200, "localhost:7200"),
        ("localhost", "localhost", 7171, "localhost:7171"),
        ("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1"),
        ("[::1]:80", "::1", 80, "[::1]:80"),
        ("[::1]", "::1", 7171, "[::1]:7171"),
    ],
)
def test_addresses(text: str, host: str, port: int, shown: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize(
    "text", ["", ":7171", "a:b", "a:70000", "a:1:2", "[::1", "[::1]7171", "a:-1", "a:١"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="an address like"):
        Address.parse(text)


def test_backoff_doubles_up_to_a_bound_and_starts_again() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    pauses = [backoff.next_s() for _ in range(10)]
    assert pauses[:3] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]
    assert pauses[-1] == RETRY_LAST_S
    backoff.reset()
    assert backoff.next_s() == RETRY_FIRST_S


def test_backoff_is_spread() -> None:
    pauses = [Backoff().next_s() for _ in range(50)]
    assert len(set(pauses)) > 1
    assert all(RETRY_FIRST_S / 2 <= pause <= RETRY_FIRST_S for pause in pauses)
