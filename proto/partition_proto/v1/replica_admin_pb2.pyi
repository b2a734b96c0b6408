from partition_proto.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseToken(_message.Message):
    __slots__ = ("transitions", "holder")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    transitions: int
    holder: str
    def __init__(self, transitions: _Optional[int] = ..., holder: _Optional[str] = ...) -> None: ...

class EnableReplicationRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ...) -> None: ...

class EnableReplicationResponse(_message.Message):
    __slots__ = ("replicated",)
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    replicated: bool
    def __init__(self, replicated: _Optional[bool] = ...) -> None: ...

class BootstrapRequest(_message.Message):
    __slots__ = ("lease", "cluster_id", "unreplicated")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    UNREPLICATED_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    cluster_id: str
    unreplicated: bool
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., cluster_id: _Optional[str] = ..., unreplicated: _Optional[bool] = ...) -> None: ...

class BootstrapResponse(_message.Message):
    __slots__ = ("member_id",)
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    def __init__(self, member_id: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("lease", "cluster_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    cluster_id: str
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., cluster_id: _Optional[str] = ...) -> None: ...

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
    lease: LeaseToken
    member_id: int
    address: str
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., member_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class PromoteLearnerRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class RemoveMemberRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class MembershipResponse(_message.Message):
    __slots__ = ("lsn",)
    LSN_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    def __init__(self, lsn: _Optional[int] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("lease", "member_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseToken
    member_id: int
    def __init__(self, lease: _Optional[_Union[LeaseToken, _Mapping]] = ..., member_id: _Optional[int] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: _types_pb2.LeaderHint
    def __init__(self, leader: _Optional[_Union[_types_pb2.LeaderHint, _Mapping]] = ...) -> None: ...
