"""What clients saw, held against what the server has: is anything lost, doubled or out of order?

Clients of the ledger record each call: when it was invoked, when it ended, and how. `check` is
given those histories and the whole table of what ran, and proves that the two fit: all transfers
happened once or not at all, as their clients were told, one after another in an order that agrees
with real time; each query saw exactly those before its own number. It trusts nothing that the
server says of itself, and knows no server: times are CLOCK_MONOTONIC of one machine, in ns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tests.support.ledger import ACCOUNTS, CASH, MONEY, Entry, Glance

SHOWN = 3


class Ended(Enum):
    DONE = "done"  # it ran, and this is its answer
    UNDONE = "undone"  # it left nothing behind: rejected, failed, or never begun
    UNKNOWN = "unknown"  # either


class Transfer(NamedTuple):
    """One transfer as its client saw it.

    `sequence`, `balance`: of the answer, when there is one. `code`: of the error, else "".
    `asked`: what became of an unknown one when its client asked; None: it did not ask, or got no
    answer. DONE then comes with `sequence` and `balance`, too.
    """

    client: int
    number: int
    invoked_ns: int
    ended_ns: int
    ended: Ended
    sequence: int = 0
    balance: int = 0
    code: str = ""
    asked: Ended | None = None


class Look(NamedTuple):
    """One query: `sequence` is the number that its answer belongs to."""

    client: int
    invoked_ns: int
    ended_ns: int
    sequence: int
    seen: Glance


class Wrong(Enum):
    """What can be wrong."""

    LOST = "a transfer that was acknowledged is not there"
    DOUBLED = "a transfer is there more than once"
    MOVED = "a transfer is there under another number than its client was told"
    RAN_ANYWAY = "a transfer is there that its client was told had not run"
    INVENTED = "a transfer is there that nobody sent"
    ORDER = "a transfer began after another call had ended, and comes before it"
    READ = "a query saw something else than all before its number"
    STALE = "a query did not see what its client had been told before"
    BALANCE = "a transfer's answer is not what those before it make"
    MONEY = "the accounts are not what the transfers make"
    TIME = "time went back"


class Violation(NamedTuple):
    wrong: Wrong
    what: str


@dataclass
class Verdict:
    """What `check` found. `counts`: of calls, by how they ended; `slowest_ns`: the longest call."""

    violations: list[Violation]
    counts: Counter[str]
    slowest_ns: int

    @property
    def well(self) -> bool:
        return not self.violations

    def of(self, wrong: Wrong) -> list[str]:
        return [violation.what for violation in self.violations if violation.wrong is wrong]

    def lines(self) -> list[str]:
        """The first violations of each kind, in words."""
        lines = []
        for wrong in Wrong:
            found = self.of(wrong)
            if found:
                lines.append(f"{len(found)} x {wrong.value}:")
                lines += [f"  {what}" for what in found[:SHOWN]]
        return lines


def check(
    transfers: Sequence[Transfer],
    looks: Sequence[Look],
    entries: Iterable[Entry],
    balances: Sequence[int],
) -> Verdict:
    """Hold histories against the table of what ran, and the accounts' balances.

    `transfers` must have every one that was ever sent to this server.
    """
    ran = sorted(entries)
    violations = [
        *_presence(transfers, ran),
        *_answers(transfers, looks, ran, balances),
        *_real_time(transfers, looks, ran),
        *_own_reads(transfers, looks),
    ]
    counts = Counter(f"{each.ended.value} {each.code}".strip() for each in transfers)
    counts["looks"] = len(looks)
    counts["asked"] = sum(each.asked is not None for each in transfers)
    ended = [each.ended_ns - each.invoked_ns for each in (*transfers, *looks)]
    return Verdict(violations, counts, max(ended, default=0))


def _presence(transfers: Sequence[Transfer], ran: Sequence[Entry]) -> Iterable[Violation]:
    """Each is there as often, and under the number, that its client may believe."""
    there: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for entry in ran:
        there[entry.client, entry.number].append(entry.sequence)
    sent = set()
    for each in transfers:
        name = each.client, each.number
        sent.add(name)
        found = there.get(name, [])
        if len(found) > 1:
            yield Violation(Wrong.DOUBLED, f"{each}: as {found}")
        known = each.ended if each.asked is None else each.asked
        if known is Ended.DONE and not found:
            yield Violation(Wrong.LOST, f"{each}")
        elif known is Ended.DONE and each.sequence not in found:
            yield Violation(Wrong.MOVED, f"{each}: as {found}")
        elif known is Ended.UNDONE and found:
            yield Violation(Wrong.RAN_ANYWAY, f"{each}: as {found}")
    for name in there.keys() - sent:
        yield Violation(Wrong.INVENTED, f"client {name[0]}, number {name[1]}: as {there[name]}")


def _answers(
    transfers: Sequence[Transfer],
    looks: Sequence[Look],
    ran: Sequence[Entry],
    balances: Sequence[int],
) -> Iterable[Violation]:
    """Run it all again in the order of numbers, and compare each answer, each query, the end."""
    told = {each.sequence: each for each in transfers if each.sequence}
    waiting = sorted(looks, key=lambda look: look.sequence, reverse=True)
    cash = dict.fromkeys(range(1, ACCOUNTS + 1), CASH)
    seen = Glance(0, 0, MONEY, sum(number * CASH for number in cash))
    last_ns = 0
    for entry in ran:
        while waiting and waiting[-1].sequence < entry.sequence:
            yield from _compared(waiting.pop(), seen)
        cash[entry.source] -= entry.amount
        cash[entry.target] += entry.amount
        weighted = seen.weighted + (entry.target - entry.source) * entry.amount
        seen = Glance(seen.count + 1, entry.sequence, MONEY, weighted)
        answer = told.get(entry.sequence)
        mine = answer is not None and (answer.client, answer.number) == (entry.client, entry.number)
        if answer is not None and mine and answer.balance != cash[entry.source]:
            yield Violation(Wrong.BALANCE, f"{answer}: it should be {cash[entry.source]}")
        if entry.time_ns < last_ns:
            yield Violation(Wrong.TIME, f"{entry} is {last_ns - entry.time_ns} ns before the last")
        last_ns = entry.time_ns
    while waiting:
        yield from _compared(waiting.pop(), seen)
    if list(balances) != list(cash.values()):
        yield Violation(Wrong.MONEY, f"they are {list(balances)}, and should be {cash}")


def _compared(look: Look, seen: Glance) -> Iterable[Violation]:
    if look.seen != seen:
        yield Violation(Wrong.READ, f"{look}: it should be {seen}")


def _real_time(
    transfers: Sequence[Transfer], looks: Sequence[Look], ran: Sequence[Entry]
) -> Iterable[Violation]:
    """What began after something had ended comes after it.

    A transfer that ran counts from when it was sent, also when its client never heard of it. It
    counts as ended when its answer came. A query counts as ended only: what it saw had happened.
    """
    number_of = {(entry.client, entry.number): entry.sequence for entry in ran}
    begun = sorted(
        (each.invoked_ns, number, each)
        for each in transfers
        if (number := number_of.get((each.client, each.number)))
    )
    ended = sorted(
        [(each.ended_ns, each.sequence) for each in transfers if each.ended is Ended.DONE]
        + [(look.ended_ns, look.sequence) for look in looks],
        reverse=True,
    )
    highest = 0
    for invoked_ns, number, each in begun:
        while ended and ended[-1][0] < invoked_ns:
            highest = max(highest, ended.pop()[1])
        if number <= highest:
            yield Violation(Wrong.ORDER, f"{each}: as {number}, after {highest} had ended")


def _own_reads(transfers: Sequence[Transfer], looks: Sequence[Look]) -> Iterable[Violation]:
    """A client's queries see its own transfers, and what its queries saw before."""
    ended: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for each in transfers:
        if each.ended is Ended.DONE:
            ended[each.client].append((each.ended_ns, each.sequence))
    for look in looks:
        ended[look.client].append((look.ended_ns, look.sequence))
    for known in ended.values():
        known.sort(reverse=True)
    highest: Counter[int] = Counter()
    for look in sorted(looks, key=lambda look: look.invoked_ns):
        known = ended[look.client]
        while known and known[-1][0] < look.invoked_ns:
            highest[look.client] = max(highest[look.client], known.pop()[1])
        if look.sequence < highest[look.client]:
            yield Violation(Wrong.STALE, f"{look}: {highest[look.client]} had been told before")
