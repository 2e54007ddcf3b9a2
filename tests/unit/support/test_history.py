"""The checker of histories finds each thing that can be wrong, and nothing in what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tests.support.history import Ended, Look, Transfer, Verdict, Violation, Wrong, check
from tests.support.ledger import ACCOUNTS, CASH, MONEY, Entry, Glance

WEIGHTED = sum(range(1, ACCOUNTS + 1)) * CASH
FIRST = 2
"""Number of the first transfer: the setup is 1."""


@dataclass
class Story:
    """Two clients in turn, six transfers of 10 from account 1 to 2, and a query after each."""

    transfers: list[Transfer] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    balances: list[int] = field(default_factory=lambda: [CASH] * ACCOUNTS)

    @classmethod
    def told(cls) -> Story:
        story = cls()
        for turn in range(6):
            client, sequence, now_ns = turn % 2, FIRST + turn, turn * 100
            story.balances[0] -= 10
            story.balances[1] += 10
            entry = Entry(sequence, client, turn, 1, 2, 10, 1_000 + turn)
            story.entries.append(entry)
            story.transfers.append(
                Transfer(client, turn, now_ns, now_ns + 10, Ended.DONE, sequence, story.balances[0])
            )
            seen = Glance(turn + 1, sequence, MONEY, WEIGHTED + (turn + 1) * 10)
            story.looks.append(Look(client, now_ns + 20, now_ns + 30, sequence, seen))
        return story

    def change(self, at: int, **fields: object) -> None:
        self.transfers[at] = self.transfers[at]._replace(**fields)  # type: ignore[arg-type]  # any

    def take_back(self, at: int) -> None:
        """As if a transfer had never run, and every query had known."""
        entry = self.entries.pop(at)
        self.balances[0] += entry.amount
        self.balances[1] -= entry.amount
        for number, each in enumerate(self.transfers):
            if each.sequence > entry.sequence:
                self.change(number, balance=each.balance + entry.amount)
        for number, look in enumerate(self.looks):
            if look.sequence >= entry.sequence:
                count, last = look.seen.count - 1, look.seen.last
                if last == entry.sequence:
                    last = self.entries[at - 1].sequence
                seen = Glance(count, last, MONEY, look.seen.weighted - entry.amount)
                self.looks[number] = look._replace(seen=seen)

    def verdict(self) -> Verdict:
        return check(self.transfers, self.looks, self.entries, self.balances)


def kinds(verdict: Verdict) -> set[Wrong]:
    return {violation.wrong for violation in verdict.violations}


def lost(story: Story) -> None:
    story.take_back(3)


def doubled(story: Story) -> None:
    story.entries.append(story.entries[2]._replace(sequence=20, amount=0, time_ns=5_000))


def moved(story: Story) -> None:
    story.entries[5] = story.entries[5]._replace(sequence=9)
    story.looks.pop()


def ran_anyway(story: Story) -> None:
    story.change(2, ended=Ended.UNDONE, code="disconnected", sequence=0)


def asked_and_ran_anyway(story: Story) -> None:
    story.change(2, ended=Ended.UNKNOWN, asked=Ended.UNDONE, sequence=0)


def asked_and_lost(story: Story) -> None:
    story.change(3, ended=Ended.UNKNOWN, asked=Ended.DONE)
    story.take_back(3)


def asked_and_moved(story: Story) -> None:
    story.change(3, ended=Ended.UNKNOWN, asked=Ended.DONE, sequence=99)


def invented(story: Story) -> None:
    del story.transfers[2]


def out_of_order(story: Story) -> None:
    story.change(1, invoked_ns=450)
    story.looks = []


def unknown_and_out_of_order(story: Story) -> None:
    story.change(1, invoked_ns=450, ended=Ended.UNKNOWN, sequence=0)
    story.looks = []


def before_what_a_query_saw(story: Story) -> None:
    story.change(2, invoked_ns=395, ended=Ended.UNKNOWN, sequence=0)
    story.transfers[3:] = [each._replace(ended_ns=9_000) for each in story.transfers[3:]]
    story.looks = [story.looks[3]]


def unread(story: Story) -> None:
    look = story.looks[4]
    story.looks[4] = look._replace(seen=story.looks[3].seen)


def read_money_that_is_not_there(story: Story) -> None:
    look = story.looks[5]
    story.looks[5] = look._replace(seen=look.seen._replace(money=MONEY + 1))


def read_ahead(story: Story) -> None:
    """What is not yet durable is shown early."""
    story.looks[2] = story.looks[2]._replace(seen=story.looks[3].seen)


def stale(story: Story) -> None:
    """A right answer of long ago."""
    story.looks[5] = story.looks[5]._replace(sequence=4, seen=story.looks[2].seen)


def wrong_balance(story: Story) -> None:
    story.change(4, balance=1)


def wrong_money(story: Story) -> None:
    story.balances[7] += 1


def back_in_time(story: Story) -> None:
    story.entries[3] = story.entries[3]._replace(time_ns=1)


@pytest.mark.parametrize(
    ("break_it", "wrong"),
    [
        (lost, Wrong.LOST),
        (doubled, Wrong.DOUBLED),
        (moved, Wrong.MOVED),
        (ran_anyway, Wrong.RAN_ANYWAY),
        (asked_and_ran_anyway, Wrong.RAN_ANYWAY),
        (asked_and_lost, Wrong.LOST),
        (asked_and_moved, Wrong.MOVED),
        (invented, Wrong.INVENTED),
        (out_of_order, Wrong.ORDER),
        (unknown_and_out_of_order, Wrong.ORDER),
        (before_what_a_query_saw, Wrong.ORDER),
        (unread, Wrong.READ),
        (read_money_that_is_not_there, Wrong.READ),
        (read_ahead, Wrong.READ),
        (stale, Wrong.STALE),
        (wrong_balance, Wrong.BALANCE),
        (wrong_money, Wrong.MONEY),
        (back_in_time, Wrong.TIME),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.name,
)
def test_it_is_found(break_it: Callable[[Story], None], wrong: Wrong) -> None:
    story = Story.told()
    break_it(story)
    verdict = story.verdict()
    assert kinds(verdict) == {wrong}, verdict.lines()
    assert not verdict.well
    assert wrong.value in verdict.lines()[0]


def test_what_is_right_is_right() -> None:
    verdict = Story.told().verdict()
    assert verdict.well, verdict.lines()
    assert verdict.counts == {"done": 6, "looks": 6, "asked": 0}
    assert verdict.slowest_ns == 10


def test_what_is_unknown_may_be_there_or_not() -> None:
    story = Story.told()
    story.change(2, ended=Ended.UNKNOWN, sequence=0, code="outcome_unknown")
    assert story.verdict().well
    story.take_back(2)
    assert story.verdict().well, story.verdict().lines()
    story.change(2, asked=Ended.UNDONE)
    assert story.verdict().well


def test_what_was_asked_about_agrees() -> None:
    story = Story.told()
    story.change(2, ended=Ended.UNKNOWN, asked=Ended.DONE)
    assert story.verdict().well, story.verdict().lines()


def test_calls_at_the_same_time_come_in_any_order() -> None:
    story = Story.told()
    story.looks = []
    for at in range(6):
        story.change(at, invoked_ns=0, ended_ns=1_000)
    story.entries.reverse()
    assert story.verdict().well


def test_what_was_undone_is_not_there() -> None:
    story = Story.told()
    story.transfers.append(Transfer(9, 1, 0, 5, Ended.UNDONE, code="rejected"))
    verdict = story.verdict()
    assert verdict.well
    assert verdict.counts["undone rejected"] == 1


def test_every_kind_has_words() -> None:
    verdict = Verdict([Violation(wrong, "x") for wrong in Wrong], Story.told().verdict().counts, 0)
    assert len(verdict.lines()) == 2 * len(Wrong)
