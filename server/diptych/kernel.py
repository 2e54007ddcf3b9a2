"""The one way functions are compiled: Numba's `njit`, cached on disk.

A kernel is a free function over arrays and integers: everything that happens per frame, per page or
per row in bulk is one. It knows nothing of objects, processes or policy, and calls only kernels.
An int that indexes an array is 0 or more: kernels compiled do not count from the end.
With `NUMBA_DISABLE_JIT=1` kernels run as plain Python, so that they can be debugged and covered.

The cache lives in a directory named after a hash of all sources that kernels are made of, since
Numba itself looks at a kernel's own file alone: a constant changed elsewhere would leave kernels
compiled with the old one. `NUMBA_CACHE_DIR` says where these directories are kept.

Giving up the interpreter lock and taking it again costs more (0.12 us) than most kernels take to
run, so only `bulk_kernel`s do.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import types
from numba.core import config

from diptych.kernel_passes import EntryCompiler, KernelCompiler

KERNEL_SOURCES = (
    *("kernel.py", "kernel_passes.py", "memory/*.py", "store/*.py", "store/compiled/entries.py"),
    *("engine/framing.py", "serving/frames.py", "serving/bundles.py", "serving/channel.py"),
    *("serving/prompt_frames.py", "serving/client_sockets.py"),
    *("serving/system_calls.py", "loadtest/*.py"),
)
"""Where kernels are, and whatever they take constants from. A test compares it with the imports."""
CACHES_KEPT = 8

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("diptych.kernel")


def _cache_directory() -> Path | None:
    """The directory for these sources, made if need be; None where nothing can be kept safely."""
    package = Path(__file__).parent
    digest = hashlib.sha256(str(package).encode())  # Numba goes by paths, too
    for path in sorted(path for pattern in KERNEL_SOURCES for path in package.glob(pattern)):
        digest.update(path.read_bytes())
    given = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    private = Path(tempfile.gettempdir()) / f"diptych-{os.getuid()}"
    for base in [Path(given)] if given else [Path(home) / "diptych", private]:
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Cached code is run: nobody else may have put it there.
            if base.stat().st_uid not in (os.getuid(), 0) or not os.access(base, os.W_OK):
                continue
            chosen = base / digest.hexdigest()[:16]
            chosen.mkdir(exist_ok=True)
            os.utime(chosen)
        except OSError:
            continue
        _forget_old(base, chosen)
        return chosen
    return None


def _forget_old(base: Path, chosen: Path) -> None:
    """Keep the caches used last: each change to a kernel leaves one behind."""
    with contextlib.suppress(OSError):
        caches = [path for path in base.iterdir() if len(path.name) == len(chosen.name)]
        for path in sorted(caches, key=lambda path: path.stat().st_mtime)[:-CACHES_KEPT]:
            shutil.rmtree(path, ignore_errors=True)


CACHE_DIRECTORY = _cache_directory()
config.CACHE_DIR = str(CACHE_DIRECTORY or "")  # empty: Numba's own choice


@functools.cache
def _announce_compiling() -> None:
    """Say why nothing happens for a while, once, where nothing of this Python's is cached."""
    kept = f"*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    if CACHE_DIRECTORY is None or next(CACHE_DIRECTORY.rglob(kept), None) is None:
        log.warning("compiling kernels: a first start takes up to half a minute longer")


def kernel(function: F) -> F:
    """Compile `function` on its first call for each combination of argument types.

    It cannot create arrays: Numba counts references to arrays only where that is possible, and the
    counting would cost as much as a lookup.
    """
    return _compiled(function, {"cache": True, "_nrt": False})


def inlined(function: F) -> F:
    """A small kernel that becomes part of those that call it, whatever LLVM thinks of its size.

    An array is seven words to a call, so one that gets three of them costs more than it does.
    """
    return _compiled(function, {"cache": True, "_nrt": False, "forceinline": True})


def entry_kernel(function: F) -> F:
    """A kernel that is called from outside, and so often that it shall have copies of its own of
    the kernels that it calls, made for it: a seventh faster, and longer to compile.
    """
    return _compiled(function, {"cache": True, "_nrt": False, "pipeline_class": EntryCompiler})


def bulk_kernel(function: F) -> F:
    """The same for what runs long, or creates arrays: other threads go on meanwhile."""
    return _compiled(function, {"cache": True, "nogil": True})


def _compiled(function: F, options: dict[str, Any]) -> F:
    dispatcher: Any = numba.njit(**{"pipeline_class": KernelCompiler, **options})(function)
    compiled: F = dispatcher
    return compiled


def direct(function: F, integers: int) -> F:
    """The kernel `function(words, int, ...)`, with so many integers, without Numba's dispatch.

    Dispatch looks at the types of the arguments, which takes as long again as a short kernel. Here
    the caller vouches for them: an array of int64, C order, then Python ints within 64 bits;
    anything else is undefined. Compiles the kernel if that has not happened.
    """
    dispatcher: Any = function
    if not hasattr(dispatcher, "overloads"):
        return function  # NUMBA_DISABLE_JIT=1
    signature = (types.int64[::1], *(types.int64,) * integers)
    _announce_compiling()
    dispatcher.compile(signature)
    entry: F = dispatcher.overloads[signature].entry_point
    return entry


def bound(function: F, *arguments: Any) -> F:
    """The kernel without Numba's dispatch, compiled for arguments of just these types.

    For kernels with many arguments, whose types take longer to look at than the kernel takes to
    run. As with `direct`, the caller vouches for the types from here on.
    """
    dispatcher: Any = function
    if not hasattr(dispatcher, "overloads"):
        return function  # NUMBA_DISABLE_JIT=1
    signature = tuple(dispatcher.typeof_pyval(argument) for argument in arguments)
    _announce_compiling()
    dispatcher.compile(signature)
    entry: F = dispatcher.overloads[signature].entry_point
    return entry


def ready(function: F, signature: str) -> F:
    """The kernel, compiled for these types now, so that nobody waits for it later."""
    dispatcher: Any = function
    if hasattr(dispatcher, "overloads"):
        dispatcher.compile(signature)
    return function
