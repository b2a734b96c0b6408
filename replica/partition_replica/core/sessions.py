"""Exactly-once: what a proposal's session, sequence and content say about it.

The leader asks before it proposes, and the apply asks again: both by these rules. Pure.
"""

import hashlib
from enum import Enum, auto

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import ProposalResult

CONTENT_DIGEST_BYTES = 16
SESSION_ID_MAX = (1 << 63) - 1
ELAPSED_MS_MAX = 3_600_000
"""The most that one entry moves the clock of sessions forward."""

CLOCK_MS_MAX = (1 << 64) - 1


class Verdict(Enum):
    """What a sequence is to a session that is alive."""

    NEW = auto()
    REPEATED = auto()
    """It was applied with this content: its result is the answer."""
    REUSED = auto()
    """It was applied with another content."""
    ACKNOWLEDGED = auto()
    """The caller said that it has the answer, so the result is forgotten."""


WITHOUT_EFFECT = {
    Verdict.REPEATED: "duplicate",
    Verdict.REUSED: "sequence_reused",
    Verdict.ACKNOWLEDGED: "sequence_acknowledged",
}
"""`Applied.kind` of a proposal that is not new."""


def judge(
    sequence: int, content_digest: bytes, acknowledged_below: int, earlier: ProposalResult | None
) -> Verdict:
    """`earlier`: the stored result of this sequence, if any. `content_digest` may be empty in
    entries written before format 2: then contents are not compared."""
    if earlier is not None:
        compared = bool(earlier.content_digest and content_digest)
        if compared and earlier.content_digest != content_digest:
            return Verdict.REUSED
        return Verdict.REPEATED
    return Verdict.ACKNOWLEDGED if sequence < acknowledged_below else Verdict.NEW


def content_digest(proposal: types.Proposal) -> bytes:
    """Of preconditions, payloads and operations: what must be equal for a retry. The leader
    computes it once and the entry carries it, because encodings may differ between versions. A
    payload's digest stands for its bytes: `check_proposal` compared them."""
    content = types.Proposal(preconditions=proposal.preconditions, operations=proposal.operations)
    for payload in proposal.payloads:
        content.payloads.add(digest=payload.digest, size=payload.size, mode=payload.mode)
    encoded = content.SerializeToString(deterministic=True)
    return hashlib.sha256(encoded).digest()[:CONTENT_DIGEST_BYTES]


def advance_clock(clock_ms: int, body: types.EntryBody) -> int:
    """The clock of sessions behind an entry. It never falls, and an entry moves it by at most
    ELAPSED_MS_MAX: a leader's wall clock cannot expire anybody's session, nor keep it alive."""
    if body.HasField("elapsed_ms"):
        return min(clock_ms + min(body.elapsed_ms, ELAPSED_MS_MAX), CLOCK_MS_MAX)
    return max(clock_ms, body.time_ms)  # an entry written before format 2
