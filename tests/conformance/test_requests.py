"""What a request may not leave open: a number that no enum names, an alternative that is not
chosen, a member or a lease that is not there. Every service refuses it before anything is done."""

from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from partition_proto.v1 import (
    inspection_pb2,
    log_store_pb2,
    peer_pb2,
    replica_admin_pb2,
    types_pb2,
)
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_replica.core.snapshot_jobs import check_request as check_job
from partition_replica.errors import InvalidArgument
from partition_replica.runtime.administration import Administration
from partition_replica.transport.requests import check_request

from tests.support.untouched_services import Refused, Untouched, call, stream

DESCRIPTIONS = (log_store_pb2, replica_admin_pb2, peer_pb2, inspection_pb2)
LEASE = admin.FencingToken(transitions=1, holder="operator")


def enums(kind: Any) -> list[Any]:
    """Its own fields of enums: none of those inside of other messages is an enum's today, and
    `test_nested_ones_are_refused` has what becomes of them."""
    return [field for field in kind.fields if field.enum_type is not None]


WITH_ENUMS = [
    (found.name, method, field.name)
    for description in DESCRIPTIONS
    for found in description.DESCRIPTOR.services_by_name.values()
    for method in found.methods
    for field in enums(method.input_type)
]


def test_the_reads_are_among_them() -> None:
    methods = {method.name for _, method, _ in WITH_ENUMS}
    assert methods >= {"GetKey", "GetFrames", "ListKeys", "ListTree", "ReadFile"}


@pytest.mark.parametrize("number", [2, 7, -1])
@pytest.mark.parametrize(
    ("name", "method", "field"), WITH_ENUMS, ids=[f"{n}-{m.name}-{f}" for n, m, f in WITH_ENUMS]
)
async def test_an_unknown_value_is_refused(name: str, method: Any, field: str, number: int) -> None:
    request: Any = getattr(api, method.input_type.name)(**{field: number})
    if method.client_streaming:
        request = stream([request])
    with pytest.raises(Refused, match=f"INVALID_ARGUMENT: {field} is {number}.*allowed are"):
        await call(name, method.name, request)


@pytest.mark.parametrize(
    "message",
    [
        api.ReadResponse(outcomes=[types_pb2.OUTCOME_APPLIED, 99]),  # type: ignore[list-item]
        api.AppendResponse(error=types_pb2.ErrorDetail(reason=99)),  # type: ignore[arg-type]
    ],
)
def test_nested_ones_are_refused(message: Message) -> None:
    with pytest.raises(InvalidArgument, match="99"):
        check_request(message)


LARGE = types_pb2.Payload(digest=b"d" * 32, size=100_000, data=b"x")


@pytest.mark.parametrize(
    ("method", "request_", "why"),
    [
        ("Read", api.ReadRequest(from_lsn=9, to_lsn=8), "to_lsn 8 lies before from_lsn 9"),
        ("UploadPayload", stream([api.UploadPayloadRequest(payload=LARGE)]), "payload.data"),
        ("UploadPayload", stream([api.UploadPayloadRequest(chunk=b"x")]), "the first message"),
        ("GetKey", api.GetKeyRequest(), "key has 0 bytes"),
        ("ListTree", api.ListTreeRequest(path=b"../x"), "component"),
    ],
)
async def test_what_the_log_store_refuses(method: str, request_: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        await call("LogStore", method, request_)


HEADERS = [peer.TransferHeader(sender=1), peer.TransferHeader(receiver=2), peer.TransferHeader()]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_snapshot_is_from_one_member_to_another(header: peer.TransferHeader) -> None:
    with pytest.raises(Refused, match="sender and its receiver"):
        await call("Peer", "GetSnapshotOffset", header)
    request = stream([peer.InstallSnapshotRequest(header=header)])
    with pytest.raises(Refused, match="sender and its receiver"):
        await call("Peer", "InstallSnapshot", request)


COMMANDS = [
    (method.name, method.input_type.name)
    for method in replica_admin_pb2.DESCRIPTOR.services_by_name["ReplicaAdmin"].methods
    if "lease" in method.input_type.fields_by_name
]


@pytest.mark.parametrize(("method", "kind"), COMMANDS)
@pytest.mark.parametrize("lease", [None, admin.FencingToken(transitions=9)])
async def test_a_command_without_a_lease_is_refused(
    method: str, kind: str, lease: admin.FencingToken | None
) -> None:
    with pytest.raises(Refused, match="needs the operator's fencing token"):
        await call("ReplicaAdmin", method, getattr(admin, kind)(lease=lease))


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (admin.StartSnapshotJobRequest(job_id="j"), "take, delete and verify"),
        (
            admin.StartSnapshotJobRequest(job_id="j", verify=admin.VerifySnapshot(snapshot_id="s")),
            "set volume or s3",
        ),
    ],
)
def test_a_job_says_what_and_where(job: admin.StartSnapshotJobRequest, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        check_job(job)


def administration() -> Administration:
    untouched: Any = Untouched()
    leading: Any = SimpleNamespace(leading=lambda: untouched)
    return Administration(untouched, untouched, untouched, leading, untouched)


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:", "host:0", "host:65536", "host:+1", "a:b:1", "h h:1"]
)
async def test_a_member_has_an_id_and_an_address(address: str) -> None:
    with pytest.raises(InvalidArgument, match="allowed is host:port"):
        await administration().add_learner(5, address)
    with pytest.raises(InvalidArgument, match="member_id is 0"):
        await administration().add_learner(0, "host:1")
    with pytest.raises(InvalidArgument, match="member_id is 0"):
        await administration().promote_learner(0)
    with pytest.raises(InvalidArgument, match="member_id is 0"):
        await administration().remove_member(0)
