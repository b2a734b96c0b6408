"""Exactly-once semantics: the rules for a proposal's session, sequence and content. Pure.

The leader checks them before it proposes, and each replica checks them again when it applies.
"""

import hashlib
from enum import Enum, auto

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import ProposalResult

CONTENT_DIGEST_BYTES = 16
SESSION_ID_MAX = (1 << 63) - 1
ELAPSED_MS_MAX = 3_600_000
"""The maximum that one entry moves the session clock forward, in milliseconds."""

CLOCK_MS_MAX = (1 << 64) - 1


class Verdict(Enum):
    """The state of a sequence in an existing session."""

    NEW = auto()
    REPEATED = auto()
    """It was applied with this content: the stored result is the answer."""
    REUSED = auto()
    """It was applied with different content."""
    ACKNOWLEDGED = auto()
    """The client has acknowledged the answer, so the result is deleted."""


NEW, ACKNOWLEDGED = Verdict.NEW, Verdict.ACKNOWLEDGED
"""Every entry uses them, and Python 3.11 takes longer to find them in the class."""

WITHOUT_EFFECT = {
    Verdict.REPEATED: "duplicate",
    Verdict.REUSED: "sequence_reused",
    Verdict.ACKNOWLEDGED: "sequence_acknowledged",
}
"""`Applied.kind` of a proposal that is not new."""


def judge(
    sequence: int, content_digest: bytes, acknowledged_below: int, earlier: ProposalResult | None
) -> Verdict:
    """The state of a sequence. `earlier`: the stored result of this sequence, if any.
    `content_digest` is empty in entries written before format 2; then contents are not compared."""
    if earlier is not None:
        compared = bool(earlier.content_digest and content_digest)
        if compared and earlier.content_digest != content_digest:
            return Verdict.REUSED
        return Verdict.REPEATED
    return ACKNOWLEDGED if sequence < acknowledged_below else NEW


def content_digest(proposal: types.Proposal) -> bytes:
    """A hash of preconditions, payloads and operations, which must be equal in a retry. The leader
    computes it once and stores it in the entry, because encodings may differ between versions. A
    payload's digest replaces its bytes: `check_proposal` has compared them."""
    content = types.Proposal(preconditions=proposal.preconditions, operations=proposal.operations)
    for payload in proposal.payloads:
        content.payloads.add(digest=payload.digest, size=payload.size, mode=payload.mode)
    encoded = content.SerializeToString(deterministic=True)
    return hashlib.sha256(encoded).digest()[:CONTENT_DIGEST_BYTES]


def advance_clock(clock_ms: int, body: types.EntryBody) -> int:
    """The session clock after an entry, in milliseconds. It never falls, and an entry advances it
    by at most ELAPSED_MS_MAX. So a leader's wrong wall clock neither expires sessions nor keeps
    them alive."""
    if body.HasField("elapsed_ms"):
        return min(clock_ms + min(body.elapsed_ms, ELAPSED_MS_MAX), CLOCK_MS_MAX)
    return max(clock_ms, body.time_ms)  # an entry written before format 2
