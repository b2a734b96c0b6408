"""`partitionctl snapshot ls|verify`: the snapshots in a directory or a bucket. Needs no replica."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from partition_snapshots.destination import add_arguments, from_arguments, open_store
from partition_snapshots.errors import EXIT_DAMAGED, SnapshotError
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.manifests import summary
from partition_snapshots.model import LATEST, DamagedManifest, Manifest, StoreProgress
from partition_snapshots.read import list_snapshots
from partition_snapshots.store import Store
from partition_snapshots.verify import verify
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from partition_client.terminal import named, print_out, say

KIBI = 1024
"""Bytes of a KiB, KiB of a MiB and so on."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `snapshot` with its own commands."""
    text = "list or verify the snapshots in a directory or a bucket; needs no replica"
    snapshot = commands.add_parser("snapshot", help=text, description=text)
    actions = snapshot.add_subparsers(dest="action", required=True)
    for name, about in (
        ("ls", "list the snapshots, damaged ones first"),
        ("verify", "read all data of a snapshot and compare it with the recorded digests"),
    ):
        action = actions.add_parser(name, help=about, description=about)
        add_arguments(action)
        action.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print JSON, one value per line",
        )
        if name == "verify":
            action.add_argument("snapshot", nargs="?", default=LATEST, help=f"an ID, or {LATEST}")


async def run(options: argparse.Namespace) -> int:
    """Runs one command and returns its exit code: 0, or the SnapshotError's. 65: damaged or of an
    unknown version. 69: unavailable. 73: full. 78: a wrong ID, destination or credentials."""
    limits = limits_within(options.deadline)
    try:
        store = open_store(from_arguments(options, os.environ), limits)
        try:
            act = _ls if options.action == "ls" else _verify
            return await act(store, options, limits)
        finally:
            await store.close()
    except SnapshotError as error:
        if options.json:
            values = {"state": "failed", "reason": error.reason, "message": str(error)}
            print_out(json.dumps(values | {"retriable": error.retriable}))
        say(error)
        return error.exit_code


def limits_within(deadline_s: float) -> SnapshotLimits:
    """Returns limits with which no wait for a store exceeds the deadline."""
    usual = SnapshotLimits()
    return replace(
        usual,
        retry_timeout_s=deadline_s,
        connect_timeout_s=min(usual.connect_timeout_s, deadline_s),
        request_timeout_s=min(usual.request_timeout_s, deadline_s),
    )


async def _ls(store: Store, options: argparse.Namespace, limits: SnapshotLimits) -> int:
    found = await list_snapshots(store, limits)
    if options.json:
        for one in found:
            print_out(json.dumps(row(one)))
    elif found:
        with named("standard output"):
            Console(markup=False, width=None if sys.stdout.isatty() else 160).print(_table(found))
    else:
        absent = options.directory is not None and not options.directory.exists()
        print_out(f"no snapshots in {store.description}{', which does not exist' * absent}")
    damaged = any(isinstance(one, DamagedManifest) for one in found)
    return EXIT_DAMAGED if damaged else 0


def row(found: Manifest | DamagedManifest) -> dict[str, Any]:
    """A snapshot as JSON."""
    if isinstance(found, DamagedManifest):
        values = {"snapshotID": found.snapshot_id, "state": "Damaged"}
        return values | {"reason": found.reason, "message": found.message}
    return summary(found) | {"state": "Stored"}


def _table(found: list[Manifest | DamagedManifest]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ID", "LSN", "TERM", "TIME", "KEYS", "FILES", "SIZE", "KIND", "STATE"):
        right = name in ("LSN", "TERM", "KEYS", "FILES", "SIZE")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for one in found:
        if isinstance(one, DamagedManifest):
            table.add_row(one.snapshot_id, *[""] * 7, f"Damaged: {one.message}", style="red")
            continue
        table.add_row(
            one.snapshot_id,
            str(one.lsn),
            str(one.term),
            _time(one.time_ms),
            str(one.keys),
            str(one.files),
            _size(one.size_bytes),
            "INCREMENTAL" if one.incremental else "FULL",
            "Stored",
        )
    return table


def _time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < KIBI:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= KIBI
    return f"{size:.1f} TiB"


async def _verify(store: Store, options: argparse.Namespace, limits: SnapshotLimits) -> int:
    with _bar(options) as advance:
        manifest = await verify(store, options.snapshot, limits, advance)
    if options.json:
        print_out(json.dumps(row(manifest) | {"state": "Verified"}))
    else:
        print_out(
            f"{manifest.snapshot_id}: verified; LSN {manifest.lsn}, {manifest.keys} keys, "
            f"{manifest.files} files, {_size(manifest.size_bytes)} read, digest {manifest.digest}"
        )
    return 0


class _bar:  # noqa: N801  # used as a with-statement's word
    """A progress bar on standard error, unless that is not a terminal or --json is given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._bar = Bar(
            TextColumn("verify"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=options.json or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("verify", total=None)

    def __enter__(self) -> Callable[[StoreProgress], None]:
        self._bar.start()
        return lambda found: self._bar.update(
            self._task, completed=found.done_bytes, total=found.total_bytes
        )

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
