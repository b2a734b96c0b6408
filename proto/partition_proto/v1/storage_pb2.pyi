from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecoveryStep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECOVERY_STEP_UNSPECIFIED: _ClassVar[RecoveryStep]
    RECOVERY_STEP_ACCEPTED: _ClassVar[RecoveryStep]
    RECOVERY_STEP_SWITCHED: _ClassVar[RecoveryStep]
    RECOVERY_STEP_COMPLETE: _ClassVar[RecoveryStep]
RECOVERY_STEP_UNSPECIFIED: RecoveryStep
RECOVERY_STEP_ACCEPTED: RecoveryStep
RECOVERY_STEP_SWITCHED: RecoveryStep
RECOVERY_STEP_COMPLETE: RecoveryStep

class IdentityRow(_message.Message):
    __slots__ = ("format_version", "cluster_id", "member_id", "state_generation", "standalone")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    STANDALONE_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    cluster_id: str
    member_id: int
    state_generation: int
    standalone: bool
    def __init__(self, format_version: _Optional[int] = ..., cluster_id: _Optional[str] = ..., member_id: _Optional[int] = ..., state_generation: _Optional[int] = ..., standalone: _Optional[bool] = ...) -> None: ...

class HardStateRow(_message.Message):
    __slots__ = ("term", "vote", "commit")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    term: int
    vote: int
    commit: int
    def __init__(self, term: _Optional[int] = ..., vote: _Optional[int] = ..., commit: _Optional[int] = ...) -> None: ...

class BoundaryRow(_message.Message):
    __slots__ = ("index", "term")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class ConfStateRow(_message.Message):
    __slots__ = ("index", "voters", "learners", "voters_outgoing", "learners_next", "auto_leave")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_FIELD_NUMBER: _ClassVar[int]
    VOTERS_OUTGOING_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_NEXT_FIELD_NUMBER: _ClassVar[int]
    AUTO_LEAVE_FIELD_NUMBER: _ClassVar[int]
    index: int
    voters: _containers.RepeatedScalarFieldContainer[int]
    learners: _containers.RepeatedScalarFieldContainer[int]
    voters_outgoing: _containers.RepeatedScalarFieldContainer[int]
    learners_next: _containers.RepeatedScalarFieldContainer[int]
    auto_leave: bool
    def __init__(self, index: _Optional[int] = ..., voters: _Optional[_Iterable[int]] = ..., learners: _Optional[_Iterable[int]] = ..., voters_outgoing: _Optional[_Iterable[int]] = ..., learners_next: _Optional[_Iterable[int]] = ..., auto_leave: _Optional[bool] = ...) -> None: ...

class BackfillRow(_message.Message):
    __slots__ = ("term", "first", "next", "target", "termed")
    TERM_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TERMED_FIELD_NUMBER: _ClassVar[int]
    term: int
    first: int
    next: int
    target: int
    termed: int
    def __init__(self, term: _Optional[int] = ..., first: _Optional[int] = ..., next: _Optional[int] = ..., target: _Optional[int] = ..., termed: _Optional[int] = ...) -> None: ...

class PositionRow(_message.Message):
    __slots__ = ("lsn",)
    LSN_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    def __init__(self, lsn: _Optional[int] = ...) -> None: ...

class LeaseRow(_message.Message):
    __slots__ = ("transitions", "holder")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    transitions: int
    holder: str
    def __init__(self, transitions: _Optional[int] = ..., holder: _Optional[str] = ...) -> None: ...

class JournalRow(_message.Message):
    __slots__ = ("epoch", "file_bytes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    epoch: bytes
    file_bytes: int
    def __init__(self, epoch: _Optional[bytes] = ..., file_bytes: _Optional[int] = ...) -> None: ...

class RecoveryRow(_message.Message):
    __slots__ = ("cluster_id", "former_cluster_id", "token", "step", "lsn", "term")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    FORMER_CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    former_cluster_id: str
    token: str
    step: RecoveryStep
    lsn: int
    term: int
    def __init__(self, cluster_id: _Optional[str] = ..., former_cluster_id: _Optional[str] = ..., token: _Optional[str] = ..., step: _Optional[_Union[RecoveryStep, str]] = ..., lsn: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class JournalRecord(_message.Message):
    __slots__ = ("first", "entries", "hard_state")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    HARD_STATE_FIELD_NUMBER: _ClassVar[int]
    first: int
    entries: _containers.RepeatedCompositeFieldContainer[JournalEntry]
    hard_state: HardStateRow
    def __init__(self, first: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[JournalEntry, _Mapping]]] = ..., hard_state: _Optional[_Union[HardStateRow, _Mapping]] = ...) -> None: ...

class JournalEntry(_message.Message):
    __slots__ = ("term", "kind", "data", "context")
    TERM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    term: int
    kind: int
    data: bytes
    context: bytes
    def __init__(self, term: _Optional[int] = ..., kind: _Optional[int] = ..., data: _Optional[bytes] = ..., context: _Optional[bytes] = ...) -> None: ...

class AppliedRow(_message.Message):
    __slots__ = ("format_version", "index", "term", "time_ms", "clock_ms")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    index: int
    term: int
    time_ms: int
    clock_ms: int
    def __init__(self, format_version: _Optional[int] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., time_ms: _Optional[int] = ..., clock_ms: _Optional[int] = ...) -> None: ...

class HistoryRow(_message.Message):
    __slots__ = ("history_id",)
    HISTORY_ID_FIELD_NUMBER: _ClassVar[int]
    history_id: str
    def __init__(self, history_id: _Optional[str] = ...) -> None: ...

class NodeRow(_message.Message):
    __slots__ = ("directory", "mode", "size", "digest")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    directory: bool
    mode: int
    size: int
    digest: bytes
    def __init__(self, directory: _Optional[bool] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class PayloadRow(_message.Message):
    __slots__ = ("references", "size", "inlined")
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    INLINED_FIELD_NUMBER: _ClassVar[int]
    references: int
    size: int
    inlined: bool
    def __init__(self, references: _Optional[int] = ..., size: _Optional[int] = ..., inlined: _Optional[bool] = ...) -> None: ...

class SessionRow(_message.Message):
    __slots__ = ("time_to_live_ms", "last_active_ms", "acknowledged_below")
    TIME_TO_LIVE_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIVE_MS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BELOW_FIELD_NUMBER: _ClassVar[int]
    time_to_live_ms: int
    last_active_ms: int
    acknowledged_below: int
    def __init__(self, time_to_live_ms: _Optional[int] = ..., last_active_ms: _Optional[int] = ..., acknowledged_below: _Optional[int] = ...) -> None: ...

class ResultRow(_message.Message):
    __slots__ = ("lsn", "precondition_failed", "outcomes", "term", "content_digest")
    LSN_FIELD_NUMBER: _ClassVar[int]
    PRECONDITION_FAILED_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    precondition_failed: bool
    outcomes: bytes
    term: int
    content_digest: bytes
    def __init__(self, lsn: _Optional[int] = ..., precondition_failed: _Optional[bool] = ..., outcomes: _Optional[bytes] = ..., term: _Optional[int] = ..., content_digest: _Optional[bytes] = ...) -> None: ...

class MemberRow(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class UnappliedRow(_message.Message):
    __slots__ = ("whole", "outcomes")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    whole: bool
    outcomes: bytes
    def __init__(self, whole: _Optional[bool] = ..., outcomes: _Optional[bytes] = ...) -> None: ...
