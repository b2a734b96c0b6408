"""Ports for servers that development and tests start on loopback."""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress


def _ports() -> Iterator[int]:
    """Those of this worker of a test run, again and again. Below the range from which the kernel
    takes ports for clients, so that nobody else gets one before the server binds it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw")) % 16
    ports = range(15_000 + 900 * worker, 15_900 + 900 * worker)
    start = random.randrange(len(ports))
    return itertools.cycle((*ports[start:], *ports[:start]))


PORTS = _ports()


def free_port() -> int:
    """Returns a port that nothing listens on now and that no client will be given."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("there is always a next port")
