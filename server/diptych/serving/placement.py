"""Where a process runs: on which processors, and how far it gives way to others.

A child takes its place right after the fork, and so does every replacement. What is not configured
is as the supervisor has it: nice values count from its own, as those of the command `nice` do.
Whether places can be taken is tried before the first fork, so that a server either starts as it is
configured or says why not. Later the machine may have changed: a child that can't take its place
any more says so and runs elsewhere, since a server that is slow is better than none.

Knows nothing of what the processes do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from diptych.config import Processes
from diptych.errors import ConfigurationError

log = logging.getLogger("diptych.serving")

ROLES = ("writer", "gateway", "reader", "checkpointer")
NICE_MIN = -20


@dataclass(frozen=True)
class Place:
    """`cpus`: none for those of the parent; `nice`: added to the parent's."""

    cpus: tuple[int, ...] = ()
    nice: int = 0

    def take(self) -> None:
        """Move this process there, as far as the machine lets it."""
        try:
            if self.cpus:
                os.sched_setaffinity(0, self.cpus)
            if self.nice:
                os.nice(self.nice)
        except OSError as error:
            log.error("can't run on %s, so elsewhere: %s", self, error.strerror)

    def __str__(self) -> str:
        where = f"processors {cpus_as_text(self.cpus)}" if self.cpus else "any processor"
        return f"{where} at nice {self.nice:+d}"


@dataclass(frozen=True)
class Processors:
    """What the machine has (`count`, numbered from 0), and which of them this process may use."""

    count: int = field(default_factory=lambda: os.sysconf("SC_NPROCESSORS_CONF"))
    usable: tuple[int, ...] = field(default_factory=lambda: tuple(sorted(os.sched_getaffinity(0))))


def place_of(role: str, settings: Processes) -> Place:
    return Place(getattr(settings, f"{role}_cpus"), getattr(settings, f"{role}_nice"))


def as_figures(settings: Processes) -> dict[str, Any]:
    """Every role's place as configured, for INFO."""
    places = {role: place_of(role, settings) for role in ROLES}
    return {role: {"cpus": list(at.cpus), "nice": at.nice} for role, at in places.items()}


def configured(settings: Processes) -> list[str]:
    """The places that are not the usual ones, in words, a text a role."""
    places = {role: place_of(role, settings) for role in ROLES}
    return [f"{role} on {at}" for role, at in places.items() if at != place_of(role, Processes())]


def problems(settings: Processes, processors: Processors | None = None) -> list[str]:
    """What this process's children could not do here, each with its setting and the cure."""
    processors = processors or Processors()
    found = []
    for role in ROLES:
        place = place_of(role, settings)
        missing = [cpu for cpu in place.cpus if cpu >= processors.count]
        barred = set(place.cpus) - set(processors.usable) - set(missing)
        if missing:
            found.append(
                f"processes.{role}_cpus: there is no processor {cpus_as_text(missing)}: this "
                f"machine has 0 to {processors.count - 1}"
            )
        if barred:
            found.append(
                f"processes.{role}_cpus: processor {cpus_as_text(barred)} can't be used here, only "
                f"{cpus_as_text(processors.usable)}: name one of these, or widen what the server "
                "gets (taskset, a container's --cpuset-cpus, systemd's AllowedCPUs)"
            )
        if not may_be_nice(place.nice):
            found.append(
                f"processes.{role}_nice: this user may not have {place.nice}, below the server's "
                f"own: make it 0 or more, or allow it (systemd LimitNICE={place.nice}, a "
                "container's --cap-add SYS_NICE, or the nice limit of limits.conf)"
            )
    return found


def check(settings: Processes) -> None:
    """Errors: ConfigurationError, when the places can't be taken here."""
    found = problems(settings)
    if found:
        raise ConfigurationError("; ".join(found))


def may_be_nice(nice: int) -> bool:
    """Whether this thread may change its nice value by so much: tried for a moment."""
    if nice >= 0:
        return True
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE_MIN, before + nice))
    except PermissionError:
        return False
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return True


def cpus_as_text(cpus: Iterable[int]) -> str:
    """Numbers of processors for people: 0, 4-7."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
