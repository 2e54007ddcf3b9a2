"""What a server has before its first process: memory, listening sockets, warm kernels.

The supervisor keeps all of it for as long as the server lives, so that any process can be replaced.
It maps none of the memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diptych.app import App
from diptych.config import Settings, split_address
from diptych.engine.engine import layout_bytes
from diptych.errors import ConfigurationError
from diptych.memory import Region
from diptych.memory import warm as warm_memory
from diptych.serving import client_sockets, frames
from diptych.serving.images import Images
from diptych.serving.takeover import Memory

BACKLOG = 1024
EXPORTS_PREFIX = "diptych-exports-"
LOCK = "lock"


def make_memory(app: App, settings: Settings) -> Memory:
    """The region and its images: all zero, sparse, mapped by nobody yet.

    Errors: ConfigurationError (a capacity of a table there is none of), OSError.
    """
    size_bytes = layout_bytes(app, settings.capacities)
    directory = settings.sync.images_directory
    region = _descriptor("region", size_bytes, None)
    images = [
        _descriptor(f"image-{number}", size_bytes, directory)
        for number in range(settings.sync.images)
    ]
    return Memory(region, tuple(images), size_bytes)


def read_only_images(memory: Memory) -> Images:
    """The images, for a process that must not write to them; the caller closes them."""
    descriptors = []
    for fd in memory.image_fds:
        os.fchmod(fd, 0o400)
        descriptors.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    return Images(tuple(descriptors), memory.size_bytes)


def listen(addresses: Sequence[str]) -> tuple[socket.socket, ...]:
    """Listening sockets. Errors: ConfigurationError."""
    listeners = []
    for address in addresses:
        host, port = split_address(address)
        try:
            listeners.append(_listener(host, port))
        except OSError as error:
            raise ConfigurationError(f"listen: {address}: {error.strerror or error}") from None
    return tuple(listeners)


@contextmanager
def exports_directory() -> Iterator[Path]:
    """A directory of our own for exports, in the system's place for temporary files ($TMPDIR), as
    long as the block runs. What a server that was killed left behind goes, too. Errors: OSError.
    """
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{EXPORTS_PREFIX}{os.getuid()}-*"):
        with contextlib.suppress(OSError), _locked(left / LOCK):
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{EXPORTS_PREFIX}{os.getuid()}-"))
    try:
        with _locked(directory / LOCK):
            inside = directory / "files"
            inside.mkdir(mode=0o700)
            yield inside
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock. Errors: OSError, when somebody else does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open descriptors, as far as it may; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def address_of(listener: socket.socket) -> str:
    """Where to connect to, as host:port."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def warm_kernels() -> None:
    """Compile all that children need, or load it from the cache, so that a restart is quick."""
    frames.warm()
    client_sockets.warm()
    warm_memory()


def _descriptor(name: str, size_bytes: int, directory: Path | None) -> int:
    with Region.create(size_bytes, name=name, directory=directory) as region:
        return os.dup(region.fd)


def _listener(host: str, port: int) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
