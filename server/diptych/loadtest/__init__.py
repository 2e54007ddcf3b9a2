"""Load on a running server: calls (`mix`) as frames (`cycle`) over sockets (`load`), measured.

One process offers it all and has to be lighter than what it loads: calls are encoded before the
clock starts, replies are split and timed by kernels a whole read at a time, and only refusals are
looked at one by one. `diptych loadtest` is its command line; a program may call `run_load` itself.
"""

from __future__ import annotations

from diptych.loadtest.load import LoadFailed, LoadSettings, Progress, run_load
from diptych.loadtest.mix import Call, Mix, MixError, ResultOf, load_mix, mix_of_texts
from diptych.loadtest.report import OperationReport, Report

__all__ = [
    "Call",
    "LoadFailed",
    "LoadSettings",
    "Mix",
    "MixError",
    "OperationReport",
    "Progress",
    "Report",
    "ResultOf",
    "load_mix",
    "mix_of_texts",
    "run_load",
]
