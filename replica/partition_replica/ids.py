"""Identifiers. Each has its own type, so that the type checker keeps an LSN from being used as a
term."""

from typing import NewType

LSN = NewType("LSN", int)
"""Log sequence number, equal to the Raft log index. From 1; 0 means none."""

Term = NewType("Term", int)
"""Raft term. From 1; 0 means none."""

MemberID = NewType("MemberID", int)
"""A member of a Raft group: 63 random bits, drawn once per volume, never 0."""

ClusterID = NewType("ClusterID", str)
"""A group's UUID, drawn at bootstrap; empty for a volume that belongs to no cluster."""

SessionID = NewType("SessionID", int)
"""A random number, drawn by the leader that opens the session; never used again."""

Digest = NewType("Digest", bytes)
"""SHA-256 of a payload's content, 32 bytes."""

DIGEST_BYTES = 32
