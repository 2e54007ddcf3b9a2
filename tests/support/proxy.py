"""A network between client and server that can stand still, swallow answers, or be cut.

`Proxy(address)` listens on a port of its own and forwards each connection, a thread for each
direction. Frozen, it takes bytes and passes nothing on, in one direction or both, as a cable that
was pulled: nobody is told. `held_bytes` says how much it kept back, so a test can see that its
fault happened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

READ_BYTES = 1 << 16
TO_SERVER, TO_CLIENT = "to server", "to client"
BOTH = (TO_SERVER, TO_CLIENT)


class Proxy:
    """A context manager; leaving it closes all connections."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.held_bytes = 0
        self.connections = 0
        """How many there ever were."""
        self._open = {direction: threading.Event() for direction in BOTH}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._over = False
        self.thaw()

    def __enter__(self) -> Proxy:
        self._thread(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.thaw()
        for thread in self._threads:
            thread.join()

    def freeze(self, *directions: str) -> None:
        """Pass nothing on in these directions, or in both."""
        for direction in directions or BOTH:
            self._open[direction].clear()

    def thaw(self) -> None:
        """Go on, with what was kept back."""
        for gate in self._open.values():
            gate.set()

    def cut(self) -> None:
        """End all connections there are, with what was kept back. New ones may come."""
        with self._lock:
            ended, self._sockets = self._sockets, []
        for each in ended:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _thread(self, work: object, *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)  # type: ignore[arg-type]  # ours
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self.connections += 1
            with self._lock:
                self._sockets += [client, server]
            pair = _Pair(client, server)
            self._thread(self._pump, pair, client, server, TO_SERVER)
            self._thread(self._pump, pair, server, client, TO_CLIENT)

    def _pump(
        self, pair: _Pair, source: socket.socket, target: socket.socket, direction: str
    ) -> None:
        gate = self._open[direction]
        try:
            while data := source.recv(READ_BYTES):
                if not gate.is_set():
                    self.held_bytes += len(data)
                    gate.wait()
                target.sendall(data)
        except OSError:
            pass
        pair.end()


class _Pair:
    """Two sockets that end together: closed when both directions are through."""

    def __init__(self, *sockets: socket.socket) -> None:
        self._sockets = sockets
        self._left = len(sockets)
        self._lock = threading.Lock()

    def end(self) -> None:
        with self._lock:
            self._left -= 1
            for each in self._sockets:
                if self._left:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                else:
                    each.close()
