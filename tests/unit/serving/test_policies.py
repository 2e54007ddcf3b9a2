"""The small decisions: when children start again, what waits for a writer, what HELLO may say."""

from __future__ import annotations

import json
import logging
import os

import msgpack
import pytest
from tests.support.trouble import app

from diptych.config import Limits
from diptych.engine.system import (
    OUTCOME,
    OUTCOME_OF_KEY,
    SESSION_OPEN,
    SESSIONS_TOUCH,
    SYSTEM_FIRST,
)
from diptych.serving import channel
from diptych.serving.channel import Hold, Image, Internal, Run, Writer
from diptych.serving.children import (
    PAUSE_READY_MAX_S,
    START_FAILURES_MAX,
    WINDOW_S,
    RestartPolicy,
    ending,
)
from diptych.serving.control import Control
from diptych.serving.figures import Counts
from diptych.serving.logs import configure
from diptych.serving.welcome import Greeter, Hello, read_hello
from diptych_client.errors import ProtocolError
from diptych_client.protocol import Header, Kind, encode_frame


def test_a_child_that_was_ready_starts_again_at_once_then_after_pauses() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause_s("writer", ready=True, now=0.1 * i) for i in range(8)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_READY_MAX_S
    assert policy.pause_s("gateway", ready=True, now=1) == 0
    assert policy.pause_s("writer", ready=True, now=100) == 0


def test_children_that_die_at_their_start_end_the_server() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause_s("writer", ready=False, now=i) for i in range(START_FAILURES_MAX)]
    assert None not in pauses[:-1]
    assert pauses[-1] is None
    assert policy.pause_s("writer", ready=False, now=2 * WINDOW_S) is not None


@pytest.mark.parametrize(
    "message", [Image(1, 2, 3, 4, 2**62, 5), Run(1, 2, 3, 4, 5), Writer(3, 2**62)]
)
def test_messages_are_read_as_they_were_written(message: Image | Run | Writer) -> None:
    frame = message.frame()
    assert type(message).read(memoryview(frame)) == message
    assert Header.read(frame).context == 0


def test_holds_and_numbers_travel_in_headers() -> None:
    frame = Hold(2, 77).frame(Internal.RELEASED)
    assert Header.read(frame).kind == Internal.RELEASED
    assert Hold.read(frame) == Hold(2, 77)
    assert channel.read_holds(channel.holds({Hold(1, 5), Hold(2, 6)})) in (
        [(1, 5), (2, 6)],
        [(2, 6), (1, 5)],
    )
    assert Header.read(channel.wanted(9)).sequence == 9


def test_a_running_time_travels_beside_the_age() -> None:
    frame = encode_frame(Kind.RESULT, b"x", request=4, sequence=5, context=123)
    header = Header.read(channel.with_run_time(frame, 456))
    assert header.context & channel.AGE_US_MAX == 123
    assert header.context >> channel.RUN_US_SHIFT == 456
    assert (header.request, header.sequence, header.length) == (4, 5, 1)
    huge = Header.read(channel.with_run_time(encode_frame(17, context=2**63), 2**40))
    assert huge.context == 2**64 - 1


def hello(payload: object) -> memoryview:
    return memoryview(encode_frame(Kind.HELLO, msgpack.packb(payload)))


def test_hello_says_who_and_what_is_known() -> None:
    assert read_hello(hello({})) == Hello("", None, None, None)
    said = {"client": "c" * 500, "token": "t", "fingerprint": b"f", "identity": bytes(16)}
    assert read_hello(hello(said)) == Hello("c" * 200, "t", b"f", bytes(16))


@pytest.mark.parametrize(
    "frame",
    [
        hello([]),
        hello({"client": 1}),
        hello({"token": b"x"}),
        hello({"fingerprint": "x"}),
        hello({"identity": "x" * 16}),
        hello({"identity": bytes(15)}),
        memoryview(encode_frame(Kind.PING)),
        memoryview(encode_frame(Kind.HELLO, b"\xc1")),
        memoryview(encode_frame(Kind.HELLO, b"\x81")),
    ],
)
def test_another_hello_is_refused(frame: memoryview) -> None:
    with pytest.raises(ProtocolError):
        read_hello(frame)


def test_welcome_leaves_out_what_the_client_has() -> None:
    greeter = Greeter(app, Limits(query_ms=5))

    def welcome(fingerprint: bytes | None) -> dict[str, object]:
        known = Hello("", None, fingerprint, None)
        told = msgpack.unpackb(greeter.welcome(known, session=3, history=4, sequence=5))
        return dict(told)

    told = welcome(None)
    assert (told["app"], told["session"], told["history"], told["sequence"]) == ("trouble", 3, 4, 5)
    assert isinstance(told["operations"], list)
    assert told["fingerprint"] == app.fingerprint
    assert welcome(b"other")["operations"] == told["operations"]
    assert welcome(app.fingerprint)["operations"] is None
    assert greeter.kinds[app.operation("transfer").number] == Kind.TRANSACTION
    assert greeter.kinds[app.operation("total").number] == Kind.QUERY


def test_what_only_gateways_call_is_no_operation_of_clients() -> None:
    kinds = Greeter(app, Limits()).kinds
    assert kinds[OUTCOME] == kinds[OUTCOME_OF_KEY] == Kind.TRANSACTION
    assert kinds[SESSION_OPEN] == kinds[SESSIONS_TOUCH] == 0
    assert kinds[SYSTEM_FIRST] == Kind.TRANSACTION


def test_control_carries_messages_and_descriptors() -> None:
    ours, theirs = Control.pair()
    read_end, write_end = os.pipe()
    assert ours.send({"do": "a"}, write_end)
    assert ours.send({"do": "b"})
    (first, second), alive = theirs.receive()
    assert (first["do"], second, alive) == ("a", {"do": "b"}, True)
    os.close(write_end)
    os.write(first["descriptor"], b"!")
    assert os.read(read_end, 1) == b"!"
    assert not os.get_inheritable(first["descriptor"])
    os.close(first["descriptor"])
    os.close(read_end)
    ours.send({"do": "last"})
    ours.close()
    assert theirs.receive() == ([{"do": "last"}], False)
    assert not theirs.send({"do": "nothing"})
    theirs.close()


def test_every_ending_has_words() -> None:
    assert [ending(code) for code in (0, 3, -9, -40)] == [
        "exit code 0",
        "exit code 3",
        "signal SIGKILL",
        "signal 40",
    ]


def test_percentiles_of_nothing_are_zero() -> None:
    counts = Counts()
    assert counts.staleness_us() == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    for age_us in range(101):
        counts.query(Kind.RESULT, age_us, 2 * age_us)
    assert counts.staleness_us()["p90"] == 90
    assert counts.query_time_us()["p90"] == 180
    counts.several(300, 2, 1, age_us=50, run_us=1)
    assert counts.staleness_us() == pytest.approx(
        {"p50": 50.0, "p90": 59.7, "p99": 95.97, "max": 100.0}
    )
    assert (counts.queries, counts.query_rejected, counts.query_errors) == (401, 2, 1)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("diptych")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    try:
        configure("writer", log_format)
        try:
            raise LookupError("cause")
        except LookupError:
            ours.warning("it happened", exc_info=True)
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
    said = capfd.readouterr().err
    if log_format == "json":
        line = json.loads(said)
        assert (line["role"], line["level"], line["message"]) == (
            "writer",
            "warning",
            "it happened",
        )
        assert "LookupError: cause" in line["traceback"]
    else:
        assert f"writer[{os.getpid()}] warning: it happened\nTraceback" in said
