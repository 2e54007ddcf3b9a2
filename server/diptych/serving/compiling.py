"""Compiling handlers in a child, before a server begins: with a time limit, and away from us.

The child compiles, says through a pipe what it is at, and leaves the code in the cache, from where
this process loads it. So whatever a compiler does, how long or how badly, happens to a process that
nobody needs, and those forked later have the code. Ctrl-C and this process's own end are the
child's, too. Where code can't be kept, or several threads forbid a fork, nothing is done here: the
caller compiles, as long as it takes. Knows nothing of how handlers are compiled.
"""

from __future__ import annotations

import functools
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

import msgpack

from diptych.app import App
from diptych.engine.lane import has_compiled
from diptych.errors import ConfigurationError, DeclarationError
from diptych.serving.children import ending
from diptych.serving.spawn import fork_child, thread_count

READ_BYTES = 64 << 10

log = logging.getLogger("diptych.compiled")


def compile_apart(app: App, limit_s: float, log_format: str = "text") -> dict[str, str]:
    """Compile what is marked compiled and is not in the cache: why each handler can't be compiled,
    or "", by name. Empty: there is nothing to do, or nothing that can be done here.

    Errors: ConfigurationError, over the limit; DeclarationError; ChildProcessError, when the child
    dies; OSError.
    """
    if not has_compiled(app) or thread_count() != 1:
        return {}
    from diptych.store.compiled import code_cache, handlers  # takes a second to import

    if handlers.is_kept(app) or not code_cache.is_usable():
        return {}
    ours, theirs = os.pipe()
    try:
        main = functools.partial(_compile, app, theirs)
        child = fork_child("compiler", main, [theirs], log_format=log_format)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    said: dict[str, Any] = {"at": "its beginning"}
    try:
        for message in _heard(ours, time.monotonic() + limit_s):
            said |= message
            if "line" in message:
                log.info("%s", message["line"])
    except TimeoutError:
        cure = "allow more time, or declare that handler with compiled=False"
        raise ConfigurationError(
            f"compile_s: compiling handlers of {app.name} took longer than {limit_s:g} s, "
            f"and was at {said['at']}; {cure}"
        ) from None
    finally:
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)  # no news where it has ended
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        os.close(ours)
    if "error" in said:
        raise DeclarationError(said["error"])
    if "refusals" not in said:
        how = ending(os.waitstatus_to_exitcode(status))
        raise ChildProcessError(f"compiling handlers of {app.name} failed at {said['at']}: {how}")
    refusals: dict[str, str] = said["refusals"]
    return refusals


def _heard(pipe: int, until: float) -> Iterator[dict[str, Any]]:
    """What the child says until it ends. Errors: TimeoutError."""
    messages = msgpack.Unpacker()
    while True:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(pipe, READ_BYTES)
        if not data:
            return
        messages.feed(data)
        yield from messages


def _compile(app: App, pipe: int) -> int:
    """The child. The end of the pipe is that of the process, so nobody closes it."""
    from diptych.store.compiled.handlers import check_handlers

    with open(pipe, "wb", buffering=0, closefd=False) as file:

        def tell(**message: Any) -> None:
            file.write(msgpack.packb(message))

        try:
            refusals = check_handlers(
                app,
                progress=lambda line: tell(line=line),
                begins=lambda what: tell(at=what),
            )
        except DeclarationError as error:
            tell(error=str(error))
        else:
            tell(refusals=refusals)
    return 0
