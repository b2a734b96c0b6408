"""Proposals in few words."""

import hashlib

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.proposed_entry import proposed
from partition_replica.runtime.consensus.proposals import AwaitedProposal


def set_key(key: bytes, value: bytes) -> types.Operation:
    return types.Operation(set_key=types.SetKey(key=key, value=value))


def delete_key(key: bytes) -> types.Operation:
    return types.Operation(delete_key=types.DeleteKey(key=key))


def mkdir(path: bytes, mode: int = 0o755) -> types.Operation:
    return types.Operation(create_directory=types.CreateDirectory(path=path, mode=mode))


def link(path: bytes, payload: int = 1) -> types.Operation:
    return types.Operation(
        create_hard_link=types.CreateHardLink(payload=payload, destination_path=path)
    )


def copy(source: bytes, path: bytes) -> types.Operation:
    return types.Operation(
        create_hard_link=types.CreateHardLink(source_path=source, destination_path=path)
    )


def remove(path: bytes) -> types.Operation:
    return types.Operation(remove_directory_entry=types.RemoveDirectoryEntry(path=path))


def payload(content: bytes, mode: int = 0o644) -> types.Payload:
    inline = content if len(content) <= 64 * 1024 else b""
    digest = hashlib.sha256(content).digest()
    return types.Payload(digest=digest, size=len(content), mode=mode, data=inline)


def proposal(
    session: int,
    sequence: int,
    operations: list[types.Operation] | None = None,
    payloads: list[types.Payload] | None = None,
    *,
    below: int = 1,
    preconditions: list[types.Precondition] | None = None,
) -> types.Proposal:
    return types.Proposal(
        session_id=session,
        sequence=sequence,
        acknowledged_below=below,
        operations=operations or [],
        payloads=payloads or [],
        preconditions=preconditions or [],
    )


def body(found: types.Proposal, time_ms: int = 1000) -> types.EntryBody:
    return types.EntryBody(proposal=found, time_ms=time_ms)


def opening(time_to_live_ms: int = 600_000, time_ms: int = 1000) -> types.EntryBody:
    return types.EntryBody(
        open_session=types.OpenSession(time_to_live_ms=time_to_live_ms), time_ms=time_ms
    )


def pending(body: types.EntryBody | None = None, *, wait_applied: bool = False) -> AwaitedProposal:
    """What waits for the engine; without a body something of no session."""
    return AwaitedProposal(proposed(body or types.EntryBody()), wait_applied=wait_applied)
