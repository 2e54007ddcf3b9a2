"""The network that can be frozen and cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.wire import wait_until


@contextmanager
def echo() -> Iterator[str]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join()


def connected(proxy: Proxy) -> socket.socket:
    host, port = proxy.address.split(":")
    connection = socket.create_connection((host, int(port)), 5)
    connection.sendall(b"hello")
    assert connection.recv(100) == b"hello"
    return connection


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
def test_what_is_frozen_arrives_later(direction: str) -> None:
    with echo() as address, Proxy(address) as proxy, connected(proxy) as connection:
        assert proxy.held_bytes == 0
        proxy.freeze(direction)
        connection.sendall(b"later")
        wait_until(lambda: proxy.held_bytes == 5)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(100)
        connection.settimeout(5)
        proxy.thaw()
        assert connection.recv(100) == b"later"


def test_what_is_cut_is_gone() -> None:
    with echo() as address, Proxy(address) as proxy:
        with connected(proxy) as connection:
            proxy.freeze(TO_CLIENT)
            connection.sendall(b"lost")
            wait_until(lambda: proxy.held_bytes == 4)
            proxy.cut()
            proxy.thaw()
            assert connection.recv(100) == b""
        with connected(proxy):
            assert proxy.connections == 2
