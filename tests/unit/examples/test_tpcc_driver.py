"""The driver and the demo, short: they end by themselves and say whether all is well."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from diptych.loadtest import LoadSettings, OperationReport, Report
from diptych.testing import running
from tpcc import Conditions, Scale, __main__, app, driver
from tpcc.loader import population
from tpcc.terminals import DECK

SMALL = ["--items", "200", "--customers", "20", "--connections", "2", "--warmup", "0.1"]


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([*SMALL, "--seconds", "1.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("starting a server")
    assert any("tpmC" in line for line in lines)
    assert {line.split()[0] for line in lines} > set(DECK)
    assert lines[-1].startswith("conditions 1 to 4 hold on ")


def test_the_driver_on_a_server_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with running(app) as server:
        words = [server.address, *SMALL, "--seconds", "0.6", "--json"]
        assert driver.main([*words, "--warehouses", "2"]) == 0
        first = json.loads(capsys.readouterr().out)
        assert driver.main([*words, "--stale"]) == 0
        again = json.loads(capsys.readouterr().out)
    assert first["clean"]
    assert first["loaded_s"] > 0
    assert again["loaded_s"] == 0
    assert again["scale"] == {"warehouses": 2, "items": 200, "customers": 20, "seed": 0}
    assert set(first["operations"]) == set(DECK)
    calls = {name: told["calls"] for name, told in first["operations"].items()}
    assert calls["new_order"] > 20
    assert first["tpmc"] > 0
    assert first["pages_per_transaction"] > 0
    assert first["operations"]["payment"]["latency_us"]["p99"] > 0
    assert first["operations"]["new_order"]["refused"].keys() <= {"item_not_found"}


def test_what_is_watched_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "AUDIT_PAUSE_S", 0.01)
    scale, settings = Scale(1, 200, 20), LoadSettings(connections=1, duration_s=0.3, setup=False)
    loading = len(list(population(scale)))
    with running(app, interval_ms=60_000) as server:
        watched = driver.drive(server.address, scale, settings, watch=True)
    assert len(watched.audit.sequences) > 2
    assert min(watched.audit.sequences) >= loading
    assert watched.clean


def test_no_server_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert driver.main([address, "--seconds", "0.1"]) == 1
    assert "tpcc: " in capsys.readouterr().err


def report(refused: dict[str, dict[str, int]], unanswered: int = 0) -> Report:
    latencies: dict[str, float | None] = dict.fromkeys(driver.PERCENTILES, 1000.0)
    sync = {
        "pages": 50,
        "pages_per_sync": {"p50": 5.0},
        "pause_us": {"p50": 100.0},
    }
    writer: dict[str, Any] = {"writer": {"sequence": 10, "sync": sync}}
    return Report(
        seconds=2.0,
        connections=1,
        in_flight=1,
        rate=None,
        operations=[
            OperationReport(name, "transaction", 100, 90, refused.get(name, {}), 50.0, latencies)
            for name in dict.fromkeys(DECK)
        ],
        transactions_rate=250.0,
        queries_rate=0.0,
        transactions_latency_us=latencies,
        queries_latency_us={},
        unanswered=unanswered,
        late_calls=0,
        lost_connections=0,
        server_before={"writer": {"sequence": 0, "sync": sync | {"pages": 10}}},
        server_after=writer,
    )


def test_what_is_not_well_is_said() -> None:
    good = driver.Audit([1], set(), Conditions([], 1, 1, 1))
    meant = report({"new_order": {"item_not_found": 10}})
    run = driver.Run(Scale(), 0.0, meant, good)
    assert run.clean
    assert run.tpmc == 90 * 30
    assert run.pages_per_transaction == 4.0
    busy = driver.Run(Scale(), 0.0, report({"payment": {"busy": 3}}), good)
    assert (busy.clean, busy.failures) == (False, 3)
    assert "3 calls failed" in list(busy.lines())[-1]
    lost = driver.Run(Scale(), 0.0, report({}, unanswered=1), good)
    assert not lost.clean
    bad = driver.Audit([1, 2], {"lines_are_counted"}, Conditions([], 1, 1, 1))
    broken = driver.Run(Scale(), 0.0, meant, bad)
    assert not broken.clean
    assert any("do not hold: lines_are_counted" in line for line in broken.lines())
    assert broken.as_dict()["conditions_broken"] == ["lines_are_counted"]
    assert not driver.Run(Scale(), 0.0, meant, driver.Audit()).clean
