"""GET load for a Redis, made as `diptych loadtest` is made: closed loop, one line of JSON.

    python bench/resp.py PORT --connections 50 --in-flight 32 --duration 3 --keys 1000

One thread around one epoll; requests are encoded once and copied out by a compiled loop, replies
are taken and timed one by one by another. So what differs between two measurements is the server.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from typing import Any

import numpy as np

from diptych.kernel import kernel
from diptych.loadtest.latency import BINS, bin_of, summary_us

WARMUP_S = 1.0
BUFFER_BYTES = 256 << 10


@kernel
def write_calls(
    requests: Any, starts: Any, due_ns: Any, state: Any, out: Any, count: int, now_ns: int
) -> int:
    """Copy the next `count` requests to `out`; return the bytes written."""
    length = len(starts) - 1
    size = 0
    for _ in range(count):
        slot = state[0] % length
        start, stop = starts[slot], starts[slot + 1]
        for i in range(stop - start):
            out[size + i] = requests[start + i]
        due_ns[slot] = now_ns
        state[0] += 1
        size += stop - start
    return size


@kernel
def take_replies(
    data: Any, have: int, due_ns: Any, state: Any, latencies: Any, now_ns: int, from_ns: int
) -> int:
    """Take every whole bulk string in data[:have]; return the bytes used, -1 for anything else."""
    position = 0
    while position < have:
        if data[position] != 36:  # "$"
            return -1
        at = position + 1
        length = 0
        while at < have and data[at] != 13:
            length = length * 10 + int(data[at]) - 48
            at += 1
        if at + 4 + length > have:
            break
        due = due_ns[state[1] % len(due_ns)]
        state[1] += 1
        if due >= from_ns:
            state[2] += 1
            latencies[bin_of(now_ns - due)] += 1
        position = at + 4 + length
    return position


class Connection:
    """One of them. `state`: calls sent, answered, counted."""

    def __init__(self, port: int, keys: int, window: int, first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        encoded = [get(1 + (first + number) % keys) for number in range(max(keys, window))]
        self.requests = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
        self.starts = np.cumsum([0, *map(len, encoded)])
        self.due_ns = np.zeros(len(encoded), np.int64)
        self.state = np.zeros(3, np.int64)
        self.out = np.zeros(BUFFER_BYTES, np.uint8)
        self.data = np.zeros(BUFFER_BYTES, np.uint8)
        self.have = 0

    def send(self, count: int) -> None:
        now_ns = time.monotonic_ns()
        size = write_calls(
            self.requests, self.starts, self.due_ns, self.state, self.out, count, now_ns
        )
        self.socket.sendall(self.out.data[:size])

    def receive(self, latencies: Any, from_ns: int) -> int:
        """Read once; how many replies came."""
        self.have += self.socket.recv_into(self.data.data[self.have :])
        before = int(self.state[1])
        now_ns = time.monotonic_ns()
        used = take_replies(
            self.data, self.have, self.due_ns, self.state, latencies, now_ns, from_ns
        )
        if used < 0:
            raise ValueError(bytes(self.data[:80]))
        rest = self.have - used
        if rest:
            self.data[:rest] = self.data[used : self.have]
        self.have = rest
        return int(self.state[1]) - before


def get(key: int) -> bytes:
    name = b"account:%d" % key
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name)


def fill(port: int, keys: int) -> None:
    """Give each key its value."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"".join(b"SET account:%d 1000\r\n" % number for number in range(1, keys + 1)))
        wanted = len(b"+OK\r\n") * keys
        while wanted:
            wanted -= len(sock.recv(wanted))


def main() -> int:
    arguments = parsed()
    fill(arguments.port, arguments.keys)
    connections = {}
    epoll = select.epoll()
    for number in range(arguments.connections):
        made = Connection(arguments.port, arguments.keys, arguments.in_flight, number * 17)
        connections[made.socket.fileno()] = made
        epoll.register(made.socket.fileno(), select.EPOLLIN)
    latencies = np.zeros(BINS, np.int64)
    next(iter(connections.values())).send(0)  # compiles the kernels
    take_replies(made.data, 0, made.due_ns, made.state, latencies, 0, 0)
    from_ns = time.monotonic_ns() + round(WARMUP_S * 1e9)
    until_ns = from_ns + round(arguments.duration * 1e9)
    for connection in connections.values():
        connection.send(arguments.in_flight)
    while time.monotonic_ns() < until_ns:
        for descriptor, _ in epoll.poll(0) or epoll.poll(0.1):
            connection = connections[descriptor]
            connection.send(connection.receive(latencies, from_ns))
    counted = sum(int(connection.state[2]) for connection in connections.values())
    latency_us = summary_us(latencies)
    told = {"p50_us": latency_us["p50"], "p99_us": latency_us["p99"]}
    print(json.dumps({"per_s": counted / arguments.duration} | told))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--duration", type=float, default=3.0)
    parser.add_argument("--keys", type=int, default=1_000)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
