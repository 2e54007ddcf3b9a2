"""`diptych doctor`: what works on this machine, what the data will cost, and what to change.

Everything is tried, not looked up: each way of tracking by a real write, locking by a real lock,
the cost of a sync by real syncs of a small region. Needs no application and no server; where
processes would run is looked at as a file and the environment configure it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from diptych.config import Processes, load
from diptych.errors import ConfigurationError
from diptych.memory import Preference, machine
from diptych.memory.measure import SyncCost, SyncMeasurement
from diptych.serving import placement

HELP = "say what works on this machine, what it costs, and what to change"

GIB = 1 << 30
MIB = 1 << 20
MEASURED_BYTES = 64 * MIB
MEASURED_PAGES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-gib", type=_size_gib, default=1.0, metavar="X", help="GiB of tables (default: 1)"
    )
    parser.add_argument(
        "--images", type=_count, default=3, metavar="K", help="images of the mirror (default: 3)"
    )
    parser.add_argument(
        "--readers", type=_count, default=2, metavar="N", help="reader processes (default: 2)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="look at the places of processes in it"
    )
    parser.add_argument(
        "--no-measure", action="store_true", help="do not measure what a sync costs here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


@dataclass(frozen=True, slots=True)
class Report:
    host: machine.Host
    ways: list[machine.Way]
    tracker: str  # what `auto` takes; "" when nothing works
    locking: machine.Locking
    limits: machine.MemoryLimits
    data_bytes: int
    images: int
    readers: int
    cost_bytes: int
    sync: SyncCost | None
    processors: placement.Processors
    places: list[str]  # of processes, as configured; none: all as usual
    place_problems: list[str]

    @property
    def fits(self) -> bool:
        return self.cost_bytes <= self.limits.usable_bytes

    @property
    def lock_fits(self) -> bool:
        limit = self.locking.limit_bytes
        root = self.host.user == 0
        return self.locking.works and (root or limit is None or limit >= self.cost_bytes)


def run(arguments: argparse.Namespace) -> int:
    try:
        processes = load(arguments.config).processes
    except ConfigurationError as error:
        print(f"diptych doctor: {error}", file=sys.stderr)
        return 2
    log = logging.getLogger("diptych.memory")
    level = log.level
    # The reasons are part of the report; the log would say them again in between.
    log.setLevel(logging.CRITICAL)
    try:
        report = examine(
            data_bytes=round(arguments.data_gib * GIB),
            images=arguments.images,
            readers=arguments.readers,
            measured_bytes=0 if arguments.no_measure else MEASURED_BYTES,
            processes=processes,
        )
    finally:
        log.setLevel(level)
    if arguments.json:
        content = asdict(report) | {"fits": report.fits, "advice": advice(report)}
        print(json.dumps(content, indent=2))
    else:
        print("\n".join(lines(report)))
    return 0 if report.tracker else 1


def examine(
    data_bytes: int, images: int, readers: int, measured_bytes: int, processes: Processes
) -> Report:
    """Probe the machine; `measured_bytes` is the size to measure syncs with, 0 for none."""
    ways = machine.ways_of_tracking()
    working = [way.name for way in ways if way.works]
    tracker = working[0].partition(",")[0] if working else ""
    sync = None
    if measured_bytes and tracker:
        prefer: Preference = "kernel" if tracker == "kernel" else "compare"
        with SyncMeasurement(measured_bytes, tracker=prefer) as measurement:
            sync = measurement.run(MEASURED_PAGES, rounds=20)
    processors = placement.Processors()
    return Report(
        host=machine.host(),
        ways=ways,
        tracker=tracker,
        locking=machine.locking(),
        limits=machine.memory_limits(),
        data_bytes=data_bytes,
        images=images,
        readers=readers,
        cost_bytes=machine.data_cost_bytes(data_bytes, images, readers),
        sync=sync,
        processors=processors,
        places=placement.configured(processes),
        place_problems=placement.problems(processes, processors),
    )


def lines(report: Report) -> list[str]:
    """The report for people."""
    host, limits = report.host, report.limits
    result = [f"Linux {host.kernel} on {host.machine}, pages of {host.page_bytes} bytes"]
    result += ["", "Tracking of written pages"]
    for way in report.ways:
        verdict = "works" if way.works else f"does not work: {way.reason}"
        result.append(f"  {way.name}: {verdict}")
    result.append(f"  taken by default: {report.tracker or 'none, Diptych cannot run here'}")
    result += ["", "Locking memory"]
    if report.locking.works:
        limit = _size(report.locking.limit_bytes)
        result.append(f"  works, limit {limit}{'' if report.lock_fits else ': less than needed'}")
    else:
        result.append(f"  does not work: {report.locking.reason}")
    result += [
        "",
        f"Memory for {_size(report.data_bytes)} of tables, {report.images} images, "
        f"{report.readers} readers",
        f"  needed: {_size(report.cost_bytes)}, page tables included",
        f"  available: {_size(limits.available_bytes)}, "
        f"limit of the control group: {_size(limits.group_limit_bytes)}",
        f"  {'enough' if report.fits else 'not enough'}",
    ]
    result += ["", *_place_lines(report)]
    if report.sync is not None:
        result += ["", *_sync_lines(report.sync)]
    suggestions = advice(report)
    result += ["", "What to change" if suggestions else "Nothing needs to be changed."]
    result += [f"  - {suggestion}" for suggestion in suggestions]
    return result


def advice(report: Report) -> list[str]:
    """What to change, most important first; empty when all is well."""
    result = []
    if report.tracker != "kernel":
        result += _tracking_advice(report.host)
    if not report.fits:
        usable = report.limits.usable_bytes
        result.append(
            f"data and images need {_size(report.cost_bytes)} and {_size(usable)} can be had: "
            "lower the tables' capacities or the number of images, or raise the memory limit"
        )
    limit = report.limits.file_size_limit_bytes
    if limit is not None and limit < report.data_bytes:
        result.append(
            f"the file size limit of {_size(limit)} applies to memory: ulimit -f unlimited"
        )
    if report.limits.strict_overcommit:
        result.append(
            "memory is accounted strictly: sysctl vm.overcommit_memory=0, or raise "
            "vm.overcommit_ratio until the memory needed fits"
        )
    if not report.lock_fits:
        needed_kib = -(-report.cost_bytes // 1024)
        result.append(
            f"to keep data from being swapped out: ulimit -l {needed_kib}, in a container "
            f"--ulimit memlock={report.cost_bytes}, under systemd LimitMEMLOCK={report.cost_bytes}"
        )
    return result + report.place_problems


def _tracking_advice(host: machine.Host) -> list[str]:
    result = []
    if host.page_bytes != 4096:
        result.append("tracking by the kernel needs pages of 4096 bytes")
    version = tuple(
        int(part) for part in host.kernel.split("-")[0].split(".")[:2] if part.isdigit()
    )
    if version < (6, 7):
        result.append("tracking by the kernel needs Linux 6.7 or newer, with CONFIG_USERFAULTFD")
    elif host.container or host.system_calls_filtered:
        result.append(
            "in a container whose seccomp profile forbids userfaultfd, give it the device: "
            "docker run --device /dev/userfaultfd (and let its user read and write it: "
            "chmod 666 /dev/userfaultfd on the host, or --user root)"
        )
    elif host.device != "usable":
        result.append(
            "let this user open the device: chmod 666 /dev/userfaultfd (the sysctl "
            "vm.unprivileged_userfaultfd is not needed)"
        )
    else:
        result.append(
            "the kernel must be built with CONFIG_USERFAULTFD and CONFIG_PROC_PAGE_MONITOR"
        )
    return result


def _place_lines(report: Report) -> list[str]:
    usable, count = report.processors.usable, report.processors.count
    told = [
        "Processors",
        f"  {len(usable)} of {count} may be used: {placement.cpus_as_text(usable)}",
    ]
    told += [f"  configured: {place}" for place in report.places]
    if report.places:
        told.append(f"  {'not possible here' if report.place_problems else 'possible here'}")
    return told


def _sync_lines(cost: SyncCost) -> list[str]:
    sweep_us = cost.clean_scan_us * GIB / cost.size_bytes
    return [
        f"A sync here, measured with {_size(cost.size_bytes)} ({cost.tracker})",
        f"  pause for {cost.written_pages} written pages: {cost.pause_median_us:.0f} us, "
        f"99th percentile {cost.pause_p99_us:.0f} us",
        f"  of that, finding the pages: {cost.scan_us:.0f} us",
        f"  a look at memory with nothing written: {sweep_us:.0f} us a GiB",
        f"  copying: {cost.copy_ns_per_page:.0f} ns a page",
        f"  first write to a page after a sync: {cost.first_write_ns_per_page:.0f} ns",
        f"  beside the writer, levelling the next image: {cost.level_us:.0f} us",
    ]


def _size_gib(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("must be 1 to 1000")
    return value


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "none"
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    return f"{size_bytes / MIB:.1f} MiB"
