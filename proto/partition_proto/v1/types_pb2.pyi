from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_APPLIED: _ClassVar[Outcome]
    OUTCOME_DESTINATION_EXISTS: _ClassVar[Outcome]
    OUTCOME_SOURCE_NOT_FOUND: _ClassVar[Outcome]
    OUTCOME_PARENT_NOT_FOUND: _ClassVar[Outcome]
    OUTCOME_DIRECTORY_NOT_EMPTY: _ClassVar[Outcome]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_NOT_LEADER: _ClassVar[Reason]
    REASON_NO_LEADER: _ClassVar[Reason]
    REASON_OUTCOME_UNKNOWN: _ClassVar[Reason]
    REASON_SESSION_EXPIRED: _ClassVar[Reason]
    REASON_PAYLOAD_MISSING: _ClassVar[Reason]
    REASON_PAYLOAD_MISMATCH: _ClassVar[Reason]
    REASON_INVALID_ARGUMENT: _ClassVar[Reason]
    REASON_PRECONDITION_FAILED: _ClassVar[Reason]
    REASON_OVERLOADED: _ClassVar[Reason]
    REASON_DISK_FULL: _ClassVar[Reason]
    REASON_COMPACTED: _ClassVar[Reason]
    REASON_NOT_FOUND: _ClassVar[Reason]
    REASON_NOT_BOOTSTRAPPED: _ClassVar[Reason]
    REASON_WRONG_CLUSTER: _ClassVar[Reason]
    REASON_STOPPING: _ClassVar[Reason]
    REASON_MEMBERSHIP_REFUSED: _ClassVar[Reason]
    REASON_DEPOSED: _ClassVar[Reason]
    REASON_PAYLOAD_QUORUM: _ClassVar[Reason]
    REASON_WRONG_HISTORY: _ClassVar[Reason]
    REASON_SEQUENCE_ACKNOWLEDGED: _ClassVar[Reason]
    REASON_SEQUENCE_REUSED: _ClassVar[Reason]
    REASON_SESSIONS_FULL: _ClassVar[Reason]
    REASON_RECOVERY_REFUSED: _ClassVar[Reason]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_APPLIED: Outcome
OUTCOME_DESTINATION_EXISTS: Outcome
OUTCOME_SOURCE_NOT_FOUND: Outcome
OUTCOME_PARENT_NOT_FOUND: Outcome
OUTCOME_DIRECTORY_NOT_EMPTY: Outcome
REASON_UNSPECIFIED: Reason
REASON_NOT_LEADER: Reason
REASON_NO_LEADER: Reason
REASON_OUTCOME_UNKNOWN: Reason
REASON_SESSION_EXPIRED: Reason
REASON_PAYLOAD_MISSING: Reason
REASON_PAYLOAD_MISMATCH: Reason
REASON_INVALID_ARGUMENT: Reason
REASON_PRECONDITION_FAILED: Reason
REASON_OVERLOADED: Reason
REASON_DISK_FULL: Reason
REASON_COMPACTED: Reason
REASON_NOT_FOUND: Reason
REASON_NOT_BOOTSTRAPPED: Reason
REASON_WRONG_CLUSTER: Reason
REASON_STOPPING: Reason
REASON_MEMBERSHIP_REFUSED: Reason
REASON_DEPOSED: Reason
REASON_PAYLOAD_QUORUM: Reason
REASON_WRONG_HISTORY: Reason
REASON_SEQUENCE_ACKNOWLEDGED: Reason
REASON_SEQUENCE_REUSED: Reason
REASON_SESSIONS_FULL: Reason
REASON_RECOVERY_REFUSED: Reason

class PayloadContent(_message.Message):
    __slots__ = ("digest", "content")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    content: bytes
    def __init__(self, digest: _Optional[bytes] = ..., content: _Optional[bytes] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("digest", "size", "mode", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    size: int
    mode: int
    data: bytes
    def __init__(self, digest: _Optional[bytes] = ..., size: _Optional[int] = ..., mode: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class SetKey(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteKey(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class CreateHardLink(_message.Message):
    __slots__ = ("payload", "source_path", "destination_path")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PATH_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PATH_FIELD_NUMBER: _ClassVar[int]
    payload: int
    source_path: bytes
    destination_path: bytes
    def __init__(self, payload: _Optional[int] = ..., source_path: _Optional[bytes] = ..., destination_path: _Optional[bytes] = ...) -> None: ...

class CreateDirectory(_message.Message):
    __slots__ = ("path", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    mode: int
    def __init__(self, path: _Optional[bytes] = ..., mode: _Optional[int] = ...) -> None: ...

class RemoveDirectoryEntry(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    def __init__(self, path: _Optional[bytes] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("create_hard_link", "remove_directory_entry", "create_directory", "set_key", "delete_key")
    CREATE_HARD_LINK_FIELD_NUMBER: _ClassVar[int]
    REMOVE_DIRECTORY_ENTRY_FIELD_NUMBER: _ClassVar[int]
    CREATE_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SET_KEY_FIELD_NUMBER: _ClassVar[int]
    DELETE_KEY_FIELD_NUMBER: _ClassVar[int]
    create_hard_link: CreateHardLink
    remove_directory_entry: RemoveDirectoryEntry
    create_directory: CreateDirectory
    set_key: SetKey
    delete_key: DeleteKey
    def __init__(self, create_hard_link: _Optional[_Union[CreateHardLink, _Mapping]] = ..., remove_directory_entry: _Optional[_Union[RemoveDirectoryEntry, _Mapping]] = ..., create_directory: _Optional[_Union[CreateDirectory, _Mapping]] = ..., set_key: _Optional[_Union[SetKey, _Mapping]] = ..., delete_key: _Optional[_Union[DeleteKey, _Mapping]] = ...) -> None: ...

class KeyEquals(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class PathDigestEquals(_message.Message):
    __slots__ = ("path", "digest")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    digest: bytes
    def __init__(self, path: _Optional[bytes] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Precondition(_message.Message):
    __slots__ = ("key_equals", "key_absent", "path_absent", "path_digest_equals")
    KEY_EQUALS_FIELD_NUMBER: _ClassVar[int]
    KEY_ABSENT_FIELD_NUMBER: _ClassVar[int]
    PATH_ABSENT_FIELD_NUMBER: _ClassVar[int]
    PATH_DIGEST_EQUALS_FIELD_NUMBER: _ClassVar[int]
    key_equals: KeyEquals
    key_absent: bytes
    path_absent: bytes
    path_digest_equals: PathDigestEquals
    def __init__(self, key_equals: _Optional[_Union[KeyEquals, _Mapping]] = ..., key_absent: _Optional[bytes] = ..., path_absent: _Optional[bytes] = ..., path_digest_equals: _Optional[_Union[PathDigestEquals, _Mapping]] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("session_id", "sequence", "acknowledged_below", "preconditions", "payloads", "operations")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BELOW_FIELD_NUMBER: _ClassVar[int]
    PRECONDITIONS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    sequence: int
    acknowledged_below: int
    preconditions: _containers.RepeatedCompositeFieldContainer[Precondition]
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, session_id: _Optional[int] = ..., sequence: _Optional[int] = ..., acknowledged_below: _Optional[int] = ..., preconditions: _Optional[_Iterable[_Union[Precondition, _Mapping]]] = ..., payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ("time_to_live_ms", "session_id")
    TIME_TO_LIVE_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    time_to_live_ms: int
    session_id: int
    def __init__(self, time_to_live_ms: _Optional[int] = ..., session_id: _Optional[int] = ...) -> None: ...

class CloseSession(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    def __init__(self, session_id: _Optional[int] = ...) -> None: ...

class ImportedEntry(_message.Message):
    __slots__ = ("payloads", "operations", "manifest", "raft")
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RAFT_FIELD_NUMBER: _ClassVar[int]
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    manifest: bytes
    raft: bytes
    def __init__(self, payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., manifest: _Optional[bytes] = ..., raft: _Optional[bytes] = ...) -> None: ...

class EntryBody(_message.Message):
    __slots__ = ("proposal", "open_session", "close_session", "imported", "time_ms", "elapsed_ms", "content_digest", "term")
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    proposal: Proposal
    open_session: OpenSession
    close_session: CloseSession
    imported: ImportedEntry
    time_ms: int
    elapsed_ms: int
    content_digest: bytes
    term: int
    def __init__(self, proposal: _Optional[_Union[Proposal, _Mapping]] = ..., open_session: _Optional[_Union[OpenSession, _Mapping]] = ..., close_session: _Optional[_Union[CloseSession, _Mapping]] = ..., imported: _Optional[_Union[ImportedEntry, _Mapping]] = ..., time_ms: _Optional[int] = ..., elapsed_ms: _Optional[int] = ..., content_digest: _Optional[bytes] = ..., term: _Optional[int] = ...) -> None: ...

class MemberChange(_message.Message):
    __slots__ = ("member_id", "address")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    address: str
    def __init__(self, member_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class LeaderHint(_message.Message):
    __slots__ = ("member_id", "address")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    address: str
    def __init__(self, member_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("reason", "message", "leader", "first_index", "applied", "missing_digests", "lease_transitions", "cause", "history_id")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    MISSING_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    message: str
    leader: LeaderHint
    first_index: int
    applied: int
    missing_digests: _containers.RepeatedScalarFieldContainer[bytes]
    lease_transitions: int
    cause: Reason
    history_id: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., message: _Optional[str] = ..., leader: _Optional[_Union[LeaderHint, _Mapping]] = ..., first_index: _Optional[int] = ..., applied: _Optional[int] = ..., missing_digests: _Optional[_Iterable[bytes]] = ..., lease_transitions: _Optional[int] = ..., cause: _Optional[_Union[Reason, str]] = ..., history_id: _Optional[str] = ...) -> None: ...
