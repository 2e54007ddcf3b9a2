"""A connection on which many queries are sent in one go, and what each was answered."""

from __future__ import annotations

from typing import Any

import msgpack
from tests.support.wire import Wire, numbers

from diptych.testing import Server
from diptych_client.protocol import Kind, encode_frame


class Burst(Wire):
    """A connection on which many queries are sent at once."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.address)
        welcome = self.greet()
        self.numbers, self.history = numbers(welcome), welcome["history"]
        self.count = 0

    def __enter__(self) -> Burst:
        return self

    def learn(self, *calls: tuple[str, Any]) -> None:
        """Make calls alone, one after another, until they are known to be quick."""
        for name, *arguments in calls * 8:
            self.burst((name, *arguments))

    def burst(self, *calls: Any, at_least: int = 0, history: int = 0) -> list[Any]:
        """Send calls in one go; what each was answered."""
        first = self.count + 1
        frames = []
        for name, *arguments in calls:
            self.count += 1
            frames.append(
                encode_frame(
                    Kind.QUERY,
                    msgpack.packb(arguments),
                    operation=self.numbers.get(name, 999),
                    request=self.count,
                    sequence=at_least,
                    context=history,
                )
            )
        self.send(b"".join(frames))
        return self.answers(first, len(calls))

    def sees_its_own_writes(self) -> None:
        """Assert it, of accounts 11 and 12."""
        for _ in range(30):
            self.call(Kind.TRANSACTION, self.numbers["transfer"], [11, 12, 1])
            header, left = self.frame()
            calls = [("point", 11)] * 5
            found = self.burst(*calls, at_least=header.sequence, history=self.history)
            assert found == [left] * 5

    def answers(self, first: int, count: int) -> list[Any]:
        found: dict[int, Any] = {}
        while len(found) < count:
            header, value = self.frame()
            assert header.request not in found, "answered twice"
            found[header.request] = value["code"] if header.kind == Kind.ERROR else value
        assert sorted(found) == list(range(first, first + count))
        return [found[request] for request in sorted(found)]
