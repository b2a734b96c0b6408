"""Validates requests for snapshot jobs. Pure."""

from partition_proto.v1 import replica_admin_pb2 as api
from partition_snapshots.errors import InvalidDestination
from partition_snapshots.model import check_new_snapshot_id

from partition_replica.errors import InvalidArgument

JOB_ID_CHARACTERS_MAX = 128
SNAPSHOTS_DELETED_MAX = 1000
"""The maximum number of snapshots that one job deletes."""


def check_request(request: api.StartSnapshotJobRequest) -> str:
    """Returns the job's kind: "take", "delete" or "verify". Raises InvalidArgument for invalid IDs.
    The job itself checks the destination."""
    kind: str | None = request.WhichOneof("job")
    if kind is None:
        raise InvalidArgument("job is not set: set one of take, delete and verify")
    check_job_id(request.job_id)
    if not getattr(request, kind).destination.WhichOneof("kind"):
        raise InvalidArgument("destination.kind is not set: set volume or s3")
    if kind == "take":
        take = request.take
        _check_snapshot_id(take.snapshot_id)
        _check_text(take.uid, "uid")
        _check_text(take.partition, "partition")
    elif kind == "verify":
        _check_snapshot_id(request.verify.snapshot_id)
    else:
        if not 1 <= len(request.delete.snapshot_ids) <= SNAPSHOTS_DELETED_MAX:
            raise InvalidArgument(
                f"snapshot_ids has {len(request.delete.snapshot_ids)} IDs; allowed are 1 to "
                f"{SNAPSHOTS_DELETED_MAX} per job"
            )
        for snapshot in request.delete.snapshot_ids:
            _check_snapshot_id(snapshot)
    return kind


def check_job_id(job_id: str) -> None:
    """Raises InvalidArgument."""
    if not 1 <= len(job_id) <= JOB_ID_CHARACTERS_MAX or not job_id.isprintable():
        raise InvalidArgument(
            f"job_id {job_id[:JOB_ID_CHARACTERS_MAX]!r} is not allowed: give 1 to "
            f"{JOB_ID_CHARACTERS_MAX} printable characters"
        )


def _check_snapshot_id(snapshot: str) -> None:
    try:
        check_new_snapshot_id(snapshot)
    except InvalidDestination as error:
        raise InvalidArgument(str(error)) from error


def _check_text(text: str, name: str) -> None:
    if len(text) > JOB_ID_CHARACTERS_MAX * 4 or not text.isprintable() or text.startswith("-"):
        raise InvalidArgument(
            f"{name} is not allowed: give up to {JOB_ID_CHARACTERS_MAX * 4} printable characters, "
            "the first one not '-'"
        )
