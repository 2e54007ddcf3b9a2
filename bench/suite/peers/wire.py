"""A running system that speaks Diptych's own protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from bench.suite.peers.base import Served

from diptych.loadtest import LoadSettings, Mix, Report, run_load
from diptych.loadtest.cycle import operations_of
from diptych.loadtest.mix import Call
from diptych.loadtest.wire import Wire
from diptych_client import Client, Rejected
from diptych_client.protocol import encode_frame

SETUP_WINDOW = 512


class WireServed(Served):
    """`address` is host:port. To be closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = Client(address, timeout=600)

    def close(self) -> None:
        self.client.close()

    def call(self, name: str, *arguments: Any) -> Any:
        try:
            return self.client.call(name, *arguments)
        except Rejected as no:
            return no.code

    def setup(self, calls: Iterable[Call]) -> None:
        with Wire(self.address) as wire:
            known = operations_of(wire.welcome)
            frames = (
                encode_frame(
                    known[name].kind,
                    msgpack.packb(arguments),
                    operation=known[name].number,
                    request=1,
                )
                for name, arguments in calls
            )
            outcomes = wire.run(frames, SETUP_WINDOW)
        if set(outcomes) != {"ok"}:
            raise RuntimeError(f"setup: {outcomes}")

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        return run_load(self.address, mix, settings)
