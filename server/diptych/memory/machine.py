"""What this machine, user and container allow: facts about tracking, locking and memory.

A fact is found by trying where that is possible, since what a kernel or container claims and what
it does are not always the same. All is returned as data; what to make of it is for the doctor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from diptych.memory.errors import MemoryFailure
from diptych.memory.layout import PAGE_BYTES, Extent
from diptych.memory.region import Region
from diptych.memory.tracking import check_kernel_tracking
from diptych.memory.userfault import OPENINGS

_MLOCK_ONFAULT = 1
_UNLIMITED = 1 << 60  # control groups write numbers about that large for "no limit"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of tracking; `reason` says why not, when it does not work."""

    name: str
    works: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Locking:
    """Whether memory can be kept from being swapped out."""

    works: bool
    reason: str
    limit_bytes: int | None  # None: no limit


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    available_bytes: int
    group_limit_bytes: int | None  # of the control group; None: no limit
    group_used_bytes: int
    file_size_limit_bytes: int | None  # it limits memory without a name, too
    strict_overcommit: bool

    @property
    def usable_bytes(self) -> int:
        if self.group_limit_bytes is None:
            return self.available_bytes
        return min(self.available_bytes, self.group_limit_bytes - self.group_used_bytes)


@dataclass(frozen=True, slots=True)
class Host:
    kernel: str
    machine: str
    page_bytes: int
    user: int
    container: bool
    system_calls_filtered: bool
    unprivileged_userfaultfd: str  # the sysctl's value, "" where there is none
    device: str  # of /dev/userfaultfd: "usable", "no access", "missing"


def ways_of_tracking() -> list[Way]:
    """Every way there is, tried."""
    ways = []
    for opening in OPENINGS:
        try:
            check_kernel_tracking(opening)
        except (MemoryFailure, OSError) as reason:
            ways.append(Way(f"kernel, by {opening}", False, str(reason)))
        else:
            ways.append(Way(f"kernel, by {opening}", True))
    try:
        # Comparing needs nothing but memory that can be mapped.
        Region.create(2 * PAGE_BYTES, name="doctor").close()
    except (MemoryFailure, OSError) as reason:
        ways.append(Way("compare", False, f"memory cannot be mapped: {reason}"))
    else:
        ways.append(Way("compare", True))
    return ways


def host() -> Host:
    device = Path("/dev/userfaultfd")
    if not device.exists():
        access = "missing"
    else:
        access = "usable" if os.access(device, os.R_OK | os.W_OK) else "no access"
    return Host(
        kernel=platform.release(),
        machine=platform.machine(),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        user=os.getuid(),
        container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        system_calls_filtered=_status("Seccomp") == "2",
        unprivileged_userfaultfd=_text(Path("/proc/sys/vm/unprivileged_userfaultfd")),
        device=access,
    )


def locking() -> Locking:
    """Try to lock a megabyte that is mapped but not touched, as a sparse region is."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = None if soft == resource.RLIM_INFINITY else soft
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlock2"):
        return Locking(False, "the C library has no mlock2", limit)
    with Region.create(1 << 20, name="doctor") as region:
        region.allocate(Extent(0, region.page_count))
        address, size = ctypes.c_void_p(region.address), ctypes.c_size_t(region.size_bytes)
        if libc.mlock2(address, size, _MLOCK_ONFAULT) != 0:
            return Locking(False, f"mlock2: {os.strerror(ctypes.get_errno())}", limit)
    return Locking(True, "", limit)


def memory_limits() -> MemoryLimits:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit, used = _group_memory()
    available = int(_fields(Path("/proc/meminfo")).get("MemAvailable", "0 kB").split()[0]) * 1024
    return MemoryLimits(
        available_bytes=available,
        group_limit_bytes=limit,
        group_used_bytes=used,
        file_size_limit_bytes=None if soft == resource.RLIM_INFINITY else soft,
        strict_overcommit=_text(Path("/proc/sys/vm/overcommit_memory")) == "2",
    )


def data_cost_bytes(data_bytes: int, images: int, readers: int) -> int:
    """Memory that `data_bytes` of tables will take, page tables of all processes included."""
    # The writer maps the region and all images, each reader all images; 8 bytes a page and mapping.
    mappings = 1 + images + readers * images
    page_table_bytes = mappings * 8 * data_bytes // mmap.PAGESIZE
    return (1 + images) * data_bytes + page_table_bytes


def _group_memory() -> tuple[int | None, int]:
    """The tightest memory limit of the control groups this process is in, and its use."""
    tightest: tuple[int | None, int] = (None, 0)
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit_name, used_name = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory"
            limit_name, used_name = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = Path(base + path)
        # In a container the path may be the host's, and the group then is the root that we see.
        for folder in (group, *group.parents, Path(base)):
            limit = _text(folder / limit_name)
            if limit.isdigit() and int(limit) < _UNLIMITED:
                found = (int(limit), int(_text(folder / used_name) or 0))
                if tightest[0] is None or found[0] < tightest[0]:
                    tightest = found
    return tightest


def _status(name: str) -> str:
    return _fields(Path("/proc/self/status")).get(name, "")


def _fields(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(path).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
