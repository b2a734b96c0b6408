"""What a snapshot job may be, and how far one is. Pure."""

from partition_proto.v1 import replica_admin_pb2 as api
from partition_snapshots.errors import InvalidDestination
from partition_snapshots.model import check_new_snapshot_id

from partition_replica.errors import InvalidArgument

JOB_ID_CHARACTERS_MAX = 128
SNAPSHOTS_DELETED_MAX = 1000
"""In one job."""


def check_request(request: api.StartSnapshotJobRequest) -> str:
    """Its kind: "take", "delete" or "verify". Raises InvalidArgument for IDs that are none; whether
    the destination is one the job finds out."""
    kind: str | None = request.WhichOneof("job")
    if kind is None:
        raise InvalidArgument("a job is one of take, delete and verify")
    check_job_id(request.job_id)
    if not getattr(request, kind).destination.WhichOneof("kind"):
        raise InvalidArgument("the destination is neither volume nor s3")
    if kind == "take":
        take = request.take
        _check_snapshot_id(take.snapshot_id)
        _check_text(take.uid, "uid")
        _check_text(take.partition, "partition")
    elif kind == "verify":
        _check_snapshot_id(request.verify.snapshot_id)
    else:
        if not 1 <= len(request.delete.snapshot_ids) <= SNAPSHOTS_DELETED_MAX:
            raise InvalidArgument(f"1 to {SNAPSHOTS_DELETED_MAX} snapshots are deleted in one job")
        for snapshot in request.delete.snapshot_ids:
            _check_snapshot_id(snapshot)
    return kind


def check_job_id(job_id: str) -> None:
    """Raises InvalidArgument."""
    if not 1 <= len(job_id) <= JOB_ID_CHARACTERS_MAX or not job_id.isprintable():
        raise InvalidArgument(
            f"job_id {job_id[:JOB_ID_CHARACTERS_MAX]!r}: 1 to {JOB_ID_CHARACTERS_MAX} printable "
            "characters are allowed"
        )


def _check_snapshot_id(snapshot: str) -> None:
    try:
        check_new_snapshot_id(snapshot)
    except InvalidDestination as error:
        raise InvalidArgument(str(error)) from error


def _check_text(text: str, name: str) -> None:
    if len(text) > JOB_ID_CHARACTERS_MAX * 4 or not text.isprintable() or text.startswith("-"):
        raise InvalidArgument(
            f"{name}: up to {JOB_ID_CHARACTERS_MAX * 4} printable characters are allowed, and no "
            "'-' in front"
        )
