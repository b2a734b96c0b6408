"""One client process: `python -m tests.benchmarks.etcd.drive ours|etcd put|get|get-stale …`.

It connects, prints a line, and reads from standard input when to begin: a moment of the monotonic
clock, which all processes of one measurement share. Then it writes or reads for some seconds, from
some tasks at once, waits for what is under way, and prints a report as JSON: the latencies in
seconds, when the last operation ended, and the processor's seconds that the load took here.

Both sides get keys and values of the same sizes. A key is one of a million, as with etcd's own load
generator. Reads are of one key.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from partition_client import AsyncClient, PayloadSource, Tls
from partition_proto.v1 import types_pb2 as types

from tests.benchmarks.etcd.kv import (
    ANSWER_S,
    CONNECT_S,
    KEY_BYTES,
    KEY_SPACE,
    READ_KEY,
    READ_VALUE,
    open_member,
)
from tests.benchmarks.etcd.rows import KIB

FILE_BYTES_MIN = 64 * KIB
"""From here on our value is the content of a file, which is what users do."""

MARK_BYTES = 32

Operation = Callable[[int], Awaitable[object]]
"""Takes the number of its task, which chooses a server if any can answer. Tasks of all processes
are numbered together."""


class Content:
    """Random keys, and values that differ, because equal files are stored once."""

    def __init__(self, size: int) -> None:
        self._rest = os.urandom(size - MARK_BYTES)
        self._count = 0

    def key(self) -> bytes:
        return b"%0*d" % (KEY_BYTES, random.randrange(KEY_SPACE))

    def value(self) -> bytes:
        self._count += 1
        return (b"%d/%d" % (os.getpid(), self._count)).ljust(MARK_BYTES) + self._rest


def check_read(value: bytes | None) -> None:
    """Raises RuntimeError: a read that finds nothing would be faster."""
    if value != READ_VALUE:
        raise RuntimeError(f"the read returned {value!r}")


async def drive(operation: Operation, arguments: argparse.Namespace) -> None:
    """Prints the report."""
    latencies: list[float] = []
    print("ready", flush=True)
    begin_at = float(await asyncio.to_thread(sys.stdin.readline))
    until = begin_at + arguments.seconds
    await asyncio.sleep(begin_at - time.monotonic())
    used = time.process_time()

    async def repeat(number: int) -> None:
        while (began := time.monotonic()) < until:
            await operation(number)
            latencies.append(time.monotonic() - began)

    first = arguments.first_task
    await asyncio.gather(*(repeat(first + number) for number in range(arguments.tasks)))
    report = {
        "ended_at": time.monotonic(),
        "cpu_s": time.process_time() - used,
        "latencies": latencies,
    }
    print(json.dumps(report), flush=True)


async def ours(arguments: argparse.Namespace, tls: Tls | None) -> None:
    content, endpoints = Content(arguments.size), arguments.endpoints
    async with AsyncClient(endpoints, tls, deadline_s=ANSWER_S) as client:
        first = types.Operation(set_key=types.SetKey(key=READ_KEY, value=READ_VALUE))
        await client.append([first], deadline_s=CONNECT_S)  # connects, and opens a session
        if arguments.load == "get-stale":
            for endpoint in endpoints:  # connects, and waits until stale reads have the key
                while await client.get_key(READ_KEY, stale_from=endpoint) is None:
                    await asyncio.sleep(0.05)

        async def put(_number: int) -> None:
            if arguments.size < FILE_BYTES_MIN:
                await client.set_key(content.key(), content.value())
            else:
                await client.put_file(content.key(), PayloadSource.of_bytes(content.value()))

        async def get(_number: int) -> None:
            check_read(await client.get_key(READ_KEY))

        async def get_stale(number: int) -> None:
            endpoint = endpoints[number % len(endpoints)]
            check_read(await client.get_key(READ_KEY, stale_from=endpoint))

        operations = {"put": put, "get": get, "get-stale": get_stale}
        await drive(operations[arguments.load], arguments)


async def etcd(arguments: argparse.Namespace, tls: Tls | None) -> None:
    content, endpoints = Content(arguments.size), arguments.endpoints
    if arguments.leader is not None:
        endpoints = [endpoints[arguments.leader]]
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(open_member(e, tls)) for e in endpoints]
        for member in members:
            await member.connect()

        async def put(number: int) -> None:
            await members[number % len(members)].put(content.key(), content.value())

        async def get(number: int) -> None:
            check_read(await members[number % len(members)].get(READ_KEY))

        async def get_stale(number: int) -> None:
            check_read(await members[number % len(members)].get(READ_KEY, stale=True))

        operations = {"put": put, "get": get, "get-stale": get_stale}
        await drive(operations[arguments.load], arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["ours", "etcd"])
    parser.add_argument("load", choices=["put", "get", "get-stale"])
    parser.add_argument("--endpoints", required=True, type=lambda text: text.split(","))
    parser.add_argument("--leader", type=int, help="number of the only endpoint to use of etcd")
    parser.add_argument("--tls-dir", type=Path)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--first-task", type=int, default=0, help="number of the first task")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    tls = Tls.in_directory(arguments.tls_dir) if arguments.tls_dir else None
    asyncio.run({"ours": ours, "etcd": etcd}[arguments.server](arguments, tls))


if __name__ == "__main__":
    main()
