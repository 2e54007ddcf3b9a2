"""Forking, in the moments before the child is one of ours."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from diptych.serving import spawn
from diptych.serving.spawn import fork_child


def test_a_signal_to_a_child_that_was_just_forked_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C reaches all processes of a terminal, and must count once."""
    monkeypatch.setattr(spawn, "thread_count", lambda: 1)
    # The first thing that a child does.
    monkeypatch.setattr(spawn, "_prctl", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            spawned = fork_child("reader", lambda: 7, [])
            _, status = os.waitpid(spawned.pid, 0)
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGTERM, handler)
        os.close(spawned.pidfd)
        assert os.waitstatus_to_exitcode(status) == 7
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
