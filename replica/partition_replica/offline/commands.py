"""Flags, output and exit codes of inspect, verify, replication, recover-quorum, log and bench-disk.
`snapshots.commands` has those of `snapshot`. Exit codes:

0    success
1    the command was refused, a verification has findings, or a disk is too slow
2    invalid usage
70   the volume is damaged
74   reading or writing failed: the scratch directory, the target, the volume or the output is full,
     or its disk fails
141  the reader of the output closed it
"""

import argparse
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from partition_replica.config import TlsFiles
from partition_replica.core.limits import Limits
from partition_replica.core.model import LogEntry, VerifyReport
from partition_replica.errors import (
    Damaged,
    Fatal,
    InvalidArgument,
    NotFound,
    RecoveryRefused,
    ReplicaError,
)
from partition_replica.ids import LSN, ClusterID
from partition_replica.offline import arguments, rendering
from partition_replica.offline.bars import progress_bar
from partition_replica.offline.seed.log_export import export_log
from partition_replica.offline.seed.log_import import import_log
from partition_replica.offline.seed.log_survey import BaseTree
from partition_replica.offline.snapshots import commands as snapshots
from partition_replica.offline.stopped import StoppedVolume, open_stopped
from partition_replica.offline.volume import (
    disk_bench,
    recovery,
    replication,
    verification_child,
)
from partition_replica.offline.volume.remote import RemoteReplica, connect
from partition_replica.storage.verification import Verification

EXIT_REFUSED = 1
EXIT_DAMAGED = 70
EXIT_IO = 74
EXIT_PIPE = 141
PAGE_BYTES = 4 * 1024**2
BASE_FORMS = ("volume", "seed")


def add_commands(commands: Any) -> None:
    """Adds the subcommands to `partition-replica`'s parser."""
    inspect = commands.add_parser("inspect", help="show what a volume contains; read-only")
    _add_source(inspect)
    inspect.add_argument(
        "what",
        nargs="?",
        choices=["positions", "terms", "entry"],
        default="positions",
        help="positions: identity, indexes and positions (default); terms: the LSNs of each term; "
        "entry: one entry, by its LSN",
    )
    inspect.add_argument("lsn", nargs="?", type=arguments.lsn, help="the LSN of the entry")
    verify = commands.add_parser(
        "verify", help="check all stored data; read-only, exit code 1 if there are findings"
    )
    _add_source(verify)
    verify.add_argument(
        "--scratch",
        type=Path,
        help="directory for temporary files, with --data only (default: TMPDIR)",
    )
    verify.add_argument("--job", action="store_true", help=argparse.SUPPRESS)  # set by a replica
    switch = commands.add_parser(
        "replication", help="enable or disable Raft on the volume of a stopped, sole replica"
    )
    switch.add_argument("action", choices=["enable", "disable"])
    switch.add_argument("--data", type=Path, required=True, help="the volume")
    recover = commands.add_parser(
        "recover-quorum",
        help="make a survivor the only voter of a new group, if most voters are lost for good; "
        "without --accept-loss it only says what it found, and changes nothing",
    )
    recover.add_argument("--data", type=Path, required=True, help="the survivor's volume")
    recover.add_argument(
        "--accept-loss",
        metavar="TOKEN",
        default="",
        help="the token that the command printed for the volume as it is now",
    )
    recover.add_argument(
        "--cluster-id",
        type=arguments.cluster_id,
        help="the ID of the new group, a UUID (default: a new one)",
    )
    recover.add_argument("--json", action="store_true", help="print JSON")
    log = commands.add_parser("log", help="export a log as directories, or import one")
    actions = log.add_subparsers(dest="action", required=True)
    export = actions.add_parser(
        "export", help="write a stopped replica's log, one directory per entry"
    )
    export.add_argument("target", type=Path, help="a new directory; the log is TARGET/log")
    export.add_argument("--data", type=Path, required=True, help="the volume")
    export.add_argument(
        "--with-base",
        action="store_true",
        help="write the state, too; the import of a pruned log needs it",
    )
    export.add_argument(
        "--base-form",
        choices=BASE_FORMS,
        default=BASE_FORMS[0],
        help="format of the state: the files of a volume, or a snapshot of the seed",
    )
    export.add_argument(
        "--partition",
        type=int,
        default=1,
        help="the partition's number in the name of a seed snapshot (default: 1)",
    )
    take = actions.add_parser("import", help="make a new volume from a log of directories")
    take.add_argument("source", type=Path, help="the log: a directory with one directory per entry")
    take.add_argument("--data", type=Path, required=True, help="the new volume")
    take.add_argument(
        "--cluster-id",
        type=arguments.cluster_id,
        help="the ID of the new group, a UUID (default: a new one)",
    )
    take.add_argument(
        "--replication",
        choices=["Raft", "None"],
        default="None",
        help="Raft: the sole voter of a new group; None: standalone (default)",
    )
    take.add_argument("--hard-state", type=Path, help="a file with the log's raftpb.HardState")
    take.add_argument("--conf-state", type=Path, help="a file with the log's raftpb.ConfState")
    take.add_argument(
        "--base",
        type=Path,
        help="the state that a pruned log continues from: TARGET/base of an export, or a snapshot "
        "of the seed, <partition>-<term>-<index>.snap",
    )
    take.add_argument(
        "--base-tree",
        type=Path,
        help="instead of --base, with --base-keys: a directory with the state's files",
    )
    take.add_argument(
        "--base-keys", type=Path, help="a file with the state's keys, as a snapshot's kv-state"
    )
    take.add_argument(
        "--base-index",
        type=int,
        help="the LSN of the last entry that --base-tree and --base-keys include (default: the "
        "LSN before the log's first entry)",
    )
    for command in (export, take):
        command.add_argument("--json", action="store_true", help="print the report as JSON")
    measured = commands.add_parser(
        "bench-disk", help="measure fsync and writing on a disk, in a folder that is removed"
    )
    measured.add_argument("--data", type=Path, required=True, help="a directory of the disk")
    measured.add_argument(
        "--seconds",
        type=arguments.up_to(disk_bench.SECONDS_MAX),
        default=disk_bench.SECONDS_DEFAULT,
        help="of each of both parts, at most (default: %(default)s)",
    )
    measured.add_argument(
        "--mib",
        type=arguments.positive,
        default=disk_bench.BYTES_DEFAULT // disk_bench.MIB,
        help="size of the large file in MiB, at most (default: %(default)s)",
    )
    measured.add_argument("--json", action="store_true", help="print the report as JSON")
    measured.add_argument("--report", type=Path, help="a file to write the report to, as JSON")
    snapshots.add_command(commands)


def run(options: argparse.Namespace) -> int:
    """Runs one of the commands; returns the exit code."""
    try:
        code = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the output
        _drop_output()
        return EXIT_PIPE
    except OSError as error:
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
        why = ": ".join([*(names or ["reading or writing"]), error.strerror or str(error)])
        sys.stderr.write(f"partition-replica: {why}\n")
        _drop_output()
        return EXIT_IO
    except Fatal as error:
        sys.stderr.write(f"partition-replica: {type(error).__name__}: {error}\n")
        return EXIT_DAMAGED if isinstance(error, Damaged) else EXIT_IO
    except ReplicaError as error:
        sys.stderr.write(f"partition-replica: {error}\n")
        return EXIT_REFUSED
    except grpc.RpcError as error:
        sys.stderr.write(f"partition-replica: {error.code().name}: {error.details()}\n")
        return EXIT_REFUSED
    return code


def _drop_output() -> None:
    """Drops buffered output, so that Python does not try to write it again at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


# --- inspect ----------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> int:
    if (options.what == "entry") != (options.lsn is not None):
        raise InvalidArgument(
            "`entry` needs an LSN, and only `entry` takes one; for example: inspect … entry 42"
        )
    if options.address:
        with _remote(options) as replica:
            return _show_remote(options, replica)
    with open_stopped(options.data) as volume:
        return _show_stopped(options, volume)


def _show_stopped(options: argparse.Namespace, volume: StoppedVolume) -> int:
    log = volume.log
    match options.what:
        case "entry":
            _show_entry(options, log.read(LSN(options.lsn), LSN(options.lsn + 1), None))
        case "terms":
            _show_terms(options, _pages(volume))
        case _:
            index, configuration = log.configuration
            _show_positions(
                options,
                {
                    "member": f"{log.identity.member_id:x}",
                    "cluster": str(log.identity.cluster_id),
                    "replication": "None" if log.identity.standalone else "Raft",
                    "stored from": int(log.first_stored),
                    "first index": log.boundary.index + 1,
                    "last index": int(log.last.index),
                    "boundary term": int(log.boundary.term),
                    "last term": int(log.last.term),
                    "term": int(log.hard_state.term),
                    "vote": f"{log.hard_state.vote:x}",
                    "committed": int(log.committed),
                    "applied": int(volume.state.applied.index),
                    "backfill": asdict(log.backfill) if log.backfill else None,
                    "configuration": asdict(configuration) | {"as of": int(index)},
                    "consumers": {name: int(at) for name, at in log.positions.items()},
                    "recovery": rendering.recovery_values(log.recovery) if log.recovery else None,
                },
            )
    return 0


def _show_remote(options: argparse.Namespace, replica: RemoteReplica) -> int:
    match options.what:
        case "entry":
            _show_entry(options, list(replica.entries(options.lsn, options.lsn + 1)))
        case "terms":
            status = replica.status()
            _show_terms(options, replica.entries(status.stored_from, status.applied + 1))
        case _:
            status = replica.status()
            members = {f"{m.member_id:x}": f"{m.role} {m.address}" for m in status.members}
            _show_positions(
                options,
                {
                    "member": f"{status.member_id:x}",
                    "cluster": status.cluster_id,
                    "replication": "None" if status.standalone else "Raft",
                    "role": status.role,
                    "stored from": status.stored_from,
                    "first index": status.first_index,
                    "last index": status.last_index,
                    "term": status.term,
                    "committed": status.committed,
                    "applied": status.applied,
                    "low-water mark": status.low_water_mark,
                    "members": members,
                    "consumers": replica.consumers(),
                },
            )
    return 0


def _show_positions(options: argparse.Namespace, values: dict[str, Any]) -> None:
    print(json.dumps(values) if options.json else rendering.positions_text(values))


def _show_entry(options: argparse.Namespace, entries: list[LogEntry]) -> None:
    if not entries:
        raise NotFound(
            f"entry {options.lsn} is not stored, or not applied yet: see `inspect … positions`"
        )
    for entry in entries:
        shown = rendering.entry_json(entry) if options.json else rendering.entry_text(entry)
        print(json.dumps(shown) if options.json else shown)


def _show_terms(options: argparse.Namespace, entries: Iterator[LogEntry]) -> None:
    runs: list[tuple[int, int, int]] = []
    for entry in entries:
        if runs and runs[-1][2] == entry.term:
            runs[-1] = (runs[-1][0], int(entry.index), runs[-1][2])
        else:
            runs.append((int(entry.index), int(entry.index), int(entry.term)))
    if options.json:
        print(json.dumps([{"first": a, "last": b, "term": t} for a, b, t in runs]))
    else:
        print(rendering.terms_text(runs))


def _pages(volume: StoppedVolume) -> Iterator[LogEntry]:
    lo, end = volume.log.first_stored, LSN(volume.log.last.index + 1)
    while lo < end:
        page = volume.log.read(lo, end, PAGE_BYTES)
        yield from page
        lo = LSN(page[-1].index + 1)


# --- verify -----------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    if options.job:
        return verification_child.run(options.data, options.scratch)
    cut_off = False
    with progress_bar(options.json) as progress:
        if options.address:
            with _remote(options) as replica:
                report = replica.verify(progress)
        else:
            try:
                report, cut_off = _verify_stopped(options, progress)
            except Damaged as error:  # the volume cannot be opened
                report = VerifyReport()
                report.find(str(error))
                report.unchecked.append("everything else: the volume cannot be opened")
    print(json.dumps(asdict(report)) if options.json else rendering.report_text(report))
    if report.findings:
        return EXIT_REFUSED
    return EXIT_IO if cut_off else 0


def _verify_stopped(
    options: argparse.Namespace, progress: Callable[[str, int, int], None]
) -> tuple[VerifyReport, bool]:
    """Returns (report, whether a failure outside the volume ended the verification early)."""
    try:
        scratch = tempfile.TemporaryDirectory(prefix="verify-", dir=options.scratch)
    except OSError as error:
        raise InvalidArgument(
            f"cannot create a scratch directory ({error}): give a directory with free space "
            "(--scratch)"
        ) from error
    with open_stopped(options.data) as volume, scratch as directory:
        run = Verification(
            volume.log,
            volume.state,
            volume.blob_path,
            volume.blobs,
            Path(directory),
            live=False,
            progress=progress,
        )
        return run.run(), run.cut_off


# --- replication, log -------------------------------------------------------------------------


def _replication(options: argparse.Namespace) -> int:
    if options.action == "disable":
        last = replication.disable(options.data)
        print(
            f"replication is disabled: the log is standalone, its last LSN is {last}; start the "
            "replica as before"
        )
        return 0
    with progress_bar(False) as progress:
        found = replication.enable(
            options.data,
            Limits().backfill_rows,
            lambda at: progress("backfill", at.next - at.first, at.target + 1 - at.first),
        )
    print(
        f"replication is enabled: entries {found.first} to {found.target} have Raft's metadata, "
        f"and entries without a term now have term {found.term}; the replica is the sole voter"
    )
    return 0


def _recover_quorum(options: argparse.Namespace) -> int:
    if options.accept_loss:
        cluster = ClusterID(options.cluster_id or str(uuid.uuid4()))
        done = recovery.recover(options.data, cluster, options.accept_loss)
        shown = rendering.recovery_values(done)
        print(json.dumps(shown) if options.json else rendering.positions_text(shown))
        return 0
    found = recovery.survey(options.data)
    shown = rendering.finding_values(found)
    if options.json:
        print(json.dumps(shown | {"may be lost": found.may_be_lost(), "refusal": found.refusal}))
    else:
        print(rendering.positions_text(shown))
        print(*([] if found.refusal else ["", *found.may_be_lost()]), sep="\n")
    raise RecoveryRefused(
        found.refusal
        or f"nothing was changed. To recover the group from this volume: --accept-loss "
        f"{found.token}"
    )


def _log(options: argparse.Namespace) -> int:
    with progress_bar(options.json) as progress:

        def entries(done: int, total: int) -> None:
            progress(options.action, done, total)

        def state(done: int, total: int) -> None:
            progress("base", done, total)

        report: Any
        if options.action == "export":
            with open_stopped(options.data) as volume:
                report = export_log(
                    volume.log,
                    volume.state,
                    volume.root / "blobs",
                    options.target,
                    with_base=options.with_base,
                    snapshot_of=options.partition if options.base_form == "seed" else None,
                    progress=entries,
                )
        else:
            report = import_log(
                options.source,
                options.data,
                cluster=ClusterID(options.cluster_id or str(uuid.uuid4())),
                replicated=options.replication == "Raft",
                hard_state=options.hard_state,
                conf_state=options.conf_state,
                base=_base(options),
                progress=entries,
                base_progress=state,
            )
    values = asdict(report)
    print(json.dumps(values) if options.json else rendering.positions_text(values))
    return 0


# --- bench-disk -------------------------------------------------------------------------------


def _bench_disk(options: argparse.Namespace) -> int:
    with progress_bar(options.json) as progress:
        found = disk_bench.bench(
            options.data, options.seconds, options.mib * disk_bench.MIB, progress
        )
    if options.report is not None:
        options.report.write_text(disk_bench.as_json(found))
    print(disk_bench.as_json(found) if options.json else disk_bench.text(found))
    return EXIT_REFUSED if found.verdict == disk_bench.TOO_SLOW else 0


def _base(options: argparse.Namespace) -> Path | BaseTree | None:
    tree, keys = options.base_tree, options.base_keys
    given: Path | None = options.base
    if tree is None and keys is None and options.base_index is None:
        return given
    if given is not None or tree is None or keys is None:
        raise InvalidArgument(
            "give a base as --base alone, or as --base-tree with --base-keys. Add --base-index if "
            "the base includes entries of the log. If the state has no keys, give an empty file "
            "as --base-keys"
        )
    index = options.base_index
    return BaseTree(tree, keys, None if index is None else LSN(index))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "verify": _verify,
    "replication": _replication,
    "recover-quorum": _recover_quorum,
    "log": _log,
    "bench-disk": _bench_disk,
    "snapshot": snapshots.run,
}
COMMANDS = frozenset(_COMMANDS)


# --- shared -----------------------------------------------------------------------------------


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="the volume of a stopped replica")
    source.add_argument(
        "--address", type=arguments.address, help="the host:port of a running replica"
    )
    parser.add_argument(
        "--tls-dir",
        default=os.environ.get("PARTITION_TLS_DIR", ""),
        help="directory with tls.crt, tls.key and ca.crt; the connection is insecure without it",
    )
    parser.add_argument(
        "--server-name",
        default="",
        help="the name in the replica's certificate, if it differs from the host of --address",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@contextmanager
def _remote(options: argparse.Namespace) -> Iterator[RemoteReplica]:
    tls = None
    if options.tls_dir:
        directory = Path(options.tls_dir)
        tls = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    with connect(options.address, tls, options.server_name) as replica:
        yield replica
