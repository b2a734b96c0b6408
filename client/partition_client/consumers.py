"""`partitionctl consumer ls|rm`: the consumers that keep the log of a replica."""

import argparse
import asyncio
import json

from partition_proto.v1 import log_store_pb2 as api

from partition_client.client import AsyncClient
from partition_client.endpoints import check_endpoint
from partition_client.errors import ClientError, NotFound
from partition_client.terminal import EXIT_REFUSED, UsageError, print_out, say

Found = tuple[api.ListConsumersResponse, int]
"""A replica's consumers, and the LSN up to which it has applied the log."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `consumer` with its own commands."""
    text = "the consumers of a replica, which keep its log"
    consumer = commands.add_parser("consumer", help=text, description=text)
    actions = consumer.add_subparsers(dest="action", required=True)
    for name, about, replica in (
        (
            "ls",
            "list them, the one that is furthest behind first",
            "without it, all of --endpoints",
        ),
        ("rm", "remove one: the log no longer waits for it", "not needed for a single endpoint"),
    ):
        action = actions.add_parser(name, help=about, description=about)
        if name == "rm":
            action.add_argument("name", help="as `consumer ls` shows it")
        action.add_argument("--replica", default="", help=f"the replica's own host:port; {replica}")
        action.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print JSON, one value per line",
        )


async def run(client: AsyncClient, options: argparse.Namespace) -> int:
    """Runs one of the commands; returns the exit code. Raises UsageError, ClientError."""
    if options.replica:
        check_endpoint(options.replica)
    act = _ls if options.action == "ls" else _rm
    return await act(client, options)


async def _ls(client: AsyncClient, options: argparse.Namespace) -> int:
    replicas = [options.replica] if options.replica else client.endpoints
    found = await asyncio.gather(*(_ask(client, replica) for replica in replicas))
    answers = {
        replica: one
        for replica, one in zip(replicas, found, strict=True)
        if not isinstance(one, ClientError)
    }
    consumers = [
        (max(0, applied - one.lsn), replica, one)
        for replica, (listed, applied) in answers.items()
        for one in listed.consumers
    ]
    rows = [
        {"replica": replica, "name": one.name, "lsn": one.lsn, "behind": behind}
        for behind, replica, one in sorted(consumers, key=lambda row: row[0], reverse=True)
    ]
    if options.json:
        for row in rows:
            print_out(json.dumps(row))
    elif rows:
        print_out(f"{'REPLICA':<40} {'LSN':>10} {'BEHIND':>10} NAME")
        for row in rows:
            print_out(f"{row['replica']:<40} {row['lsn']:>10} {row['behind']:>10} {row['name']}")
    elif answers:
        print_out(f"no consumers at {', '.join(answers)}")
    for one in found:
        if isinstance(one, ClientError):
            say(one)
    return 0 if len(answers) == len(replicas) else EXIT_REFUSED


async def _ask(client: AsyncClient, replica: str) -> Found | ClientError:
    try:
        listed = await client.list_consumers(replica=replica)
        return listed, (await client.status(stale_from=replica)).applied
    except ClientError as error:
        return error


async def _rm(client: AsyncClient, options: argparse.Namespace) -> int:
    if not options.replica and len(client.endpoints) > 1:
        raise UsageError(
            "a consumer is registered at one replica: name it with --replica HOST:PORT; "
            "consumer ls shows which one"
        )
    replica = options.replica or client.endpoints[0]
    try:
        await client.remove_consumer(options.name, replica=replica)
    except NotFound as error:
        raise NotFound(
            f"there is no consumer {options.name!r} at {replica}; consumer ls shows where it is "
            "registered",
            error.reason,
        ) from error
    row = {"replica": replica, "name": options.name}
    print_out(json.dumps(row) if options.json else f"removed {options.name} at {replica}")
    return 0
