"""How calls and replies look in another system's protocol."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from diptych.loadtest.mix import ResultOf

HOLE = ResultOf(-1)
"""Stands for an earlier result in what `Protocol.encode` gets."""


class Protocol(ABC):
    """How a system's calls and replies look. `digits`: holes are text, else eight bytes."""

    digits = False
    take: Callable[..., int]
    """The kernel that finds replies."""

    @abstractmethod
    def connect(self) -> socket.socket:
        """A connection that is ready for calls."""

    @abstractmethod
    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        """A call's bytes, and where its hole begins, -1 without one."""

    @abstractmethod
    def code(self, reply: bytes) -> str:
        """What a refusal that begins here is called."""
