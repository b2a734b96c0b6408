"""The command line of `partition-replica snapshot`: take, restore, verify, ls, delete. Users run
them, and so do the pods that the operator starts. A replica runs take, verify and delete as child
processes (--job, see `child`)."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from partition_common import limit_flags
from partition_snapshots import failpoints as stored_failpoints
from partition_snapshots.destination import add_arguments
from partition_snapshots.limits import SnapshotLimits

from partition_replica.core.snapshot_progress import progress_of
from partition_replica.errors import Cancelled, InvalidArgument
from partition_replica.offline.bars import progress_bar
from partition_replica.offline.rendering import positions_text
from partition_replica.offline.snapshots import reports
from partition_replica.offline.snapshots.actions import ACTIONS, Report
from partition_replica.offline.snapshots.child import Parent
from partition_replica.storage.failpoints import reach
from partition_replica.transport.progress import served_progress

logger = logging.getLogger(__name__)

DEPRECATED_ACTIONS = {"publish": "take", "prune": "delete"}
"""Earlier names of actions, accepted for one more minor version, and today's names."""


class _Deprecated(argparse.Action):
    """A deprecated name of a flag without a value. `use`: today's name."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, use: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=False, help=f"deprecated: use {use}"
        )
        self._use = use

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        logger.warning("%s is deprecated: use %s", option_string, self._use)
        setattr(options, self.dest, True)


def add_command(commands: Any) -> None:
    """Adds `snapshot` to `partition-replica`'s parser."""
    parser = commands.add_parser(
        "snapshot", help="take, restore, verify, list or delete stored snapshots"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    made = actions.add_parser("take", help="store a snapshot of a stopped replica's state")
    made.add_argument("--data", type=Path, required=True, help="the volume")
    made.add_argument(
        "--uid",
        default="",
        help="identifies the request: a retry with the same UID finds the snapshot of an earlier "
        "try (default: the snapshot's ID)",
    )
    made.add_argument(
        "--partition", default="", help="namespace/name of the Partition, for the manifest"
    )
    made.add_argument(
        "--full", action="store_true", help="do not build on an earlier snapshot in the store"
    )
    made.add_argument("--cluster-id", default="", help=argparse.SUPPRESS)  # of a running replica
    back = actions.add_parser("restore", help="make a new volume from a stored snapshot")
    back.add_argument("--data", type=Path, required=True, help="the new volume")
    back.add_argument("--cluster-id", required=True, help="the ID of the new group, a UUID")
    back.add_argument(
        "--standalone", action="store_true", help="make the volume standalone, without Raft"
    )
    back.add_argument("--unreplicated", dest="standalone", action=_Deprecated, use="--standalone")
    proof = actions.add_parser("verify", help="read a whole snapshot and compare every digest")
    proof.add_argument(
        "--restore",
        action="store_true",
        help="also restore it into a scratch volume and verify that volume",
    )
    proof.add_argument(
        "--scratch", type=Path, help="directory for the scratch volume (default: TMPDIR)"
    )
    listing = actions.add_parser("ls", help="list the snapshots of a store")
    listing.set_defaults(snapshot=None)
    gone = actions.add_parser(
        "delete", help="delete snapshots, and the objects that no other snapshot uses"
    )
    for command in (made, gone):
        # The owner does one thing at a time with a store, so leftovers of its earlier processes
        # are deleted at once.
        command.add_argument("--owner", default="", help=argparse.SUPPRESS)
    for command in (back, proof):
        command.add_argument(
            "--listen",
            default=os.environ.get("PARTITION_PROGRESS_LISTEN", ""),
            metavar="HOST:PORT",
            help="address at which the command serves its progress as JSON, GET /progress, while "
            "it runs (default: the environment variable PARTITION_PROGRESS_LISTEN)",
        )
    for command in (made, back, proof):
        command.add_argument("--snapshot", required=True, help="the snapshot's ID")
    gone.add_argument(
        "--snapshot", action="append", required=True, help="a snapshot's ID; may be repeated"
    )
    for command in actions.choices.values():
        add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--report", type=Path, help="a file to write the report to, as JSON")
        command.add_argument(
            "--limit",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="overrides a limit: " + ", ".join(f.name for f in fields(SnapshotLimits)),
        )
        command.add_argument("--job", action="store_true", help=argparse.SUPPRESS)


def with_todays_action(arguments: Sequence[str]) -> list[str]:
    """The program's arguments with an action's earlier name replaced by today's."""
    found = list(arguments)
    if found[:1] == ["snapshot"] and len(found) > 1 and found[1] in DEPRECATED_ACTIONS:
        today = DEPRECATED_ACTIONS[found[1]]
        logger.warning("snapshot %s is deprecated: use snapshot %s", found[1], today)
        found[1] = today
    return found


def run(options: argparse.Namespace) -> int:
    """Runs one of the commands; returns the exit code (see `reports`)."""
    stored_failpoints.hook = reach
    with progress_bar(options.json or options.job) as bar:
        report, code = asyncio.run(_run(options, bar))
    if options.report is not None:
        reports.write(options.report, report)
    if not options.job:
        _show(options, report)
    return code


class _Watched:
    """A Listener that shows progress on a terminal and keeps the latest in `said`, for requests.
    The percentage in `said` never falls."""

    def __init__(self, kind: str, show: Callable[[str, int, int], None]) -> None:
        self._kind = kind
        self._show = show
        self.said = progress_of(kind, "", 0, 0)

    def progress(self, phase: str, done: int, total: int) -> None:
        """On any thread."""
        name, percent = progress_of(self._kind, phase, done, total)
        self.said = (name, max(percent, self.said[1]))
        self._show(phase, done, total)


def _kind(options: argparse.Namespace) -> str:
    if options.action == "take":
        return "take"
    if options.action == "verify" and options.restore:
        return "prove"
    return "verify" if options.action == "ls" else str(options.action)


def _served(listen: str, watched: _Watched) -> AbstractAsyncContextManager[None]:
    return served_progress(listen, lambda: watched.said) if listen else nullcontext()


async def _run(
    options: argparse.Namespace, bar: Callable[[str, int, int], None]
) -> tuple[Report, int]:
    parent = Parent() if options.job else None
    watched = _Watched(_kind(options), bar)
    report: Report
    try:
        limits = _limits(options.limit)
        action = ACTIONS[options.action](options, limits, parent or watched)
        task = asyncio.ensure_future(action)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with _served(getattr(options, "listen", ""), watched):
            report, code = {"state": "succeeded"} | await task, reports.EXIT_DONE
    except (Exception, asyncio.CancelledError) as error:
        cause: BaseException = error
        if isinstance(error, asyncio.CancelledError):
            cause = Cancelled("the command received SIGTERM; it leaves nothing half-done")
        failure = reports.failure(cause)
        report, code = failure.report(), failure.exit_code
        if isinstance(options.snapshot, str):
            report["snapshotID"] = options.snapshot
    if parent is not None:
        parent.report(report)
    return report, code


def _limits(flags: list[str]) -> SnapshotLimits:
    try:
        return limit_flags.override(SnapshotLimits(), flags, positive=False)
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def _show(options: argparse.Namespace, report: Report) -> None:
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    elif report["state"] == "failed":
        sys.stderr.write(f"partition-replica: {report['reason']}: {report['message']}\n")
    elif "snapshots" in report:
        sys.stdout.write(_table(report["snapshots"]) + "\n")
    else:
        sys.stdout.write(positions_text(report) + "\n")


def _table(listed: list[Report]) -> str:
    lines = [f"{'SNAPSHOT':<32} {'LSN':>12} {'KEYS':>10} {'FILES':>10} {'BYTES':>14}  CREATED"]
    for one in listed:
        if "reason" in one:
            lines.append(f"{one['snapshotID']:<32} {one['reason']}: {one['message']}")
        else:
            lines.append(
                f"{one['snapshotID']:<32} {one['lsn']:>12} {one['keys']:>10} {one['files']:>10} "
                f"{one['sizeBytes']:>14}  {one['createdAt']}"
            )
    return "\n".join(lines)
