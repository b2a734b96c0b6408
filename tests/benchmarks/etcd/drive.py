"""One client process: `python -m tests.benchmarks.etcd.drive ours|etcd put|get|get-stale …`.

It connects, prints a line, and reads from standard input when to begin: a moment of the monotonic
clock, which all processes of one measurement share. Then it writes or reads for some seconds, from
some tasks at once, and prints the latencies as JSON.

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

import grpc
from partition_client import AsyncClient, PayloadSource

from tests.benchmarks.etcd.kv import ANSWER_S, KEY_BYTES, KEY_SPACE, READ_KEY, READ_VALUE, KeyValue

FILE_BYTES_MIN = 64 * 1024
"""From here on our value is the content of a file, which is what users do."""

MARK_BYTES = 32

Operation = Callable[[int], Awaitable[object]]
"""Takes the number of its task, which chooses a replica if any can answer. Tasks of all processes
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


async def drive(operation: Operation, arguments: argparse.Namespace) -> None:
    """Prints the latencies in seconds, sorted, of the operations that ended in time."""
    latencies: list[float] = []
    print("ready", flush=True)
    begin_at = float(await asyncio.to_thread(sys.stdin.readline))
    until = begin_at + arguments.seconds

    async def repeat(number: int) -> None:
        await asyncio.sleep(begin_at - time.monotonic())
        while (began := time.monotonic()) < until:
            await operation(number)
            ended = time.monotonic()
            if ended <= until:
                latencies.append(ended - began)

    first = arguments.first_task
    await asyncio.gather(*(repeat(first + number) for number in range(arguments.tasks)))
    print(json.dumps(sorted(latencies)), flush=True)


async def ours(arguments: argparse.Namespace) -> None:
    content, endpoints = Content(arguments.size), arguments.endpoints
    async with AsyncClient(endpoints, None, deadline_s=ANSWER_S) as client:
        await client.set_key(READ_KEY, READ_VALUE)
        for endpoint in endpoints:  # connects, and waits until stale reads have the key
            while await client.get_key(READ_KEY, stale_from=endpoint) is None:
                await asyncio.sleep(0.05)

        async def put(_number: int) -> None:
            if arguments.size < FILE_BYTES_MIN:
                await client.set_key(content.key(), content.value())
            else:
                await client.put_file(content.key(), PayloadSource.of_bytes(content.value()))

        async def get(_number: int) -> None:
            await client.get_key(READ_KEY)

        async def get_stale(number: int) -> None:
            await client.get_key(READ_KEY, stale_from=endpoints[number % len(endpoints)])

        operations = {"put": put, "get": get, "get-stale": get_stale}
        await drive(operations[arguments.load], arguments)


async def etcd(arguments: argparse.Namespace) -> None:
    if arguments.load != "put":
        raise SystemExit("etcd's own load generator reads from etcd; this client only puts")
    content = Content(arguments.size)
    channels = [grpc.aio.insecure_channel(endpoint) for endpoint in arguments.endpoints]
    services = [KeyValue(channel) for channel in channels]
    for service in services:
        await service.put(READ_KEY, READ_VALUE)  # connects

    async def put(number: int) -> None:
        await services[number % len(services)].put(content.key(), content.value())

    await drive(put, arguments)
    for channel in channels:
        await channel.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["ours", "etcd"])
    parser.add_argument("load", choices=["put", "get", "get-stale"])
    parser.add_argument("--endpoints", required=True, type=lambda text: text.split(","))
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--first-task", type=int, default=0, help="number of the first task")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    asyncio.run({"ours": ours, "etcd": etcd}[arguments.server](arguments))


if __name__ == "__main__":
    main()
