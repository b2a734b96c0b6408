"""Observes what a snapshot, or all snapshots of a Partition, depend on.

It writes nothing. It reads Secrets by name and returns their content only to the caller.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from partition_operator.api import names
from partition_operator.api.destination import (
    Destination,
    DestinationProblem,
    ObjectStore,
    S3Credentials,
    credentials,
)
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot, SnapshotState, parse_snapshot
from partition_operator.clients.kube import Kube
from partition_operator.clients.observer import Observer
from partition_operator.clients.pod_progress import ask_progress
from partition_operator.clients.snapshot_jobs import SnapshotJobClient
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.snapshot import (
    NoJob,
    ObservedJobOrNone,
    ObservedSnapshot,
)
from partition_operator.resources.common import controller


class SnapshotObserver:
    def __init__(self, kube: Kube, observer: Observer, jobs: SnapshotJobClient) -> None:
        self._kube = kube
        self._observer = observer
        self._jobs = jobs

    async def snapshot(self, namespace: str, name: str) -> Snapshot | None:
        """Returns the snapshot, or None if it does not exist. Raises ApiError."""
        body = await self._kube.get(names.SNAPSHOT_KIND, namespace, name)
        return None if body is None else parse_snapshot(body)

    async def partition(self, namespace: str, name: str) -> Partition | None:
        """Returns the Partition, or None if it does not exist. Raises ApiError."""
        return await self._observer.partition(namespace, name)

    async def group(self, partition: Partition) -> ObservedPartition:
        """Observes only the pods and replicas of a Partition. Raises ApiError."""
        return await self._observer.group(partition)

    def alone(self, partition: Partition) -> ObservedPartition:
        """Returns the Partition without further observations."""
        return ObservedPartition(partition, dt.datetime.now(dt.UTC), {}, (), (), ())

    async def stored(self, snapshot: Snapshot) -> ObservedSnapshot:
        """Observes a snapshot that has ended and is not being verified. Raises ApiError."""
        now = dt.datetime.now(dt.UTC)
        volumes = await self.volumes(snapshot.namespace, snapshot.partition, {snapshot.claim})
        pod, _ = await self._verify_pod(snapshot)
        return ObservedSnapshot(snapshot, now, None, volumes=volumes, pod=pod)

    async def view(
        self, snapshot: Snapshot, partition: Partition | None, destination: Destination | None
    ) -> tuple[ObservedSnapshot, S3Credentials | None]:
        """Observes everything that a snapshot depends on. Returns it with the credentials of
        `destination`; None for no credentials. Raises ApiError."""
        now, namespace = dt.datetime.now(dt.UTC), snapshot.namespace
        group = None if partition is None else await self._observer.group(partition)
        ordinals = [pod.ordinal for pod in group.pods] if group is not None else []
        claims = {names.claim(snapshot.partition, ordinal) for ordinal in ordinals}
        volumes = await self.volumes(namespace, snapshot.partition, {snapshot.claim, *claims})
        found = await self.secret(namespace, destination)
        secret = found if isinstance(found, S3Credentials) else None
        pod, taken = await self._verify_pod(snapshot)
        view = ObservedSnapshot(
            snapshot=snapshot,
            now=now,
            group=group,
            others=tuple(
                other
                for other in await self.snapshots(
                    # An older snapshot without the label is still ahead of this one.
                    namespace,
                    snapshot.partition,
                    labelled=snapshot.state not in ("", SnapshotState.QUEUED),
                )
                if other.uid != snapshot.uid
            ),
            volumes=volumes,
            refusal=found if isinstance(found, DestinationProblem) else None,
            authority=bool(secret and secret.authority),
            job=await self._job(snapshot, group),
            pod=pod,
            progress=await ask_progress(pod),
            taken=taken,
        )
        return view, secret

    async def snapshots(
        self, namespace: str, partition: str, *, labelled: bool = True
    ) -> tuple[Snapshot, ...]:
        """Lists a Partition's snapshots. labelled: only those with the operator's label, which is
        cheaper."""
        labels = {names.LABEL_PARTITION: partition} if labelled else {}
        items = await self._kube.list_labelled(names.SNAPSHOT_KIND, namespace, labels)
        found = [parse_snapshot(item) for item in items]
        # Any user can write a label, but spec can't change.
        return tuple(snapshot for snapshot in found if snapshot.partition == partition)

    async def volumes(
        self, namespace: str, partition: str, wanted: Iterable[str] = ()
    ) -> dict[str, str]:
        """Returns the UIDs of a Partition's claims by name. wanted: claims also read by name."""
        return await self._observer.volumes(namespace, partition, wanted)

    async def restored_from(self, namespace: str) -> frozenset[str]:
        """Returns the names of snapshots that Partitions of the namespace must still restore."""
        found = set()
        for body in await self._kube.list_labelled("Partition", namespace, {}):
            reference = ((body.get("spec") or {}).get("bootstrap") or {}).get("snapshotRef") or {}
            if reference and not (body.get("status") or {}).get("restored"):
                found.add(str(reference.get("name", "")))
        return frozenset(found)

    async def secret(
        self, namespace: str, destination: Destination | None
    ) -> S3Credentials | DestinationProblem | None:
        """Reads the credentials of an object store; None for a volume."""
        if not isinstance(destination, ObjectStore):
            return None
        body = await self._kube.get("Secret", namespace, destination.secret)
        return credentials(body, destination.secret)

    async def job(self, group: ObservedPartition, ordinal: int, job_id: str) -> ObservedJobOrNone:
        return await self._jobs.look(group.partition, group.pod(ordinal), job_id)

    async def _job(self, snapshot: Snapshot, group: ObservedPartition | None) -> ObservedJobOrNone:
        status = snapshot.status
        pod, job_id = status.get("sourcePod"), status.get("jobID")
        if snapshot.verifying:
            record = status["verification"]
            pod, job_id = record.get("pod"), record.get("jobID")
        elif snapshot.state != SnapshotState.RUNNING:
            return NoJob.NONE
        if group is None or not pod or not job_id:
            return NoJob.NONE
        return await self.job(group, int(str(pod).rpartition("-")[2]), str(job_id))

    async def _verify_pod(self, snapshot: Snapshot) -> tuple[dict[str, Any] | None, bool]:
        """Returns (the verifying pod, whether a pod of another owner has its name)."""
        if "verification" not in snapshot.status or "jobID" in snapshot.status["verification"]:
            return None, False
        name = names.verify_pod(snapshot.name)
        found = await self._kube.get("Pod", snapshot.namespace, name)
        if found is None:
            return None, False
        # The owner decides: an earlier snapshot of the same name may have left a similar pod.
        owner = controller(found)
        ours = owner is not None and owner["uid"] == snapshot.uid
        return (found, False) if ours else (None, True)
