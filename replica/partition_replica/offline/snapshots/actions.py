"""The actions of `partition-replica snapshot`. Each returns its report."""

import argparse
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from partition_snapshots.collect import delete_snapshots
from partition_snapshots.destination import Destination, from_arguments, open_store
from partition_snapshots.errors import SnapshotDamaged, SnapshotExists, SnapshotNotFound
from partition_snapshots.errors import StoreOfOtherCluster as OtherCluster
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.manifests import summary
from partition_snapshots.model import (
    DamagedManifest,
    Manifest,
    RecordedConfiguration,
    Row,
    SnapshotSource,
    StoreProgress,
    check_new_snapshot_id,
    check_snapshot_id,
)
from partition_snapshots.read import list_snapshots, load
from partition_snapshots.store import Store
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify

from partition_replica import __version__
from partition_replica.core.model import VerifyReport
from partition_replica.errors import Damaged, InvalidArgument
from partition_replica.ids import ClusterID, Digest
from partition_replica.offline.snapshots import reports
from partition_replica.offline.snapshots.child import CapturedState, Listener, Parent
from partition_replica.offline.snapshots.contents import (
    base_directory,
    digest_of,
    iterate_rows,
    survey,
)
from partition_replica.offline.snapshots.restore import completed, restore
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification
from partition_replica.threads import run_to_end

FINDINGS_SHOWN_MAX = 3

Report = dict[str, Any]


@asynccontextmanager
async def _opened(
    options: argparse.Namespace, limits: SnapshotLimits
) -> AsyncIterator[tuple[Destination, Store]]:
    destination = from_arguments(options, os.environ)
    store = open_store(destination, limits)
    try:
        yield destination, store
    finally:
        await store.close()


def _teller(listener: Listener, state_bytes: int = 0) -> Callable[[StoreProgress], None]:
    """Passes the progress of a store on to `listener`. state_bytes: an upper bound of the state's
    size, for the phase in which the store does not know a total."""

    def tell(found: StoreProgress) -> None:
        total = found.total_bytes or (state_bytes if found.phase == "state" else 0)
        listener.progress(found.phase, found.done_bytes, total)

    return tell


# --- take -------------------------------------------------------------------------------------


async def _take(options: argparse.Namespace, limits: SnapshotLimits, listener: Listener) -> Report:
    """Takes a snapshot of a stopped replica's volume, or of the state that a running replica
    captures on request."""
    check_new_snapshot_id(options.snapshot)
    async with _opened(options, limits) as (destination, store):
        taking = _Taking(options, limits, listener, destination, store)
        if isinstance(listener, Parent):
            # Before the state is copied: the snapshot may exist, or the store may be unavailable.
            found = await taking.existing(options.cluster_id, options.owner)
            if found is not None:
                return found
            captured = await listener.capture()
            state = LmdbState(captured.directory, read_only=True)
            try:
                return await taking.take(state, options.cluster_id, captured, options.owner)
            finally:
                state.close()
        with open_stopped(options.data) as volume:
            cluster, configuration = volume.log.identity.cluster_id, volume.log.configuration[1]
            owner = f"{volume.log.identity.member_id:x}"
            found = await taking.existing(cluster, owner)
            if found is not None:
                return found
            members = CapturedState(
                volume.state.path,
                tuple(f"{member:x}" for member in configuration.voters),
                tuple(f"{member:x}" for member in configuration.learners),
            )
            return await taking.take(volume.state, cluster, members, owner)


class _Taking:
    def __init__(
        self,
        options: argparse.Namespace,
        limits: SnapshotLimits,
        listener: Listener,
        destination: Destination,
        store: Store,
    ) -> None:
        self._options = options
        self._limits = limits
        self._listener = listener
        self._destination = destination
        self._store = store
        self._uid = options.uid or options.snapshot

    async def existing(self, cluster: str, owner: str) -> Report | None:
        """The report of the snapshot, if an earlier attempt of this take has completed it; None if
        there is no such snapshot, or an incomplete one."""
        try:
            found = await load(self._store, self._options.snapshot, self._limits)
        except SnapshotNotFound:
            return None
        if found.cluster_id != cluster:
            raise OtherCluster(
                f"{self._destination} holds snapshots of cluster ID {found.cluster_id}, and this "
                f"group has cluster ID {cluster}: give another destination"
            )
        if found.uid != self._uid:
            raise SnapshotExists(
                f"{self._destination} already holds another snapshot with ID {found.snapshot_id}: "
                "use another ID, or delete that snapshot first"
            )
        try:
            # The writer may have died before it knew whether a garbage collection had deleted
            # objects of the snapshot meanwhile. So all objects are checked again, under a marker.
            await take_snapshot(
                self._store,
                _source_of(found),
                _no_rows,
                (),
                lambda digest: self._options.data / digest.hex(),
                owner=owner,
                limits=self._limits,
                progress=_teller(self._listener),
            )
        except _NotWhole:
            return None
        return summary(found) | {"transferredBytes": 0, "existed": True}

    async def take(
        self, state: LmdbState, cluster: str, members: CapturedState, owner: str
    ) -> Report:
        """Takes the snapshot. owner: the replica's member ID; a replica does one thing at a time
        with a store."""
        options = self._options
        contents = survey(state)
        source = SnapshotSource(
            snapshot_id=options.snapshot,
            uid=self._uid,
            partition=options.partition,
            cluster_id=cluster,
            lsn=state.applied.index,
            term=state.applied.term,
            time_ms=state.time_ms,
            clock_ms=state.clock_ms,
            configuration=RecordedConfiguration(members.voters, members.learners),
            keys=contents.keys,
            files=contents.files,
            writer=f"partition-replica {__version__}",
        )
        blobs: Path = options.data / "blobs"
        taken = await take_snapshot(
            self._store,
            source,
            lambda: iterate_rows(state),
            contents.blobs,
            lambda digest: blob_path(blobs, Digest(digest)),
            base_directory=base_directory(options.data, self._destination),
            full=options.full,
            owner=owner,
            limits=self._limits,
            progress=_teller(self._listener, state.size_bytes()),
        )
        return summary(taken.manifest) | {
            "transferredBytes": taken.transferred_bytes,
            "existed": taken.existed,
        }


class _NotWhole(Exception):
    """The stored snapshot lacks objects, so it is taken again."""


def _no_rows() -> Iterator[Row]:
    raise _NotWhole


def _source_of(manifest: Manifest) -> SnapshotSource:
    return SnapshotSource(**{f.name: getattr(manifest, f.name) for f in fields(SnapshotSource)})


# --- restore, verify --------------------------------------------------------------------------


async def _restore(
    options: argparse.Namespace, limits: SnapshotLimits, listener: Listener
) -> Report:
    try:
        cluster = ClusterID(str(uuid.UUID(options.cluster_id)))
    except ValueError as error:
        raise InvalidArgument(
            f"--cluster-id {options.cluster_id!r} is not a UUID; give the ID of the new group"
        ) from error
    last = completed(options.data, cluster)
    if last is not None:
        # Without the store: it may be deleted, and "latest" may now be another snapshot.
        return {
            "snapshotID": options.snapshot,
            "clusterID": cluster,
            "lsn": int(last),
            "existed": True,
            "message": f"already restored: the volume has cluster ID {cluster}, and its log ends "
            f"at {last}",
        }
    async with _opened(options, limits) as (_, store):
        manifest = await load(store, options.snapshot, limits)
        start = await restore(
            store,
            manifest,
            options.data,
            cluster=cluster,
            standalone=options.standalone,
            limits=limits,
            progress=listener.progress,
        )
    return summary(manifest) | {
        "sourceClusterID": manifest.cluster_id,
        "clusterID": cluster,
        "lsn": int(start.index),
        "term": int(start.term),
        "existed": False,
    }


async def _verify(
    options: argparse.Namespace, limits: SnapshotLimits, listener: Listener
) -> Report:
    async with _opened(options, limits) as (_, store):
        manifest = await verify(store, options.snapshot, limits, _teller(listener))
        if options.restore:
            await _prove(options, limits, listener, store, manifest)
    return summary(manifest) | {"restored": bool(options.restore)}


async def _prove(
    options: argparse.Namespace,
    limits: SnapshotLimits,
    listener: Listener,
    store: Store,
    manifest: Manifest,
) -> None:
    """Restores the snapshot into a scratch volume, verifies that volume, and compares digests."""
    scratch = Path(tempfile.mkdtemp(prefix="restored-", dir=options.scratch))
    try:
        await restore(
            store,
            manifest,
            scratch / "data",
            cluster=ClusterID(str(uuid.uuid4())),
            standalone=False,
            limits=limits,
            progress=listener.progress,
        )
        report, digest = await run_to_end(lambda: _examine(scratch, listener))
    except Damaged as error:
        raise SnapshotDamaged(
            f"snapshot {manifest.snapshot_id} was restored for a verification, and the volume "
            f"cannot be opened: {error}"
        ) from error
    finally:
        await run_to_end(lambda: shutil.rmtree(scratch, ignore_errors=True))
    what = [*report.findings]
    if digest != manifest.digest:
        what.append(f"its rows have digest {digest}, and its manifest has {manifest.digest}")
    if what:
        shown = "; ".join(what[:FINDINGS_SHOWN_MAX])
        raise SnapshotDamaged(
            f"snapshot {manifest.snapshot_id} was restored for a verification, which has "
            f"{len(what)} findings: {shown}"
        )


def _examine(scratch: Path, listener: Listener) -> tuple[VerifyReport, str]:
    """Returns the verification report and the digest of a restored volume."""
    with open_stopped(scratch / "data") as volume:
        report = Verification(
            volume.log,
            volume.state,
            volume.blob_path,
            volume.blobs,
            scratch / "verification",
            live=False,
            progress=lambda step, done, total: listener.progress(f"restored {step}", done, total),
        ).run()
        return report, digest_of(volume.state)


# --- ls, delete -------------------------------------------------------------------------------


async def _list(options: argparse.Namespace, limits: SnapshotLimits, _: Listener) -> Report:
    async with _opened(options, limits) as (_destination, store):
        found = await list_snapshots(store, limits)
    return {"snapshots": [_listed(one) for one in found]}


def _listed(one: Manifest | DamagedManifest) -> Report:
    if isinstance(one, DamagedManifest):
        return {"snapshotID": one.snapshot_id, "reason": one.reason, "message": one.message}
    return summary(one)


async def _delete(
    options: argparse.Namespace, limits: SnapshotLimits, listener: Listener
) -> Report:
    for snapshot in options.snapshot:
        check_snapshot_id(snapshot)
    async with _opened(options, limits) as (_, store):
        collected = await delete_snapshots(
            store, options.snapshot, limits, _teller(listener), owner=options.owner
        )
    return reports.of_collection(collected)


Action = Callable[[argparse.Namespace, SnapshotLimits, Listener], Awaitable[Report]]

ACTIONS: dict[str, Action] = {
    "take": _take,
    "restore": _restore,
    "verify": _verify,
    "ls": _list,
    "delete": _delete,
}
