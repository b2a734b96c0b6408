"""`partitionctl`, the command-line client of a partition."""

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from partition_proto.v1 import log_store_pb2 as api
from partition_snapshots.process import leave
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from partition_client import consumers, snapshots
from partition_client.channels import Tls
from partition_client.client import AsyncClient
from partition_client.errors import ClientError, InvalidEndpoint, NotFound
from partition_client.paths import file_path, prefix_end, tree_path
from partition_client.sources import PayloadSource
from partition_client.terminal import (
    EXIT_INTERRUPTED,
    EXIT_PIPE,
    EXIT_REFUSED,
    EXIT_USAGE,
    UsageError,
    check_streams,
    count,
    drop_out,
    flush_out,
    os_fault,
    print_out,
    read_in,
    say,
    seconds,
    write_out,
)
from partition_client.tree import TreeSummary as Summary
from partition_client.tree import digest_directory, digest_tree, get_tree, put_tree

STALE_FROM = "read what this replica has applied, which may lag; the replica's own host:port"


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="partitionctl",
        description="Reads and writes a partition. Flags come before the command. The variables "
        "PARTITION_ENDPOINTS, PARTITION_TLS_DIR and PARTITION_SERVER_NAME set the defaults of the "
        "flags with these names.",
    )
    env = os.environ.get
    main.add_argument(
        "--endpoints",
        default=env("PARTITION_ENDPOINTS", ""),
        help="host:port of the replicas, or unix:/PATH of the socket of one, separated by commas",
    )
    main.add_argument(
        "--tls-dir",
        default=env("PARTITION_TLS_DIR", ""),
        help="directory with tls.crt, tls.key and ca.crt; without it, connections have no TLS",
    )
    main.add_argument(
        "--server-name",
        default=env("PARTITION_SERVER_NAME", ""),
        help="the name in the replicas' certificate, if the endpoints have other names",
    )
    main.add_argument(
        "--use-proxy",
        action="store_true",
        help="connect through the proxy in https_proxy or http_proxy of the environment",
    )
    main.add_argument(
        "--deadline",
        type=seconds,
        default=60.0,
        help="seconds that a call may take with its retries; a transfer counts from its last "
        "progress; default 60",
    )
    main.add_argument("--json", action="store_true", help="print JSON, one value per line")
    commands = main.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        for argument in arguments:
            sub.add_argument(argument)
        return sub

    put = command("put", "set a key to VALUE, or a file to the content of --file", "name")
    put.add_argument(
        "value",
        nargs="?",
        help="the key's value; - reads standard input; write -- before a value that begins with -",
    )
    put.add_argument("--file", type=Path, help="put this file into the tree at NAME instead")
    get = command("get", "print a key's value, or with --file a file of the tree", "name")
    get.add_argument("--file", action="store_true")
    get.add_argument("--stale-from", default="", help=STALE_FROM)
    ls = command("ls", "list the tree, or with --keys the keys that begin with PATH")
    ls.add_argument("path", nargs="?", default="")
    ls.add_argument("--keys", action="store_true")
    ls.add_argument("-r", "--recursive", action="store_true")
    rm = command("rm", "remove a key, or with --file a file or empty directory", "name")
    rm.add_argument("--file", action="store_true")
    put_dir = command("put-tree", "put a directory's content into the tree", "directory")
    put_dir.add_argument("--under", default="", help="directory of the tree; created if absent")
    get_dir = command(
        "get-tree", "write the tree, or its directory --under, to a local directory", "directory"
    )
    get_dir.add_argument("--under", default="")
    get_dir.add_argument("--stale-from", default="", help=STALE_FROM)
    digest = command(
        "digest-tree", "print one SHA-256 over all paths, modes and contents that a replica streams"
    )
    digest.add_argument("--under", default="")
    digest.add_argument("--stale-from", default="", help=STALE_FROM)
    digest.add_argument("--local", type=Path, help="hash this local directory instead")
    log = command("log", "print entries of the log")
    log.add_argument("action", choices=["tail"])
    log.add_argument("--from", dest="from_lsn", metavar="LSN", type=count, default=0)
    log.add_argument("-f", "--follow", action="store_true")
    log.add_argument("--history", default="", help="ID of the history that --from belongs to")
    log.add_argument("-n", "--lines", metavar="N", type=count, help="only the last N entries")
    log.add_argument("--stale-from", default="", help=STALE_FROM)
    command("status", "show the status of every replica")
    consumers.add_commands(commands)
    snapshots.add_commands(commands)
    return main


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Ends the process with EXIT_USAGE if the command line is wrong."""
    found = parser()
    options, rest = found.parse_known_args(arguments)
    if rest:
        hint = "; write -- before a value that begins with -, as in: put -- KEY -VALUE"
        dashed = any(one.startswith("-") for one in rest)
        found.error(f"unrecognized arguments: {' '.join(rest)}{hint if dashed else ''}")
    return options


async def run(options: argparse.Namespace) -> int:
    """Runs one command; returns the exit code."""
    if options.command == "snapshot":
        return await snapshots.run(options)
    if options.command == "digest-tree" and options.local:
        if options.under or options.stale_from:
            raise UsageError(
                "--local reads only a local directory; remove --under and --stale-from"
            )
        summary = Summary()
        digest = digest_directory(options.local, summary)
        show_skipped(summary)
        show(options, {"digest": digest}, "digest")
        return 0
    if not options.endpoints:
        raise UsageError("--endpoints is empty; give host:port of one or more replicas")
    if options.server_name and not options.tls_dir:
        raise UsageError("--server-name has no effect without TLS; give --tls-dir, too")
    tls = Tls.in_directory(Path(options.tls_dir), options.server_name) if options.tls_dir else None
    async with AsyncClient(
        options.endpoints.split(","),
        tls,
        deadline_s=options.deadline,
        use_proxy=options.use_proxy,
    ) as client:
        return await COMMANDS[options.command](client, options)


def show(options: argparse.Namespace, values: dict[str, Any], plain: str) -> None:
    """Prints all values as JSON with --json; without it, only the value of `plain`."""
    print_out(json.dumps(values) if options.json else values[plain])


def text(value: bytes) -> str:
    """Returns UTF-8 bytes as text, and other bytes as "base64:" and their base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()


async def put(client: AsyncClient, options: argparse.Namespace) -> int:
    name = os.fsencode(options.name)
    if options.file is not None:
        if options.value is not None:
            raise UsageError("VALUE sets a key and --file writes a file of the tree; give only one")
        path = file_path(name)
        source = await asyncio.to_thread(PayloadSource.of_file, options.file)
        appended = await client.put_file(path, source)
    elif options.value is None:
        raise UsageError("no value is given; give VALUE, - for standard input, or --file FILE")
    else:
        value = read_in() if options.value == "-" else os.fsencode(options.value)
        appended = await client.set_key(name, value)
    show(options, {"lsn": appended.lsn, "term": appended.term}, "lsn")
    return 0


async def get(client: AsyncClient, options: argparse.Namespace) -> int:
    name = os.fsencode(options.name)
    if options.file:
        await client.read_file(file_path(name), write_out, stale_from=options.stale_from)
        return 0
    value = await client.get_key(name, stale_from=options.stale_from)
    if value is None:
        raise NotFound(f"there is no key {options.name!r}", "NOT_FOUND")
    if options.json:
        print_out(json.dumps({"key": options.name, "value": text(value)}))
    else:
        write_out(value)
    return 0


async def ls(client: AsyncClient, options: argparse.Namespace) -> int:
    start = os.fsencode(options.path)
    if options.keys:
        if options.recursive:
            raise UsageError("--keys lists every key that begins with PATH; remove --recursive")
        async for key, value in client.list_keys(start, prefix_end(start)):
            values = {"key": text(key), "bytes": len(value), "value": text(value)}
            show(options, values, "key")
        return 0
    for entry in await client.list_tree(tree_path(start), recursive=options.recursive):
        kind = "directory" if entry.directory else "file"
        if options.json:
            row = {"path": text(entry.path), "kind": kind, "mode": f"{entry.mode:04o}"}
            print_out(json.dumps(row | {"size": entry.size, "sha256": entry.digest.hex()}))
        else:
            mark = "d" if entry.directory else "-"
            print_out(f"{mark} {entry.mode:04o} {entry.size:>12} {text(entry.path)}")
    return 0


async def rm(client: AsyncClient, options: argparse.Namespace) -> int:
    name = os.fsencode(options.name)
    if options.file:
        appended = await client.remove_file(await entry_path(client, name))
    else:
        appended = await client.delete_key(name)
    show(options, {"lsn": appended.lsn, "term": appended.term}, "lsn")
    return 0


async def entry_path(client: AsyncClient, name: bytes) -> bytes:
    """Returns the path in the tree. Raises NotFound if `name` ends with a slash and is not a
    directory of the tree."""
    path = tree_path(name)
    if name.endswith(b"/"):
        await client.list_tree(path)  # raises NotFound for anything else
    return path


async def put_directory(client: AsyncClient, options: argparse.Namespace) -> int:
    root = Path(options.directory)
    if not root.is_dir():
        raise UsageError(f"{root} is not a directory; give a local directory")
    with bar(options, "put") as shown:
        under = tree_path(os.fsencode(options.under), "--under")
        summary = await put_tree(client, root, under, shown.advance, shown.begin)
    show_summary(options, summary)
    return 0


async def get_directory(client: AsyncClient, options: argparse.Namespace) -> int:
    under = tree_path(os.fsencode(options.under), "--under")
    root = Path(options.directory)
    with bar(options, "get") as shown:
        summary = await get_tree(
            client, under, root, shown.advance, shown.begin, stale_from=options.stale_from
        )
    show_summary(options, summary)
    return 0


async def digest_of_tree(client: AsyncClient, options: argparse.Namespace) -> int:
    under = tree_path(os.fsencode(options.under), "--under")
    found = await digest_tree(client, under, stale_from=options.stale_from)
    show(options, {"digest": found}, "digest")
    return 0


async def log(client: AsyncClient, options: argparse.Namespace) -> int:
    start = options.from_lsn
    if options.lines is not None:
        # Ask the replica that `tail` reads from: another one may have applied or compacted more.
        tailed = await client.status(stale_from=options.stale_from)
        start = max(start, tailed.applied - options.lines + 1, tailed.first_index)
    entries = client.tail(
        start, follow=options.follow, stale_from=options.stale_from, history=options.history
    )
    async for entry in entries:
        print_out(json.dumps(entry_row(entry)) if options.json else entry_line(entry), flush=True)
    return 0


def entry_row(entry: api.ReadResponse) -> dict[str, Any]:
    """An entry of the log as JSON."""
    proposal = entry.body.proposal
    kind = entry.body.WhichOneof("body") or (
        "configuration" if entry.configuration_change else "empty"
    )
    return {
        "lsn": entry.lsn,
        "term": entry.term,
        "kind": kind,
        "time_ms": entry.body.time_ms,
        "operations": [operation_row(operation) for operation in proposal.operations],
        "payloads": [
            {"sha256": payload.digest.hex(), "size": payload.size} for payload in proposal.payloads
        ],
    }


def operation_row(operation: Any) -> dict[str, Any]:
    name = operation.WhichOneof("operation") or "unknown"
    fields = getattr(operation, name).ListFields() if name != "unknown" else []
    return {"operation": name} | {
        field.name: text(value) if isinstance(value, bytes) else value for field, value in fields
    }


def entry_line(entry: api.ReadResponse) -> str:
    row = entry_row(entry)
    words = [
        f"{op['operation']} {op.get('key') or op.get('path') or op.get('destination_path') or ''}"
        for op in row["operations"][:3]
    ]
    more = len(row["operations"]) - len(words)
    return (
        f"{row['lsn']:>10} T{row['term']:<4} {row['kind']:<14} {'; '.join(words)}"
        + (f" and {more} more" if more > 0 else "")
    ).rstrip()


async def status(client: AsyncClient, options: argparse.Namespace) -> int:
    found = await client.statuses()
    rows: list[dict[str, Any]] = []
    for endpoint, answer in found.items():
        if answer is None:
            why = client.explain(endpoint).removeprefix(f"{endpoint}: ")
            rows.append({"endpoint": endpoint, "role": "unreachable", "error": why})
            continue
        rows.append(
            {
                "endpoint": endpoint,
                "member": f"{answer.member_id:016x}",
                "role": answer.role,
                "term": answer.term,
                "first": answer.first_index,
                "last": answer.last_index,
                "committed": answer.committed,
                "applied": answer.applied,
                "leader": f"{answer.leader.member_id:016x}",
                "cluster": answer.cluster_id,
                "history": answer.history_id,
                "disk_full": answer.disk_full,
                "free_bytes": answer.disk_free_bytes,
            }
        )
    if options.json:
        for row in rows:
            print_out(json.dumps(row))
    else:
        print_out(f"{'ENDPOINT':<40} {'ROLE':<14} {'TERM':>5} {'APPLIED':>10} {'LAST':>10}")
        for row in rows:
            print_out(
                f"{row['endpoint']:<40} {row['role']:<14} {row.get('term', ''):>5} "
                f"{row.get('applied', ''):>10} {row.get('last', ''):>10}"
            )
        for row in rows:
            if "error" in row:
                say(f"{row['endpoint']}: {row['error']}")
    return 0 if any(answer is not None for answer in found.values()) else EXIT_REFUSED


class bar:  # noqa: N801  # used as a with-statement's word
    """A progress bar on standard error, unless that is not a terminal or --json is given."""

    def __init__(self, options: argparse.Namespace, what: str) -> None:
        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=options.json or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> "bar":
        self._progress.start()
        return self

    def begin(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, _files: int, size: int) -> None:
        self._progress.advance(self._task, size)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def show_skipped(summary: Summary) -> None:
    for path in summary.skipped:
        say(f"skipped {path}: neither a file nor a directory")


def show_summary(options: argparse.Namespace, summary: Summary) -> None:
    show_skipped(summary)
    values = {
        "files": summary.files,
        "directories": summary.directories,
        "bytes": summary.bytes,
        "skipped": len(summary.skipped),
    }
    if options.json:
        print_out(json.dumps(values))
    else:
        print_out(
            f"{summary.files} files, {summary.directories} directories, {summary.bytes} bytes, "
            f"{len(summary.skipped)} skipped"
        )


COMMANDS: dict[str, Callable[[AsyncClient, argparse.Namespace], Awaitable[int]]] = {
    "put": put,
    "get": get,
    "ls": ls,
    "rm": rm,
    "put-tree": put_directory,
    "get-tree": get_directory,
    "digest-tree": digest_of_tree,
    "log": log,
    "status": status,
    "consumer": consumers.run,
}


async def answer(options: argparse.Namespace) -> int:
    """Runs one command. Prints its error as one line on standard error; returns the exit code."""
    try:
        check_streams()
        code = await run(options)
        flush_out()
    except (UsageError, InvalidEndpoint) as error:
        say(error)
        return EXIT_USAGE
    except ClientError as error:
        say(error)
        return EXIT_REFUSED
    except BrokenPipeError:
        return EXIT_PIPE  # the reader of our output closed the pipe
    except OSError as error:
        say(os_fault(error))
        return EXIT_REFUSED
    return code


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if os.getpid() == 1:
        # The kernel ignores SIGTERM for the first process of a container that has no handler.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = asyncio.run(answer(options))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # reported already
            drop_out()
    if options.command == "snapshot":
        leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
