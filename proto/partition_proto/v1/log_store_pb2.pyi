from partition_proto.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_LINEARIZABLE: _ClassVar[Consistency]
    CONSISTENCY_STALE: _ClassVar[Consistency]

class Effect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EFFECT_UNSPECIFIED: _ClassVar[Effect]
    EFFECT_APPLIED: _ClassVar[Effect]
    EFFECT_PARTIAL: _ClassVar[Effect]
    EFFECT_NONE: _ClassVar[Effect]
CONSISTENCY_LINEARIZABLE: Consistency
CONSISTENCY_STALE: Consistency
EFFECT_UNSPECIFIED: Effect
EFFECT_APPLIED: Effect
EFFECT_PARTIAL: Effect
EFFECT_NONE: Effect

class Consumer(_message.Message):
    __slots__ = ("name", "lsn")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    name: str
    lsn: int
    def __init__(self, name: _Optional[str] = ..., lsn: _Optional[int] = ...) -> None: ...

class RegisterConsumerRequest(_message.Message):
    __slots__ = ("name", "lsn", "history_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    lsn: int
    history_id: str
    def __init__(self, name: _Optional[str] = ..., lsn: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class AcknowledgeConsumerRequest(_message.Message):
    __slots__ = ("name", "lsn", "history_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    lsn: int
    history_id: str
    def __init__(self, name: _Optional[str] = ..., lsn: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class ConsumerResponse(_message.Message):
    __slots__ = ("consumer", "low_water_mark")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    LOW_WATER_MARK_FIELD_NUMBER: _ClassVar[int]
    consumer: Consumer
    low_water_mark: int
    def __init__(self, consumer: _Optional[_Union[Consumer, _Mapping]] = ..., low_water_mark: _Optional[int] = ...) -> None: ...

class RemoveConsumerRequest(_message.Message):
    __slots__ = ("name", "history_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    history_id: str
    def __init__(self, name: _Optional[str] = ..., history_id: _Optional[str] = ...) -> None: ...

class RemoveConsumerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListConsumersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListConsumersResponse(_message.Message):
    __slots__ = ("consumers", "low_water_mark")
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    LOW_WATER_MARK_FIELD_NUMBER: _ClassVar[int]
    consumers: _containers.RepeatedCompositeFieldContainer[Consumer]
    low_water_mark: int
    def __init__(self, consumers: _Optional[_Iterable[_Union[Consumer, _Mapping]]] = ..., low_water_mark: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("time_to_live_ms", "history_id")
    TIME_TO_LIVE_MS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    time_to_live_ms: int
    history_id: str
    def __init__(self, time_to_live_ms: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "time_to_live_ms", "history_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LIVE_MS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    time_to_live_ms: int
    history_id: str
    def __init__(self, session_id: _Optional[int] = ..., time_to_live_ms: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id", "history_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    history_id: str
    def __init__(self, session_id: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("request_id", "proposal", "retry", "wait_applied", "history_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    WAIT_APPLIED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    proposal: _types_pb2.Proposal
    retry: bool
    wait_applied: bool
    history_id: str
    def __init__(self, request_id: _Optional[int] = ..., proposal: _Optional[_Union[_types_pb2.Proposal, _Mapping]] = ..., retry: _Optional[bool] = ..., wait_applied: _Optional[bool] = ..., history_id: _Optional[str] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("request_id", "lsn", "term", "outcomes", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    lsn: int
    term: int
    outcomes: _containers.RepeatedScalarFieldContainer[_types_pb2.Outcome]
    error: _types_pb2.ErrorDetail
    def __init__(self, request_id: _Optional[int] = ..., lsn: _Optional[int] = ..., term: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_types_pb2.Outcome, str]]] = ..., error: _Optional[_Union[_types_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...

class AppendFrame(_message.Message):
    __slots__ = ("session_id", "first_sequence", "acknowledged_below", "proposals", "retry", "wait_applied", "history_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BELOW_FIELD_NUMBER: _ClassVar[int]
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    WAIT_APPLIED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    first_sequence: int
    acknowledged_below: int
    proposals: _containers.RepeatedScalarFieldContainer[bytes]
    retry: bool
    wait_applied: bool
    history_id: str
    def __init__(self, session_id: _Optional[int] = ..., first_sequence: _Optional[int] = ..., acknowledged_below: _Optional[int] = ..., proposals: _Optional[_Iterable[bytes]] = ..., retry: _Optional[bool] = ..., wait_applied: _Optional[bool] = ..., history_id: _Optional[str] = ...) -> None: ...

class AppendedRange(_message.Message):
    __slots__ = ("first_sequence", "count", "first_lsn", "term", "outcomes")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    first_lsn: int
    term: int
    outcomes: _containers.RepeatedScalarFieldContainer[_types_pb2.Outcome]
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., first_lsn: _Optional[int] = ..., term: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_types_pb2.Outcome, str]]] = ...) -> None: ...

class RefusedRange(_message.Message):
    __slots__ = ("first_sequence", "count", "error")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    error: _types_pb2.ErrorDetail
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., error: _Optional[_Union[_types_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...

class AppendFrameResponse(_message.Message):
    __slots__ = ("appended", "refused")
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    appended: _containers.RepeatedCompositeFieldContainer[AppendedRange]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedRange]
    def __init__(self, appended: _Optional[_Iterable[_Union[AppendedRange, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[RefusedRange, _Mapping]]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("from_lsn", "to_lsn", "follow", "history_id")
    FROM_LSN_FIELD_NUMBER: _ClassVar[int]
    TO_LSN_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    from_lsn: int
    to_lsn: int
    follow: bool
    history_id: str
    def __init__(self, from_lsn: _Optional[int] = ..., to_lsn: _Optional[int] = ..., follow: _Optional[bool] = ..., history_id: _Optional[str] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("lsn", "term", "body", "configuration_change", "effect", "outcomes")
    LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_CHANGE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    term: int
    body: _types_pb2.EntryBody
    configuration_change: bool
    effect: Effect
    outcomes: _containers.RepeatedScalarFieldContainer[_types_pb2.Outcome]
    def __init__(self, lsn: _Optional[int] = ..., term: _Optional[int] = ..., body: _Optional[_Union[_types_pb2.EntryBody, _Mapping]] = ..., configuration_change: _Optional[bool] = ..., effect: _Optional[_Union[Effect, str]] = ..., outcomes: _Optional[_Iterable[_Union[_types_pb2.Outcome, str]]] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("key", "consistency", "at_follower")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_FOLLOWER_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    consistency: Consistency
    at_follower: bool
    def __init__(self, key: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_follower: _Optional[bool] = ...) -> None: ...

class GetKeyResponse(_message.Message):
    __slots__ = ("found", "value", "applied")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    applied: int
    def __init__(self, found: _Optional[bool] = ..., value: _Optional[bytes] = ..., applied: _Optional[int] = ...) -> None: ...

class GetFrame(_message.Message):
    __slots__ = ("frame_id", "keys", "consistency", "history_id", "at_follower")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FOLLOWER_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    consistency: Consistency
    history_id: str
    at_follower: bool
    def __init__(self, frame_id: _Optional[int] = ..., keys: _Optional[_Iterable[bytes]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., history_id: _Optional[str] = ..., at_follower: _Optional[bool] = ...) -> None: ...

class GetFrameResponse(_message.Message):
    __slots__ = ("frame_id", "first", "values", "absent", "applied", "last", "error")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    first: int
    values: _containers.RepeatedScalarFieldContainer[bytes]
    absent: _containers.RepeatedScalarFieldContainer[int]
    applied: int
    last: bool
    error: _types_pb2.ErrorDetail
    def __init__(self, frame_id: _Optional[int] = ..., first: _Optional[int] = ..., values: _Optional[_Iterable[bytes]] = ..., absent: _Optional[_Iterable[int]] = ..., applied: _Optional[int] = ..., last: _Optional[bool] = ..., error: _Optional[_Union[_types_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("start", "end", "limit", "consistency")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    start: bytes
    end: bytes
    limit: int
    consistency: Consistency
    def __init__(self, start: _Optional[bytes] = ..., end: _Optional[bytes] = ..., limit: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ...) -> None: ...

class KeyValue(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("items", "next_start", "applied")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_START_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[KeyValue]
    next_start: bytes
    applied: int
    def __init__(self, items: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ..., next_start: _Optional[bytes] = ..., applied: _Optional[int] = ...) -> None: ...

class TreeEntry(_message.Message):
    __slots__ = ("path", "directory", "mode", "size", "digest")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    directory: bool
    mode: int
    size: int
    digest: bytes
    def __init__(self, path: _Optional[bytes] = ..., directory: _Optional[bool] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ListTreeRequest(_message.Message):
    __slots__ = ("path", "recursive", "consistency", "after", "limit")
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    recursive: bool
    consistency: Consistency
    after: bytes
    limit: int
    def __init__(self, path: _Optional[bytes] = ..., recursive: _Optional[bool] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTreeResponse(_message.Message):
    __slots__ = ("entries", "applied")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TreeEntry]
    applied: int
    def __init__(self, entries: _Optional[_Iterable[_Union[TreeEntry, _Mapping]]] = ..., applied: _Optional[int] = ...) -> None: ...

class ReadFileRequest(_message.Message):
    __slots__ = ("path", "offset", "consistency")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    offset: int
    consistency: Consistency
    def __init__(self, path: _Optional[bytes] = ..., offset: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ...) -> None: ...

class ReadFileResponse(_message.Message):
    __slots__ = ("entry", "data", "applied")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    entry: TreeEntry
    data: bytes
    applied: int
    def __init__(self, entry: _Optional[_Union[TreeEntry, _Mapping]] = ..., data: _Optional[bytes] = ..., applied: _Optional[int] = ...) -> None: ...

class OpenState(_message.Message):
    __slots__ = ("consistency", "history_id")
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    consistency: Consistency
    history_id: str
    def __init__(self, consistency: _Optional[_Union[Consistency, str]] = ..., history_id: _Optional[str] = ...) -> None: ...

class OpenedState(_message.Message):
    __slots__ = ("lsn", "term", "history_id")
    LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    term: int
    history_id: str
    def __init__(self, lsn: _Optional[int] = ..., term: _Optional[int] = ..., history_id: _Optional[str] = ...) -> None: ...

class ReadStateRequest(_message.Message):
    __slots__ = ("open", "keys", "tree", "file")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    open: OpenState
    keys: ListKeysRequest
    tree: ListTreeRequest
    file: ReadFileRequest
    def __init__(self, open: _Optional[_Union[OpenState, _Mapping]] = ..., keys: _Optional[_Union[ListKeysRequest, _Mapping]] = ..., tree: _Optional[_Union[ListTreeRequest, _Mapping]] = ..., file: _Optional[_Union[ReadFileRequest, _Mapping]] = ...) -> None: ...

class ReadStateResponse(_message.Message):
    __slots__ = ("opened", "keys", "tree", "file", "error", "last")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    opened: OpenedState
    keys: ListKeysResponse
    tree: ListTreeResponse
    file: ReadFileResponse
    error: _types_pb2.ErrorDetail
    last: bool
    def __init__(self, opened: _Optional[_Union[OpenedState, _Mapping]] = ..., keys: _Optional[_Union[ListKeysResponse, _Mapping]] = ..., tree: _Optional[_Union[ListTreeResponse, _Mapping]] = ..., file: _Optional[_Union[ReadFileResponse, _Mapping]] = ..., error: _Optional[_Union[_types_pb2.ErrorDetail, _Mapping]] = ..., last: _Optional[bool] = ...) -> None: ...

class UploadPayloadRequest(_message.Message):
    __slots__ = ("payload", "chunk")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    payload: _types_pb2.Payload
    chunk: bytes
    def __init__(self, payload: _Optional[_Union[_types_pb2.Payload, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadPayloadsRequest(_message.Message):
    __slots__ = ("payloads",)
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    payloads: _containers.RepeatedCompositeFieldContainer[_types_pb2.PayloadContent]
    def __init__(self, payloads: _Optional[_Iterable[_Union[_types_pb2.PayloadContent, _Mapping]]] = ...) -> None: ...

class UploadPayloadsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UploadPayloadResponse(_message.Message):
    __slots__ = ("holders",)
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    holders: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, holders: _Optional[_Iterable[int]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("member_id", "address", "role", "matched", "recently_active", "progress")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    RECENTLY_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    address: str
    role: str
    matched: int
    recently_active: bool
    progress: str
    def __init__(self, member_id: _Optional[int] = ..., address: _Optional[str] = ..., role: _Optional[str] = ..., matched: _Optional[int] = ..., recently_active: _Optional[bool] = ..., progress: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("cluster_id", "member_id", "incarnation", "role", "term", "leader", "first_index", "last_index", "committed", "applied", "members", "configuration_changing", "disk_full", "disk_free_bytes", "disk_total_bytes", "serving", "session_count", "payload_inline_bytes_max", "proposal_bytes_max", "version", "standalone", "backfill", "stored_from", "low_water_mark", "history_id", "last_term", "tls")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_CHANGING_FIELD_NUMBER: _ClassVar[int]
    DISK_FULL_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_INLINE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STANDALONE_FIELD_NUMBER: _ClassVar[int]
    BACKFILL_FIELD_NUMBER: _ClassVar[int]
    STORED_FROM_FIELD_NUMBER: _ClassVar[int]
    LOW_WATER_MARK_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    member_id: int
    incarnation: int
    role: str
    term: int
    leader: _types_pb2.LeaderHint
    first_index: int
    last_index: int
    committed: int
    applied: int
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    configuration_changing: bool
    disk_full: bool
    disk_free_bytes: int
    disk_total_bytes: int
    serving: bool
    session_count: int
    payload_inline_bytes_max: int
    proposal_bytes_max: int
    version: str
    standalone: bool
    backfill: BackfillStatus
    stored_from: int
    low_water_mark: int
    history_id: str
    last_term: int
    tls: TlsStatus
    def __init__(self, cluster_id: _Optional[str] = ..., member_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ..., committed: _Optional[int] = ..., applied: _Optional[int] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., configuration_changing: _Optional[bool] = ..., disk_full: _Optional[bool] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., serving: _Optional[bool] = ..., session_count: _Optional[int] = ..., payload_inline_bytes_max: _Optional[int] = ..., proposal_bytes_max: _Optional[int] = ..., version: _Optional[str] = ..., standalone: _Optional[bool] = ..., backfill: _Optional[_Union[BackfillStatus, _Mapping]] = ..., stored_from: _Optional[int] = ..., low_water_mark: _Optional[int] = ..., history_id: _Optional[str] = ..., last_term: _Optional[int] = ..., tls: _Optional[_Union[TlsStatus, _Mapping]] = ...) -> None: ...

class TlsStatus(_message.Message):
    __slots__ = ("trusted", "certificate", "clients", "refused_calls", "refused_last")
    TRUSTED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_CALLS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_LAST_FIELD_NUMBER: _ClassVar[int]
    trusted: _containers.RepeatedScalarFieldContainer[str]
    certificate: str
    clients: str
    refused_calls: int
    refused_last: str
    def __init__(self, trusted: _Optional[_Iterable[str]] = ..., certificate: _Optional[str] = ..., clients: _Optional[str] = ..., refused_calls: _Optional[int] = ..., refused_last: _Optional[str] = ...) -> None: ...

class BackfillStatus(_message.Message):
    __slots__ = ("from_lsn", "next_lsn", "target_lsn", "term")
    FROM_LSN_FIELD_NUMBER: _ClassVar[int]
    NEXT_LSN_FIELD_NUMBER: _ClassVar[int]
    TARGET_LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    from_lsn: int
    next_lsn: int
    target_lsn: int
    term: int
    def __init__(self, from_lsn: _Optional[int] = ..., next_lsn: _Optional[int] = ..., target_lsn: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...
