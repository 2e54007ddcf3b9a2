"""Kill a server's processes by a seeded schedule, under load, and prove that nobody was lied to.

`Soak` serves the ledger with a data directory and a load of clients that write down what they saw.
At random moments it kills a process (or the supervisor, and with it everything, and starts the
server again), or freezes one for a while. Now and then, and at the end, all histories are held
against what the server has (`history`), also after a cold start and after one in order, and the
files are checked by `diptych check`.

A kill counts only when the process is seen to be gone. Errors: KillFailed when a fault could not be
made to happen or the server did not come back; nothing of that kind is ever passed over.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from tests.support.history import Verdict, Wrong, check
from tests.support.ledger import app, table_of
from tests.support.ledger_load import ROOT, Histories, Load, is_patient
from tests.support.wire import alive, wait_until

from diptych.serving.local import Server, start
from diptych_client.errors import DiptychError

GONE_S = 20.0
"""How long a process may take to be gone, or to be there again."""
ANSWER_S = 30.0
PAUSE_S = 0.25
"""From a server that answers again to the next fault, on average."""
FROZEN_S = (0.05, 1.2)
SERVER = "supervisor"
EXPECTED = ("", "insufficient_funds", "server_error")
"""What a transfer of the ledger ends with when nothing is wrong."""
SETTINGS: dict[str, Any] = {
    # So small that segments roll, and checkpoints are written, all the time.
    "segment_bytes": 1 << 18,
    "checkpoint_interval_s": 2,
    "checkpoint_after_bytes": 1 << 20,
    "checkpoint_bytes_s": 4 << 20,
    "interval_ms": 2,
}


class KillFailed(Exception):
    """A fault did not happen, or the server did not get over it."""


class Way(Enum):
    KILL = "killed"
    FREEZE = "frozen"


@dataclass(frozen=True)
class Fault:
    """`pause_s`: before it. `seconds`: that the process is frozen. `which`: of several, at random.

    `patient`: whether the server gets to answer before the next one.
    """

    role: str
    way: Way
    pause_s: float
    seconds: float
    which: float
    patient: bool

    @property
    def name(self) -> str:
        return f"{self.role} {self.way.value}"


ROLES = {"writer": 30, "gateway": 20, "reader": 20, "checkpointer": 15, SERVER: 15}
FREEZE_SHARE = 0.15
AT_ONCE_SHARE = 0.1


def schedule(kills: int, seed: int, roles: dict[str, int] = ROLES) -> Iterator[Fault]:
    """Faults, so many of them kills. The same for the same seed."""
    chance = random.Random(seed)
    while kills:
        role = chance.choices(list(roles), list(roles.values()))[0]
        way = Way.FREEZE if chance.random() < FREEZE_SHARE else Way.KILL
        yield Fault(
            role,
            way,
            chance.expovariate(1 / PAUSE_S),
            chance.uniform(*FROZEN_S),
            chance.random(),
            chance.random() >= AT_ONCE_SHARE,
        )
        kills -= way is Way.KILL


@dataclass
class Report:
    """What happened. `faults`: by role and way; `counts`: of calls, see `history`.

    `wrong`: how much of each kind a check found at most. `silences_s`: from each fault to the next
    answers, by role.
    """

    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    silences_s: dict[str, list[float]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    checks: int = 0
    slowest_ns: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.faults.items() if name.endswith(Way.KILL.value))

    @property
    def well(self) -> bool:
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self)) | {"kills": self.kills, "well": self.well}

    def lines(self) -> Iterator[str]:
        yield f"{self.kills} kills in {self.seconds:.0f} s, {self.checks} checks"
        yield "  " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        yield "calls, by how they ended:"
        for name, count in sorted(self.counts.items()):
            yield f"  {name}: {count:,}"
        if self.errors:
            told = ", ".join(f"{name} {count}" for name, count in sorted(self.errors.items()))
            yield f"errors of queries and of questions: {told}"
        yield f"slowest call: {self.slowest_ns / 1e9:.2f} s"
        for name, silences in sorted(self.silences_s.items()):
            middle, longest = statistics.median(silences), max(silences)
            yield f"  to the next answers, {name}: {middle:.2f} s, at most {longest:.2f} s"
        yield f"acknowledged: {self.counts['done']:,}; of transfers were " + ", ".join(
            f"{wrong.name.lower()} {self.wrong[wrong.name]}" for wrong in Wrong
        )
        yield "violations: none" if self.well else f"VIOLATIONS: {len(self.violations)}"
        yield from self.violations


class Soak:
    """One run. `say` is told what is going on."""

    def __init__(
        self,
        data: Path,
        *,
        kills: int,
        seed: int,
        clients: int = 20,
        check_every: int = 100,
        roles: dict[str, int] = ROLES,
        say: Callable[[str], None] = lambda text: None,
        **settings: Any,
    ) -> None:
        self.data = data
        self.seed = seed
        self.clients = clients
        self.check_every = check_every
        self.report = Report()
        self._faults = schedule(kills, seed, roles)
        self._settings = SETTINGS | settings
        self._seen = Histories()
        self._clients_made = 0
        self._say = say
        self._address = "127.0.0.1:0"
        self.server: Server

    def run(self) -> Report:
        """All faults and all checks. Errors: KillFailed, RuntimeError when a start fails."""
        began = time.monotonic()
        self._start()
        try:
            more = True
            while more:
                more = self._stretch()
                self._hold_against("under way" if more else "at the end")
            self._kill_all()
            self._start()
            self._hold_against("after a cold start")
            self._stop()
            self._check_files()
            self._start()
            self._hold_against("after a start in order")
            self._stop()
            self._check_files()
        finally:
            self.server.close()
            self.report.seconds = time.monotonic() - began
        return self.report

    # Faults.

    def _stretch(self) -> bool:
        """Faults under one load, up to the next check. Whether there are more afterwards."""
        first = self._clients_made + 1
        self._clients_made += self.clients
        load = Load(self._address, range(first, first + self.clients), self.seed)
        try:
            made = 0
            for fault in islice(self._faults, self.check_every):
                time.sleep(fault.pause_s)
                self._make(fault)
                made += 1
                if fault.patient:
                    began = time.monotonic()
                    self._answers()
                    silences_s = self.report.silences_s.setdefault(fault.name, [])
                    silences_s.append(time.monotonic() - began)
            self._answers()
        except BaseException:
            load.kill()
            raise
        self._seen.add(load.stop())
        return made == self.check_every

    def _make(self, fault: Fault) -> None:
        self.report.faults[fault.name] += 1
        self._say(f"{fault.name}, {self.report.kills} kills")
        if fault.role == SERVER and fault.way is Way.KILL:
            self._kill_all()
            self._start()
            return
        pid, pidfd = self._process(fault)
        try:
            if fault.way is Way.KILL:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not select.select([pidfd], [], [], GONE_S)[0]:
                    raise KillFailed(f"{fault.role} {pid} lives")
            else:
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                time.sleep(fault.seconds)
                # The server may have replaced it: that is how it gets over it.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        finally:
            os.close(pidfd)

    def _process(self, fault: Fault) -> tuple[int, int]:
        """A process of that role, which is the server's child for certain: its pid and pidfd."""
        if fault.role == SERVER:
            return self.server.pid, os.pidfd_open(self.server.pid)
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            pids = self.server.pids.get(fault.role, [])
            if pids:
                pid = pids[int(fault.which * len(pids))]
                with contextlib.suppress(ProcessLookupError):
                    pidfd = os.pidfd_open(pid)
                    if parent_of(pid) == self.server.pid:
                        return pid, pidfd
                    os.close(pidfd)
            time.sleep(0.005)
        raise KillFailed(f"there is no {fault.role}\n{self.server.log()}")

    def _kill_all(self) -> None:
        pids = [pid for role in self.server.pids.values() for pid in role]
        self.server.signal(signal.SIGKILL)
        if self.server.wait() != -signal.SIGKILL:
            raise KillFailed(f"the server ended with {self.server.exit_code}")
        wait_until(lambda: not any(alive(pid) for pid in pids), GONE_S)
        self.server.close()

    def _start(self) -> None:
        self.server = start(app, data=self.data, listen=[self._address], **self._settings)
        self._address = self.server.address

    def _stop(self) -> None:
        code, told = self.server.stop(), self.server.log()
        self.server.close()
        if code != 0:
            self.report.violations.append(f"a stop in order: code {code}\n{told}")

    def _answers(self) -> None:
        """Wait until transactions and queries are answered."""
        try:
            with self.server.client(timeout=ANSWER_S) as client:
                client.linger(0)
                client.glance()
        except DiptychError as error:
            raise KillFailed(f"no answers: {error!r}\n{self.server.log()}") from error

    # Checks.

    def _hold_against(self, when: str) -> None:
        """All that any client saw, so far, against what is there now."""
        self._say(f"checking {when}")
        with self.server.client(timeout=ANSWER_S) as client:
            entries, balances = table_of(client)
        verdict = check(self._seen.transfers, self._seen.looks, entries, balances)
        self.report.checks += 1
        self._take(verdict, when)

    def _take(self, verdict: Verdict, when: str) -> None:
        report = self.report
        report.counts, report.slowest_ns = verdict.counts, verdict.slowest_ns
        report.errors = self._seen.errors
        for wrong in Wrong:
            report.wrong[wrong.name] = max(report.wrong[wrong.name], len(verdict.of(wrong)))
        report.violations += [f"{when}: {line}" for line in verdict.lines()]
        failed = Counter(
            each.code
            for each in self._seen.transfers
            if is_patient(each.client) and each.code not in EXPECTED
        )
        if failed:
            report.violations.append(f"{when}: calls of patient clients failed: {dict(failed)}")
        changed = [name for name in self._seen.errors if "history_changed" in name]
        if changed:
            report.violations.append(f"{when}: nothing is lost, and yet: {changed}")

    def _check_files(self) -> None:
        """Structures, invariants and checksums, by the command that an operator would use."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "diptych.cli", "check", "tests.support.ledger:app"),
                *("--data", str(self.data)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        self.report.checks += 1
        if done.returncode != 0:
            self.report.violations.append(f"diptych check: {done.stdout}{done.stderr}")


def parent_of(pid: int) -> int:
    """0 when there is no such process any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[1])
