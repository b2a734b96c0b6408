"""The client of snapshot jobs on replicas. Credentials are sent only with the call."""

from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from partition_operator.api.destination import Destination, ObjectStore, S3Credentials
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot
from partition_operator.api.words import JobState
from partition_operator.clients.replica import Replicas
from partition_operator.errors import ReplicaRefused, ReplicaUnreachable
from partition_operator.reconcile.observed.partition import ObservedPod
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob, ObservedJobOrNone

_STATES = {
    admin.SNAPSHOT_JOB_STATE_QUEUED: JobState.QUEUED,
    admin.SNAPSHOT_JOB_STATE_RUNNING: JobState.RUNNING,
    admin.SNAPSHOT_JOB_STATE_SUCCEEDED: JobState.SUCCEEDED,
    admin.SNAPSHOT_JOB_STATE_FAILED: JobState.FAILED,
}


class SnapshotJobClient:
    """Starts, polls and cancels jobs. Starts and cancels raise ReplicaUnreachable, ReplicaRefused,
    Deposed."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def take(
        self,
        partition: Partition,
        pod: ObservedPod,
        job_id: str,
        *,
        snapshot: Snapshot,
        destination: Destination,
        credentials: S3Credentials | None,
        full: bool,
    ) -> None:
        request = admin.TakeSnapshot(
            snapshot_id=snapshot.name,
            uid=snapshot.uid,
            destination=_destination(destination, credentials),
            full=full,
            partition=f"{partition.namespace}/{partition.name}",
        )
        await self._start(partition, pod, job_id, take=request)

    async def verify(
        self,
        partition: Partition,
        pod: ObservedPod,
        job_id: str,
        *,
        snapshot_id: str,
        destination: Destination,
        credentials: S3Credentials | None,
    ) -> None:
        request = admin.VerifySnapshot(
            snapshot_id=snapshot_id, destination=_destination(destination, credentials)
        )
        await self._start(partition, pod, job_id, verify=request)

    async def delete_snapshots(
        self,
        partition: Partition,
        pod: ObservedPod,
        job_id: str,
        *,
        snapshot_ids: tuple[str, ...],
        destination: Destination,
        credentials: S3Credentials | None,
    ) -> None:
        request = admin.DeleteSnapshots(
            snapshot_ids=snapshot_ids, destination=_destination(destination, credentials)
        )
        await self._start(partition, pod, job_id, delete=request)

    async def cancel(self, partition: Partition, pod: ObservedPod, job_id: str) -> None:
        request = admin.CancelSnapshotJobRequest(
            lease=self._replicas.token.message(), job_id=job_id
        )
        await self._replicas.command(partition, pod, "CancelSnapshotJob", request)

    async def look(
        self, partition: Partition, pod: ObservedPod | None, job_id: str
    ) -> ObservedJobOrNone:
        """Returns the job as the replica reports it, or why there is none."""
        if pod is None or not pod.ip or pod.deleting:
            return NoJob.SILENT
        request = admin.GetSnapshotJobRequest(job_id=job_id)
        try:
            answer = await self._replicas.command(partition, pod, "GetSnapshotJob", request)
        except ReplicaUnreachable:
            return NoJob.SILENT
        except ReplicaRefused as error:
            return NoJob.UNKNOWN if error.reason == types.REASON_NOT_FOUND else NoJob.SILENT
        return _job(answer)

    async def _start(
        self,
        partition: Partition,
        pod: ObservedPod,
        job_id: str,
        *,
        take: admin.TakeSnapshot | None = None,
        verify: admin.VerifySnapshot | None = None,
        delete: admin.DeleteSnapshots | None = None,
    ) -> None:
        request = admin.StartSnapshotJobRequest(
            lease=self._replicas.token.message(),
            job_id=job_id,
            take=take,
            verify=verify,
            delete=delete,
        )
        await self._replicas.command(partition, pod, "StartSnapshotJob", request)


def _destination(
    destination: Destination, credentials: S3Credentials | None
) -> admin.SnapshotDestination:
    if not isinstance(destination, ObjectStore):
        return admin.SnapshotDestination(volume=admin.VolumeDestination())
    assert credentials is not None, "an object store has credentials"
    return admin.SnapshotDestination(
        s3=admin.S3Destination(
            endpoint=destination.endpoint,
            bucket=destination.bucket,
            region=destination.region,
            prefix=destination.prefix,
            access_key_id=credentials.access_key,
            secret_access_key=credentials.secret_key,
            session_token=credentials.session_token,
            ca_certificate=credentials.authority,
            allow_http=destination.allow_http,
            virtual_hosted_style=destination.virtual_hosted_style,
        )
    )


def _job(answer: admin.SnapshotJob) -> ObservedJob:
    return ObservedJob(
        state=_STATES.get(answer.state, JobState.RUNNING),
        phase=answer.phase,
        percent=answer.percent,
        lsn=answer.lsn,
        term=answer.term,
        keys=answer.keys,
        files=answer.files,
        size_bytes=answer.size_bytes,
        transferred_bytes=answer.transferred_bytes,
        digest=answer.digest,
        reason=answer.reason,
        message=answer.message,
        retriable=answer.retriable,
        snapshots_deleted=answer.snapshots_deleted,
        objects_deleted=answer.objects_deleted,
        bytes_deleted=answer.bytes_deleted,
    )
