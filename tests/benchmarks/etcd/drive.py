"""One client process: `python -m tests.benchmarks.etcd.drive ours|etcd put|get|get-stale …`.

It writes or reads for some seconds, from some tasks at once, and prints what it did as JSON. A load
begins at a moment that all processes of one measurement share.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable

import grpc
from partition_client import AsyncClient, PayloadSource

from tests.benchmarks.etcd.kv import KeyValue

INLINE_BYTES_MAX = 32 * 1024
"""Above it our value is the content of a file, which is what users do."""

Operation = Callable[[int, int], Awaitable[object]]
"""(number of the task, number of its operation)."""


async def drive(
    operation: Operation, tasks: int, begin_at: float, seconds: float
) -> dict[str, object]:
    """Latencies are in seconds, of operations that ended in time."""
    latencies: list[float] = []
    until = begin_at + seconds

    async def repeat(number: int) -> None:
        await asyncio.sleep(max(begin_at - time.time(), 0))
        count = 0
        while True:
            began = time.time()
            if began >= until:
                return
            await operation(number, count)
            count += 1
            ended = time.time()
            if ended <= until:
                latencies.append(ended - began)

    await asyncio.gather(*(repeat(number) for number in range(tasks)))
    return {"count": len(latencies), "latencies": sorted(latencies)}


async def ours(arguments: argparse.Namespace) -> dict[str, object]:
    value, prefix = os.urandom(arguments.size), f"{os.getpid()}/".encode()
    async with AsyncClient(arguments.endpoints, None) as client:
        await client.set_key(b"read/0", b"v" * 256)

        async def put(number: int, count: int) -> None:
            key = b"%s%d/%d" % (prefix, number, count)
            if arguments.size <= INLINE_BYTES_MAX:
                await client.set_key(key, value)
            else:
                name = key.replace(b"/", b"-")
                await client.put_file(name, PayloadSource.of_bytes(os.urandom(arguments.size)))

        async def get(_number: int, _count: int) -> None:
            await client.get_key(b"read/0")

        stale_from = arguments.endpoints[0]

        async def get_stale(_number: int, _count: int) -> None:
            await client.get_key(b"read/0", stale_from=stale_from)

        operations = {"put": put, "get": get, "get-stale": get_stale}
        begin_at = arguments.begin_at or time.time()
        return await drive(operations[arguments.load], arguments.tasks, begin_at, arguments.seconds)


async def etcd(arguments: argparse.Namespace) -> dict[str, object]:
    value, prefix = os.urandom(arguments.size), f"{os.getpid()}/".encode()
    channels = [grpc.aio.insecure_channel(endpoint) for endpoint in arguments.endpoints]
    services = [KeyValue(channel) for channel in channels]
    await services[0].put(b"read/0", b"v" * 256)

    async def put(number: int, count: int) -> None:
        key = b"%s%d/%d" % (prefix, number, count)
        await services[number % len(services)].put(key, value)

    async def get(number: int, _count: int) -> None:
        await services[number % len(services)].get(b"read/0")

    async def get_stale(number: int, _count: int) -> None:
        await services[number % len(services)].get(b"read/0", stale=True)

    operations = {"put": put, "get": get, "get-stale": get_stale}
    begin_at = arguments.begin_at or time.time()
    found = await drive(operations[arguments.load], arguments.tasks, begin_at, arguments.seconds)
    for channel in channels:
        await channel.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["ours", "etcd"])
    parser.add_argument("load", choices=["put", "get", "get-stale"])
    parser.add_argument("--endpoints", required=True, type=lambda text: text.split(","))
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--begin-at", type=float, default=0.0, help="seconds since 1970; 0: now")
    arguments = parser.parse_args()
    found = asyncio.run({"ours": ours, "etcd": etcd}[arguments.server](arguments))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
