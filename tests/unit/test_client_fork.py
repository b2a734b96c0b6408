"""Clients and fork: a child never waits and never dies of what it inherited."""

import asyncio
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from partition_client import AsyncClient, Client, ClientError, InvalidEndpoint

from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 60.0
"""For a few starts of Python on a machine under load; a child that hangs is killed by its alarm."""

SCRIPT = """
import asyncio, os, signal, sys, time
from partition_client import AsyncClient, Client, ForkedProcess

address = sys.argv[1]


def child(what):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            print(what(), flush=True)
        except ForkedProcess as error:
            print(f"ForkedProcess: {error}", flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        print(f"the child ended with {status}", flush=True)


def fresh():
    with Client([address], deadline_s=10.0) as client:
        return client.get_key(b"k")
"""


async def run(body: str) -> list[str]:
    """What a program prints whose parent process uses a replica of this one."""
    async with StandInReplica().serving() as address, asyncio.timeout(WITHIN_S):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT + textwrap.dedent(body),
            address,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_an_inherited_client_says_so_in_every_method() -> None:
    lines = await run(
        """
        from partition_client import PayloadSource

        client = Client([address], deadline_s=10.0)
        client.set_key(b"k", b"v")
        source = PayloadSource.of_bytes(b"1")
        for use in (
            lambda: client.set_key(b"k", b"w"),
            lambda: client.delete_key(b"k"),
            lambda: client.get_key(b"k"),
            lambda: client.put_file(b"f", source),
            lambda: client.read_file(b"f"),
            lambda: list(client.list_keys()),
            fresh,
        ):
            child(use)
        child(client.close)
        child(lambda: client.__exit__())
        print(client.get_key(b"k"))
        client.close()
        child(fresh)
        """
    )
    assert all(line.startswith("ForkedProcess: this p") for line in lines[:7]), lines
    assert "a new client after the fork" in lines[0]
    assert "close every client before the fork" in lines[6]
    assert lines[7:] == ["None", "None", "b'v'", "b'v'"]


async def test_an_inherited_asynchronous_client_says_so_in_every_method() -> None:
    lines = await run(
        """
        from partition_client import PayloadSource

        async def all_of(items):
            return [item async for item in items]

        async def main():
            client = AsyncClient([address], deadline_s=10.0)
            await client.set_key(b"k", b"v")
            return client

        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(main())
        source = PayloadSource.of_bytes(b"1")
        for use in (
            lambda: client.append([]),
            lambda: client.set_key(b"k", b"w"),
            lambda: client.delete_key(b"k"),
            lambda: client.get_key(b"k"),
            lambda: client.put_file(b"f", source),
            lambda: client.remove_file(b"f"),
            lambda: client.read_file(b"f", print),
            lambda: client.list_tree(),
            lambda: all_of(client.list_keys()),
            lambda: all_of(client.tail()),
            lambda: client.statuses(),
            lambda: client.status(),
            lambda: client.state(),
        ):
            child(lambda: asyncio.run(use()))
        child(lambda: asyncio.run(client.close()))
        loop.run_until_complete(client.close())
        child(fresh)
        """
    )
    for line in lines[:13]:
        assert line.startswith("ForkedProcess: this partition"), lines
    assert lines[13:] == ["None", "b'v'"]


async def test_a_child_that_uses_no_client_ends_well() -> None:
    """gRPC's fork handlers, if they are on, end about every third one by a signal."""
    lines = await run(
        """
        with Client([address], deadline_s=10.0) as client:
            for _ in range(20):
                client.set_key(b"k", b"v")
                child(lambda: sum(range(300_000)) > 0)
        """
    )
    assert lines == ["True"] * 20


async def test_a_client_closed_before_the_fork_is_no_hindrance() -> None:
    lines = await run(
        """
        for _ in range(10):
            with Client([address], deadline_s=10.0) as client:
                client.set_key(b"k", b"v")
            child(fresh)
        """
    )
    assert lines == ["b'v'"] * 10


async def test_processes_that_are_started_anew_make_clients() -> None:
    lines = await run(
        """
        import subprocess

        with Client([address], deadline_s=10.0) as client:
            client.set_key(b"k", b"v")
            code = "import sys; from partition_client import Client; "
            code += "print(Client([sys.argv[1]]).get_key(b'k'))"
            subprocess.run([sys.executable, "-c", code, address], check=True, timeout=50)
        """
    )
    assert lines == ["b'v'"]


# --- the client for code without an event loop ------------------------------------------------


async def test_a_closed_client_says_so() -> None:
    async with StandInReplica().serving() as address:

        def use() -> None:
            client = Client([address], deadline_s=10.0)
            client.set_key(b"k", b"v")
            client.close()
            client.close()
            with pytest.raises(ClientError, match="is closed"):
                client.get_key(b"k")

        await asyncio.to_thread(use)
        client = AsyncClient([address], deadline_s=10.0)
        await client.close()
        for call in (client.get_key(b"k"), client.set_key(b"k", b"v"), client.list_tree()):
            with pytest.raises(ClientError, match="is closed"):
                await call


def test_a_client_that_can_not_be_made_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidEndpoint):
        Client(["https://localhost"])
    assert threading.active_count() == before


async def test_close_ends_the_calls_of_other_threads() -> None:
    class Mute(StandInReplica):
        async def GetFrames(self, request: object, context: object) -> AsyncIterator[Any]:
            asked.set()
            await asyncio.Event().wait()
            yield

    asked = asyncio.Event()
    async with Mute().serving() as address, asyncio.timeout(WITHIN_S):
        client = Client([address], deadline_s=2 * WITHIN_S)
        call = asyncio.create_task(asyncio.to_thread(client.get_key, b"k"))
        await asked.wait()
        await asyncio.to_thread(client.close)
        with pytest.raises(ClientError, match="closed"):
            await call
