"""Sessions, answers and keys against plain dicts: random callers who retry, are late, leave gaps,
ask what became of it and come back after days.

The ranges are tiny, so that rings wrap and tables fill up. The same frames in other pieces, and on
a copy of the region, must leave the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.once import NUMBERS, SMALL, Rig, frame, keyed, replayed, told

from diptych_client.protocol import HEADER_BYTES, Header, Kind

DAY_NS = 24 * 3600 * 1_000_000_000
WINDOW = 1024
ENTRY_BYTES = 40
LONG_BYTES = SMALL["ANSWERS_BYTES"] // 4 - ENTRY_BYTES  # what the small ring still takes
INLINE_BYTES = 88
CALLERS = ("", "ann")


def error(code: str) -> tuple[str, str]:
    return "ERROR", code


@dataclass
class Answer:
    """`value` as `told` has it; `operation` -1: the frame's own. `spot`: in the ring, or 0."""

    value: Any
    sequence: int
    operation: int
    asked: Any = None  # what was asked; None: burnt, which fits everything
    spot: int = 0
    time_ns: int = 0


@dataclass
class Session:
    identity: int
    caller: str
    used_ns: int
    top: int = 0
    answered: dict[int, Answer] = field(default_factory=dict)


class Model:
    """What should happen to each frame, one after another."""

    def __init__(self, ring_bytes: int = SMALL["ANSWERS_BYTES"]) -> None:
        self.ring_bytes = ring_bytes
        self.answer_bytes_max = min(1 << 20, ring_bytes // 4 - ENTRY_BYTES)
        self.sequence = 0
        self.now_ns = 0
        self.rows: list[str] = []
        self.slots: list[int] = []
        self.sessions: dict[int, Session] = {}
        self.keys: dict[tuple[str, str], Answer] = {}
        self.key_times: list[tuple[int, tuple[str, str]]] = []
        self.head = 8

    def refused(self, code: str) -> Answer:
        return Answer(error(code), self.sequence, -1)

    # The ring.

    def place(self, size_bytes: int) -> int:
        ring = self.ring_bytes
        size = ENTRY_BYTES + -(-size_bytes // 8) * 8
        if self.head % ring + size > ring:
            self.head += ring - self.head % ring
        spot, self.head = self.head, self.head + size
        return spot

    def kept(self, answer: Answer) -> bool:
        return not answer.spot or answer.spot >= self.head - self.ring_bytes

    # Sessions.

    def open(self, identity: int, caller: str) -> Answer:
        for number, known in self.sessions.items():
            if (known.identity, known.caller) == (identity, caller):
                known.used_ns = self.now_ns
                return Answer(number, self.sequence, 0)
        if len(self.slots) < SMALL["SESSIONS_MAX"]:
            slot = len(self.slots)
            self.slots.append(0)
        else:
            used = [self.sessions[number].used_ns for number in self.slots]
            slot = used.index(min(used))
            if self.now_ns - used[slot] <= DAY_NS:
                return self.refused("busy")
            del self.sessions[self.slots[slot]]
        number = self.slots[slot] = self.sequence << 20 | slot
        self.sessions[number] = Session(identity, caller, self.now_ns)
        return Answer(number, self.sequence, 0)

    def touch(self, sessions: list[int]) -> Answer:
        for number in sessions:
            if number in self.sessions:
                self.sessions[number].used_ns = self.now_ns
        return Answer(None, self.sequence, 0)

    # Handlers.

    def too_large(self, size: int) -> int:
        """Bytes of the error that says so."""
        told = f"the result has {size:,} bytes; {self.answer_bytes_max:,} at most can be sent"
        return len(msgpack.packb({"code": "result_too_large", "message": told}))

    def execute(self, name: str, arguments: tuple[Any, ...], caller: str) -> tuple[Any, int]:
        """Value, and bytes of its payload."""
        if name == "put":
            self.rows.append(arguments[0])
            return len(self.rows), len(msgpack.packb(len(self.rows)))
        if name == "refuse":
            value = "REJECTED", "refused"
            return value, len(msgpack.packb(["refused", {"why": arguments[0]}]))
        if name == "who":
            return caller, len(msgpack.packb(caller))
        size = len(msgpack.packb(arguments[0] * arguments[1]))
        if size > self.answer_bytes_max:
            return error("result_too_large"), self.too_large(size)
        self.rows.append(arguments[0])
        return arguments[0] * arguments[1], size

    # Requests.

    def look_up(self, session: int, request: int) -> Answer | None:
        known = self.sessions[session]
        if request < 1:
            return self.refused("bad_arguments")
        if request <= known.top - WINDOW:
            return self.refused("outcome_forgotten")
        answer = known.answered.get(request)
        if answer is not None and not self.kept(answer):
            return self.refused("outcome_forgotten")
        return answer

    def remember(self, session: int, request: int, answer: Answer, size_bytes: int) -> Answer:
        known = self.sessions[session]
        answer.spot = self.place(size_bytes)
        known.answered[request] = answer
        known.top, known.used_ns = max(known.top, request), self.now_ns
        return answer

    def call(self, session: int, request: int, name: str, arguments: tuple[Any, ...]) -> Answer:
        if session not in self.sessions:
            return self.refused("session_expired")
        known = self.look_up(session, request)
        asked = (name, arguments)
        if known is not None:
            conflict = known.spot and known.asked not in (None, asked)
            return self.refused("identity_conflict") if conflict else known
        value, size = self.execute(name, arguments, self.sessions[session].caller)
        answer = Answer(value, self.sequence, NUMBERS[name], asked)
        return self.remember(session, request, answer, size)

    def outcome(self, asker: int, session: int, request: int) -> Answer:
        if session not in self.sessions:
            return self.refused("session_expired")
        caller = self.sessions[asker].caller if asker in self.sessions else ""
        if caller != self.sessions[session].caller:
            return self.refused("forbidden")
        known = self.look_up(session, request)
        if known is not None:
            return known
        burnt = Answer(error("not_executed"), self.sequence, NUMBERS["outcome"])
        return self.remember(session, request, burnt, BURNT_BYTES)

    # Keys.

    def forget_keys(self) -> None:
        for _ in range(4):
            if not self.key_times or self.now_ns - self.key_times[0][0] <= DAY_NS:
                break
            time_ns, name = self.key_times.pop(0)
            if self.keys[name].time_ns == time_ns:
                del self.keys[name]

    def key(self, name: tuple[str, str]) -> Answer | None:
        known = self.keys.get(name)
        if known is not None and self.now_ns - known.time_ns <= DAY_NS:
            return known if self.kept(known) else self.refused("outcome_forgotten")
        self.forget_keys()
        return self.refused("busy") if len(self.key_times) >= SMALL["KEYS_MAX"] else None

    def remember_key(self, name: tuple[str, str], answer: Answer, size_bytes: int) -> Answer:
        self.forget_keys()
        answer.spot = self.place(size_bytes) if size_bytes > INLINE_BYTES else 0
        answer.time_ns = self.now_ns
        self.keys[name] = answer
        self.key_times.append((self.now_ns, name))
        return answer

    def keyed(self, session: int, key: str, name: str, arguments: tuple[Any, ...]) -> Answer:
        if session and session not in self.sessions:
            return self.refused("session_expired")
        caller = self.sessions[session].caller if session else ""
        known = self.keys.get((caller, key))
        asked = (name, arguments)
        found = self.key((caller, key))
        if found is not None:
            # Whether it is another call is told before whether its answer is kept.
            live = known is not None and self.now_ns - known.time_ns <= DAY_NS
            if live and known is not None and known.asked not in (None, asked):
                return self.refused("identity_conflict")
            return found
        value, size = self.execute(name, arguments, caller)
        answer = Answer(value, self.sequence, NUMBERS[name], asked)
        return self.remember_key((caller, key), answer, size)

    def outcome_of_key(self, asker: int, key: str) -> Answer:
        caller = self.sessions[asker].caller if asker in self.sessions else ""
        found = self.key((caller, key))
        if found is not None:
            return found
        burnt = Answer(error("not_executed"), self.sequence, NUMBERS["outcome_of_key"])
        return self.remember_key((caller, key), burnt, BURNT_BYTES)


BURNT_BYTES = len(
    msgpack.packb({"code": "not_executed", "message": "it did not run, and never will"})
)


class Callers:
    """Draws what callers do next, and what should come of it."""

    def __init__(self, draws: random.Random, model: Model) -> None:
        self.draws, self.model = draws, model
        self.known: list[int] = [0, 5 << 20]
        self.sent: list[tuple[int, int, str, tuple[Any, ...]]] = []
        self.keys_sent: list[tuple[int, str, str, tuple[Any, ...]]] = []
        self.next: dict[int, int] = {}

    def step(self) -> tuple[bytes, Answer]:
        self.model.sequence += 1
        kinds = ["open", "call", "retry", "keyed", "key_retry", "outcome", "of_key", "touch"]
        kind = self.draws.choices(kinds, [2, 10, 6, 3, 3, 3, 1, 1])[0]
        made: tuple[bytes, Answer] = getattr(self, kind)()
        return made

    def session(self) -> int:
        return self.draws.choice(self.known[-6:])

    def request(self, session: int) -> int:
        top = self.next.get(session, 0)
        drawn = self.draws.random()
        if drawn < 0.75:
            number = top + 1
        elif drawn < 0.9:
            number = max(0, top + self.draws.randint(-8, 8))
        else:
            number = max(0, top + self.draws.choice([-WINDOW, 1 - WINDOW, WINDOW, 400, 2_000]))
        self.next[session] = max(top, number)
        return number

    def handler(self) -> tuple[str, tuple[Any, ...]]:
        text = self.draws.choice("abc")
        return self.draws.choice(
            [
                ("put", (text,)),
                ("put", (text,)),
                ("refuse", (text,)),
                ("who", ()),
                ("repeat", (text, self.draws.choice([5, 86, 87, 300, LONG_BYTES, 981]))),
            ]
        )

    def open(self) -> tuple[bytes, Answer]:
        identity, caller = self.draws.randrange(5), self.draws.choice(CALLERS)
        answer = self.model.open(identity, caller)
        if isinstance(answer.value, int):
            self.known.append(answer.value)
        made = frame("session_open", identity.to_bytes(16, "little"), caller)
        return made, answer

    def touch(self) -> tuple[bytes, Answer]:
        sessions = [self.session(), self.session()]
        return frame("sessions_touch", sessions), self.model.touch(sessions)

    def call(self) -> tuple[bytes, Answer]:
        session = self.session() or self.known[-1]
        return self._call(session, self.request(session), *self.handler())

    def retry(self) -> tuple[bytes, Answer]:
        if not self.sent:
            return self.call()
        recent = self.sent[-12:] if self.draws.random() < 0.8 else self.sent
        return self._call(*self.draws.choice(recent))

    def _call(
        self, session: int, request: int, name: str, arguments: tuple[Any, ...]
    ) -> tuple[bytes, Answer]:
        self.sent.append((session, request, name, arguments))
        made = frame(name, *arguments, session=session, request=request)
        return made, self.model.call(session, request, name, arguments)

    def keyed(self) -> tuple[bytes, Answer]:
        key = self.draws.choice("klmnopqrstuv")
        return self._keyed(self.session(), key, *self.handler())

    def key_retry(self) -> tuple[bytes, Answer]:
        if not self.keys_sent:
            return self.keyed()
        return self._keyed(*self.draws.choice(self.keys_sent[-12:]))

    def _keyed(
        self, session: int, key: str, name: str, arguments: tuple[Any, ...]
    ) -> tuple[bytes, Answer]:
        self.keys_sent.append((session, key, name, arguments))
        made = keyed(name, key, *arguments, session=session)
        return made, self.model.keyed(session, key, name, arguments)

    def outcome(self) -> tuple[bytes, Answer]:
        asker, session = self.session(), self.session()
        request = self.request(session)
        made = frame("outcome", session, request, session=asker)
        return made, self.model.outcome(asker, session, request)

    def of_key(self) -> tuple[bytes, Answer]:
        asker, key = self.session(), self.draws.choice("klmnopqrstuv")
        return frame("outcome_of_key", key, session=asker), self.model.outcome_of_key(asker, key)


def batches(
    seed: int, steps: int, model: Model
) -> Iterator[tuple[int, list[tuple[bytes, Answer]]]]:
    """Frames that come together, with the time and what should be answered."""
    draws = random.Random(seed)
    callers = Callers(draws, model)
    while steps > 0:
        model.now_ns += draws.choice([0, 1_000, 1_000, 1_000, DAY_NS // 3, DAY_NS + 1])
        count = min(steps, draws.choice([1, 2, 5, 40]))
        steps -= count
        yield model.now_ns, [callers.step() for _ in range(count)]


def in_pieces(rig: Rig, time_ns: int, frames: list[bytes], draws: random.Random) -> None:
    """The same as `rig.run`, as a writer does it that looks at the clock in between."""
    data = np.frombuffer(b"".join(frames), np.uint8)
    starts = np.cumsum([0, *map(len, frames)])
    rig.engine.begin(time_ns)
    at = 0
    while at < len(frames):
        stop = draws.randint(at + 1, len(frames))
        deadline_ns = draws.choice([0, 1 << 62])  # 0: after the first one
        at += rig.engine.run(data, starts, at, stop, deadline_ns)
    rig.engine.replies.clear()


def run_one(seed: int, steps: int, ring_bytes: int = SMALL["ANSWERS_BYTES"]) -> None:
    chosen = SMALL | {"ANSWERS_BYTES": ring_bytes}
    model, rig, pieces = Model(ring_bytes), Rig(**chosen), Rig(**chosen)
    draws = random.Random(seed)
    copy, copied = rig.copy(), 0
    for time_ns, batch in batches(seed, steps, model):
        replies = rig.run(*[each for each, _ in batch], time_ns=time_ns)
        for (header, value), (made, answer) in zip(replies, batch, strict=True):
            sent = Header.read(made)
            shown = f"{sent} {made[HEADER_BYTES:]!r}"
            assert told(header, value) == answer.value, shown
            assert header.sequence == answer.sequence, shown
            asked = sent.operation in (NUMBERS["outcome"], NUMBERS["outcome_of_key"])
            operation = answer.operation if asked and answer.operation >= 0 else sent.operation
            assert header.operation == operation, shown
        assert rig.rows() == model.rows
        in_pieces(pieces, time_ns, rig.log[-1][1], draws)
        assert pieces.engine.outcome == rig.engine.outcome
        if draws.random() < 0.2:
            copy.region.close()
            copy, copied = rig.copy(), len(rig.log)
    rig.engine.verify()
    assert pieces.memory() == rig.memory()
    assert replayed(copy, rig.log[copied:]).memory() == rig.memory()
    for each in (rig, pieces, copy):
        each.close()


@pytest.mark.parametrize("seed", range(12))
def test_callers_who_try_again(seed: int) -> None:
    run_one(seed, 400)


@pytest.mark.parametrize("seed", range(3))
def test_a_ring_that_has_not_all_of_its_memory(seed: int) -> None:
    run_one(seed, 400, ring_bytes=4 << 20)


@given(st.integers(0, 2**32), st.integers(1, 120))
@settings(max_examples=20, deadline=None)
def test_callers_who_try_again_drawn(seed: int, steps: int) -> None:
    run_one(seed, steps)


def test_the_draws_reach_what_matters() -> None:
    """A model that never sees a full table or a ring written over proves nothing."""
    seen: set[Any] = set()
    for seed in range(12):
        for _, batch in batches(seed, 400, Model()):
            seen |= {answer.value for _, answer in batch if isinstance(answer.value, tuple)}
    codes = {code for kind, code in seen if kind == "ERROR"}
    assert codes == {
        "busy",
        "bad_arguments",
        "forbidden",
        "identity_conflict",
        "not_executed",
        "outcome_forgotten",
        "result_too_large",
        "session_expired",
    }
    assert Kind.REJECTED.name in {kind for kind, _ in seen}
