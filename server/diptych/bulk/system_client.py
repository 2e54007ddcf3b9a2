"""A blocking client that also calls a server's system operations, which no WELCOME names."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from math import inf
from typing import Any

from diptych.engine.system import DESCRIBED
from diptych_client import Client
from diptych_client.calls import Call
from diptych_client.operations import read_operations

ASK_TIMEOUT_S = 30.0
OPERATIONS = read_operations([operation.describe() for operation in DESCRIBED])


class SystemClient(Client):
    """See `diptych_client.Client`."""

    @property
    def frame_bytes(self) -> int:
        """The largest payload that the server takes; known once connected."""
        return self._core.limits.frame_bytes

    def system(self, name: str, /, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call a system operation and wait, `timeout_s` or as long as it takes."""
        view = self.using(timeout=timeout_s)
        deadline = view._deadline()
        with self._link.turn(deadline):
            self._link.catch_up()
            return self._finish(self._submit(name, arguments, deadline)).value

    def see_all(self) -> None:
        """Have queries from now on see at least all that anybody was told before."""
        self.system("import_status", timeout_s=ASK_TIMEOUT_S)  # a transaction, so it has a number

    def pipelined(
        self, name: str, arguments: Iterable[Sequence[Any]], window: int
    ) -> Generator[Any]:
        """Call once for each tuple of arguments, `window` calls ahead; values in order.

        The first error ends it; what is in flight then is left alone.
        """
        flying: deque[Call] = deque()
        with self._link.turn(inf):
            self._link.catch_up()
            try:
                for each in arguments:
                    if len(flying) == window:
                        yield self._finish(flying.popleft()).value
                    flying.append(self._submit(name, each, inf))
                while flying:
                    yield self._finish(flying.popleft()).value
            finally:
                for call in flying:
                    self._link.core.abandon(call)

    def _submit(self, name: str, arguments: Sequence[Any], deadline: float) -> Call:
        operation = OPERATIONS[name]
        payload = operation.encode(arguments, {})
        return self._link.core.submit(operation.kind, operation, payload, deadline, self._fresh)
