from partition_proto.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("cluster_id", "member_id", "incarnation", "last_index", "address", "to_member_id", "raft_port", "payload_connections")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TO_MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_PORT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    member_id: int
    incarnation: int
    last_index: int
    address: str
    to_member_id: int
    raft_port: int
    payload_connections: bool
    def __init__(self, cluster_id: _Optional[str] = ..., member_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., last_index: _Optional[int] = ..., address: _Optional[str] = ..., to_member_id: _Optional[int] = ..., raft_port: _Optional[int] = ..., payload_connections: _Optional[bool] = ...) -> None: ...

class PayloadOffer(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    size: int
    def __init__(self, digest: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class RaftRefusal(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RaftBatch(_message.Message):
    __slots__ = ("hello", "messages")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., messages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RaftReply(_message.Message):
    __slots__ = ("hello",)
    HELLO_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ...) -> None: ...

class TransferHeader(_message.Message):
    __slots__ = ("cluster_id", "sender", "receiver", "message", "size", "digest", "offset")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    sender: int
    receiver: int
    message: bytes
    size: int
    digest: bytes
    offset: int
    def __init__(self, cluster_id: _Optional[str] = ..., sender: _Optional[int] = ..., receiver: _Optional[int] = ..., message: _Optional[bytes] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class TransferOffset(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class TransferManifest(_message.Message):
    __slots__ = ("format_version", "index", "term", "snapshot_id", "size", "digest")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    index: int
    term: int
    snapshot_id: str
    size: int
    digest: bytes
    def __init__(self, format_version: _Optional[int] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., snapshot_id: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class InstallSnapshotRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: TransferHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[TransferHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class InstallSnapshotResponse(_message.Message):
    __slots__ = ("payloads_fetched",)
    PAYLOADS_FETCHED_FIELD_NUMBER: _ClassVar[int]
    payloads_fetched: int
    def __init__(self, payloads_fetched: _Optional[int] = ...) -> None: ...

class FetchPayloadRequest(_message.Message):
    __slots__ = ("cluster_id", "digest", "offset")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    digest: bytes
    offset: int
    def __init__(self, cluster_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchPayloadsRequest(_message.Message):
    __slots__ = ("cluster_id", "digests")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, cluster_id: _Optional[str] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PayloadBatch(_message.Message):
    __slots__ = ("contents",)
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    contents: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, contents: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PayloadChunk(_message.Message):
    __slots__ = ("cluster_id", "digest", "size", "data")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    digest: bytes
    size: int
    data: bytes
    def __init__(self, cluster_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushPayloadsRequest(_message.Message):
    __slots__ = ("cluster_id", "payloads")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    payloads: _containers.RepeatedCompositeFieldContainer[_types_pb2.PayloadContent]
    def __init__(self, cluster_id: _Optional[str] = ..., payloads: _Optional[_Iterable[_Union[_types_pb2.PayloadContent, _Mapping]]] = ...) -> None: ...

class PushPayloadsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PushPayloadResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...
