from partition_proto.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotJobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SNAPSHOT_JOB_STATE_UNSPECIFIED: _ClassVar[SnapshotJobState]
    SNAPSHOT_JOB_STATE_QUEUED: _ClassVar[SnapshotJobState]
    SNAPSHOT_JOB_STATE_RUNNING: _ClassVar[SnapshotJobState]
    SNAPSHOT_JOB_STATE_SUCCEEDED: _ClassVar[SnapshotJobState]
    SNAPSHOT_JOB_STATE_FAILED: _ClassVar[SnapshotJobState]
SNAPSHOT_JOB_STATE_UNSPECIFIED: SnapshotJobState
SNAPSHOT_JOB_STATE_QUEUED: SnapshotJobState
SNAPSHOT_JOB_STATE_RUNNING: SnapshotJobState
SNAPSHOT_JOB_STATE_SUCCEEDED: SnapshotJobState
SNAPSHOT_JOB_STATE_FAILED: SnapshotJobState

class FencingToken(_message.Message):
    __slots__ = ("transitions", "holder")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    transitions: int
    holder: str
    def __init__(self, transitions: _Optional[int] = ..., holder: _Optional[str] = ...) -> None: ...

class S3Destination(_message.Message):
    __slots__ = ("endpoint", "bucket", "region", "prefix", "access_key_id", "secret_access_key", "session_token", "ca_certificate", "allow_http", "virtual_hosted_style")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    ACCESS_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ACCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_HTTP_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_HOSTED_STYLE_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    bucket: str
    region: str
    prefix: str
    access_key_id: str
    secret_access_key: str
    session_token: str
    ca_certificate: bytes
    allow_http: bool
    virtual_hosted_style: bool
    def __init__(self, endpoint: _Optional[str] = ..., bucket: _Optional[str] = ..., region: _Optional[str] = ..., prefix: _Optional[str] = ..., access_key_id: _Optional[str] = ..., secret_access_key: _Optional[str] = ..., session_token: _Optional[str] = ..., ca_certificate: _Optional[bytes] = ..., allow_http: _Optional[bool] = ..., virtual_hosted_style: _Optional[bool] = ...) -> None: ...

class VolumeDestination(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotDestination(_message.Message):
    __slots__ = ("volume", "s3")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    S3_FIELD_NUMBER: _ClassVar[int]
    volume: VolumeDestination
    s3: S3Destination
    def __init__(self, volume: _Optional[_Union[VolumeDestination, _Mapping]] = ..., s3: _Optional[_Union[S3Destination, _Mapping]] = ...) -> None: ...

class TakeSnapshot(_message.Message):
    __slots__ = ("snapshot_id", "uid", "destination", "full", "partition")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    uid: str
    destination: SnapshotDestination
    full: bool
    partition: str
    def __init__(self, snapshot_id: _Optional[str] = ..., uid: _Optional[str] = ..., destination: _Optional[_Union[SnapshotDestination, _Mapping]] = ..., full: _Optional[bool] = ..., partition: _Optional[str] = ...) -> None: ...

class DeleteSnapshots(_message.Message):
    __slots__ = ("destination", "snapshot_ids")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_IDS_FIELD_NUMBER: _ClassVar[int]
    destination: SnapshotDestination
    snapshot_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, destination: _Optional[_Union[SnapshotDestination, _Mapping]] = ..., snapshot_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class VerifySnapshot(_message.Message):
    __slots__ = ("destination", "snapshot_id")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    destination: SnapshotDestination
    snapshot_id: str
    def __init__(self, destination: _Optional[_Union[SnapshotDestination, _Mapping]] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class StartSnapshotJobRequest(_message.Message):
    __slots__ = ("lease", "job_id", "take", "delete", "verify")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TAKE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    job_id: str
    take: TakeSnapshot
    delete: DeleteSnapshots
    verify: VerifySnapshot
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., job_id: _Optional[str] = ..., take: _Optional[_Union[TakeSnapshot, _Mapping]] = ..., delete: _Optional[_Union[DeleteSnapshots, _Mapping]] = ..., verify: _Optional[_Union[VerifySnapshot, _Mapping]] = ...) -> None: ...

class GetSnapshotJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class CancelSnapshotJobRequest(_message.Message):
    __slots__ = ("lease", "job_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    job_id: str
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., job_id: _Optional[str] = ...) -> None: ...

class SnapshotJob(_message.Message):
    __slots__ = ("job_id", "state", "phase", "percent", "snapshot_id", "lsn", "term", "time_ms", "keys", "files", "size_bytes", "transferred_bytes", "digest", "started_ms", "completed_ms", "reason", "message", "retriable", "snapshots_deleted", "objects_deleted", "bytes_deleted")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFERRED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRIABLE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_DELETED_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_DELETED_FIELD_NUMBER: _ClassVar[int]
    BYTES_DELETED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: SnapshotJobState
    phase: str
    percent: int
    snapshot_id: str
    lsn: int
    term: int
    time_ms: int
    keys: int
    files: int
    size_bytes: int
    transferred_bytes: int
    digest: str
    started_ms: int
    completed_ms: int
    reason: str
    message: str
    retriable: bool
    snapshots_deleted: int
    objects_deleted: int
    bytes_deleted: int
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[_Union[SnapshotJobState, str]] = ..., phase: _Optional[str] = ..., percent: _Optional[int] = ..., snapshot_id: _Optional[str] = ..., lsn: _Optional[int] = ..., term: _Optional[int] = ..., time_ms: _Optional[int] = ..., keys: _Optional[int] = ..., files: _Optional[int] = ..., size_bytes: _Optional[int] = ..., transferred_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., started_ms: _Optional[int] = ..., completed_ms: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retriable: _Optional[bool] = ..., snapshots_deleted: _Optional[int] = ..., objects_deleted: _Optional[int] = ..., bytes_deleted: _Optional[int] = ...) -> None: ...

class SetFencedRequest(_message.Message):
    __slots__ = ("lease", "fenced")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    fenced: bool
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., fenced: _Optional[bool] = ...) -> None: ...

class SetFencedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnableReplicationRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ...) -> None: ...

class EnableReplicationResponse(_message.Message):
    __slots__ = ("replicated",)
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    replicated: bool
    def __init__(self, replicated: _Optional[bool] = ...) -> None: ...

class RecoverQuorumRequest(_message.Message):
    __slots__ = ("lease", "member_id", "cluster_id", "accept_loss")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_LOSS_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    member_id: int
    cluster_id: str
    accept_loss: str
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., member_id: _Optional[int] = ..., cluster_id: _Optional[str] = ..., accept_loss: _Optional[str] = ...) -> None: ...

class RecoverQuorumResponse(_message.Message):
    __slots__ = ("recovered",)
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    recovered: bool
    def __init__(self, recovered: _Optional[bool] = ...) -> None: ...

class BootstrapRequest(_message.Message):
    __slots__ = ("lease", "cluster_id", "standalone")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    STANDALONE_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    cluster_id: str
    standalone: bool
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., cluster_id: _Optional[str] = ..., standalone: _Optional[bool] = ...) -> None: ...

class BootstrapResponse(_message.Message):
    __slots__ = ("member_id",)
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    def __init__(self, member_id: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("lease", "cluster_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    cluster_id: str
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("member_id",)
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    def __init__(self, member_id: _Optional[int] = ...) -> None: ...

class AddLearnerRequest(_message.Message):
    __slots__ = ("lease", "member_id", "address")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    member_id: int
    address: str
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., member_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class PromoteLearnerRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class RemoveMemberRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class MembershipResponse(_message.Message):
    __slots__ = ("lsn",)
    LSN_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    def __init__(self, lsn: _Optional[int] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: FencingToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[FencingToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: _types_pb2.LeaderHint
    def __init__(self, leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...
