"""Loads on a fake server: what is sent, what is counted, and when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count

import pytest
from tests.unit.loadtest.fake_server import HISTORY, FakeServer

from diptych.cli import main
from diptych.loadtest import Call, LoadFailed, LoadSettings, MixError, Progress, ResultOf, run_load
from diptych.loadtest.mix import FunctionMix, mix_of_texts

SHORT = LoadSettings(connections=2, in_flight=4, duration_s=0.3, warmup_s=0.05, cycle_calls=100)


def chained(connection: int) -> Iterator[Call]:
    """Every second call names what the one before it returned."""
    for number in count(step=2):
        yield "take", (number,)
        yield "take", (number, ResultOf(number))


def test_closed_loop_counts_every_call() -> None:
    seen: list[Progress] = []
    settings = LoadSettings(connections=3, in_flight=8, duration_s=1.2, warmup_s=0.1)
    with FakeServer() as server:
        mix = mix_of_texts([("take 1..9", 3), ("refuse", 1), ("fail", 1)])
        report = run_load(server.address, mix, settings, seen.append)
        calls = len(server.calls)
    by_name = {operation.name: operation for operation in report.operations}
    taken, refused, failed = by_name["take"], by_name["refuse"], by_name["fail"]
    assert report.clean
    assert 0 < sum(operation.calls for operation in report.operations) <= calls
    assert taken.calls == taken.results > refused.calls
    assert taken.refused == {}
    assert refused.refused == {"not_now": refused.calls}
    assert failed.refused == {"busy": failed.calls}
    assert taken.latency_us["p50"] is not None
    assert taken.latency_us["p50"] <= taken.latency_us["max"]
    assert report.transactions_rate == pytest.approx(
        sum(operation.calls for operation in report.operations) / report.seconds
    )
    assert [progress.elapsed_s >= 1 for progress in seen][:2] == [False, True]
    assert seen[1].transactions > 0
    assert report.server_after["transactions"] == calls
    assert "not_now" in "\n".join(report.lines())
    assert json.loads(json.dumps(report.as_dict()))["operations"]["take"]["calls"] == taken.calls


def test_results_fill_later_calls() -> None:
    settings = LoadSettings(connections=1, in_flight=1, duration_s=0.2, warmup_s=0, cycle_calls=6)
    with FakeServer() as server:
        run_load(server.address, FunctionMix(chained), settings)
    assert len(server.calls) > 12  # so the cycle went round
    for number, (_, arguments) in enumerate(server.calls):
        if number % 2:
            assert arguments == [server.calls[number - 1][1][0], number + 1_000]


def test_a_result_that_is_not_there_yet_is_zero() -> None:
    settings = LoadSettings(connections=1, in_flight=4, duration_s=0.1, warmup_s=0, cycle_calls=6)
    with FakeServer() as server:
        run_load(server.address, FunctionMix(chained), settings)
    assert server.calls[1][1] == [0, 0]


def test_fixed_rate_sends_on_time_and_counts_from_when_a_call_was_due() -> None:
    settings = LoadSettings(connections=4, in_flight=16, rate=400, duration_s=0.5, warmup_s=0.1)
    with FakeServer() as server:
        report = run_load(server.address, mix_of_texts([("take", 1)]), settings)
    operation = report.operations[0]
    assert report.late_calls == 0
    assert operation.calls == pytest.approx(200, abs=4)


def test_a_server_that_falls_behind_does_not_hide_it() -> None:
    """One call takes 50 ms and 100/s are due: each starts 40 ms later than the one before."""
    settings = LoadSettings(connections=1, in_flight=1, rate=100, duration_s=0.6, warmup_s=0)
    with FakeServer() as server:
        report = run_load(server.address, mix_of_texts([("slow", 1)]), settings)
    slow = report.operations[0]
    assert report.late_calls > 30
    assert slow.latency_us["max"] is not None
    assert slow.latency_us["max"] > 300_000
    assert "fell behind" in "\n".join(report.lines())


def test_fresh_queries_ask_for_what_was_answered() -> None:
    settings = LoadSettings(
        connections=1,
        in_flight=1,
        query_connections=1,
        duration_s=0.3,
        warmup_s=0,
        cycle_calls=10,
        fresh=True,
    )
    with FakeServer() as server:
        report = run_load(server.address, mix_of_texts([("take", 1)], [("read", 1)]), settings)
        reads = [arguments for name, arguments in server.calls if name == "read"]
    asked = [sequence for sequence, _ in reads]
    assert asked == sorted(asked)
    assert asked[-1] > 1
    assert {history for sequence, history in reads if sequence} == {HISTORY}
    assert report.queries_rate > 0


def test_setup_runs_first_and_its_refusals_are_counted() -> None:
    class WithSetup(FunctionMix):
        def setup(self) -> Iterable[Call]:
            for number in range(1_200):
                yield ("refuse" if number % 3 == 0 else "take"), (number,)

    with FakeServer() as server:
        mix = WithSetup(lambda connection: iter([("take", ("load",))]))
        report = run_load(server.address, mix, SHORT)
        assert server.calls[1_199][1] == [1_199]
        assert server.calls[1_200][1] == ["load"]
    assert report.setup == {"ok": 800, "not_now": 400}


def test_a_lost_server_is_reported() -> None:
    settings = LoadSettings(connections=2, in_flight=4, duration_s=5, warmup_s=0)
    with FakeServer(close_after=200) as server:
        mix = FunctionMix(lambda connection: iter([("take", ())]))
        with pytest.raises(LoadFailed):
            run_load(server.address, mix, settings)


def test_loads_that_can_not_run() -> None:
    with FakeServer(in_flight_max=2) as server:
        with pytest.raises(LoadFailed, match="2 calls in flight"):
            run_load(server.address, mix_of_texts([("take", 1)]), SHORT)
        with pytest.raises(MixError, match="absent"):
            run_load(
                server.address,
                mix_of_texts([("absent", 1)]),
                LoadSettings(connections=1, in_flight=1),
            )
    with pytest.raises(LoadFailed, match="refused"):
        run_load(server.address, mix_of_texts([("take", 1)]), SHORT)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server:
        words = [
            "loadtest",
            server.address,
            "--call",
            "take 1",
            "--weight",
            "2",
            "--call",
            "refuse",
        ]
        words += ["--query", "read", "--connections", "2", "--duration", "0.2", "--warmup", "0"]
        assert main([*words, "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert set(figures["operations"]) == {"take", "refuse", "read"}
        assert main(words) == 0
        assert "closed loop" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--mix", "no_such_module:x"], 2),
        ([], 2),
        (["--mix", "a:b", "--call", "take"], 2),
        (["--call", "take"], 1),
    ],
)
def test_command_line_errors(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loadtest", "127.0.0.1:1", *words]) == code
    assert "diptych loadtest: " in capsys.readouterr().err
