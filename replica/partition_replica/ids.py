"""Identifiers. Distinct types, so that no LSN is ever taken for a term."""

from typing import NewType

LSN = NewType("LSN", int)
"""Log sequence number, which is the Raft log index. From 1; 0 means none."""

Term = NewType("Term", int)
"""Raft term. From 1; 0 means none."""

MemberID = NewType("MemberID", int)
"""A member of a Raft group: random 63 bits, drawn once a volume, never 0."""

ClusterID = NewType("ClusterID", str)
"""A group's UUID, drawn at bootstrap; empty for a volume that belongs to none."""

SessionID = NewType("SessionID", int)
"""Random, drawn by the leader that opened the session; never used again."""

Digest = NewType("Digest", bytes)
"""SHA-256 of a payload's content, 32 bytes."""

DIGEST_BYTES = 32
