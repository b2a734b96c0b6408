"""What a recovery finds on the volume of a survivor, and what may be lost by it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from partition_common.loss_token import loss_token

from partition_replica.core.model import Configuration, LogEntry, Position, RecoveryStep
from partition_replica.core.payloads import decode_body, is_blob, payloads_of
from partition_replica.engine.entries import member_changes
from partition_replica.errors import RecoveryRefused
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.log.reading import LogReader

PAGE_BYTES = 4 * 1024**2
MISSING_SHOWN = 3
"""The maximum number of missing payloads in a message."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A survivor as it is. committed: as far as its volume knows, which may be too low.
    configuration: as of LSN `configured`. changed: members that later entries of the log add,
    promote or remove, whether committed or not. refusal: why this volume must not be recovered; ""
    if it may."""

    cluster: ClusterID
    member: MemberID
    term: Term
    last: Position
    committed: LSN
    applied: LSN
    configuration: Configuration
    configured: LSN
    changed: frozenset[int] = frozenset()
    refusal: str = ""
    missing: list[str] = field(default_factory=list)
    """Of the payloads that entries behind `applied` name, and that the volume lacks."""

    @property
    def token(self) -> str:
        """The token that accepts the loss of this finding, and of no other."""
        return loss_token(self.cluster, self.member, self.term, self.last.term, self.last.index)

    def check(self, token: str) -> None:
        """Raises RecoveryRefused if the volume must not be recovered, or `token` is not of it."""
        if self.refusal:
            raise RecoveryRefused(self.refusal)
        if token != self.token:
            raise RecoveryRefused(
                f"the token {token or '(none)'} does not accept the loss on member "
                f"{self.member:x}, whose log ends at LSN {self.last.index} in term "
                f"{self.last.term}: look at the member as it is now, and give its token"
            )

    def may_be_lost(self) -> list[str]:
        """What the recovery may lose, and what it changes, in sentences."""
        last, tail = self.last.index, self.last.index - self.committed
        told = [
            f"Entries behind LSN {last} are lost: the other members may have acknowledged them "
            "without this one. It cannot know how many they are.",
        ]
        if tail > 0:
            first = "entry" if tail == 1 else f"{tail} entries,"
            span = f"{last}" if tail == 1 else f"{self.committed + 1} to {last},"
            told.append(
                f"The last {first} {span} may not be committed, as far as this member knows. All "
                "are kept and take effect: acknowledged ones may be among them, and also ones "
                "whose clients were told of no success."
            )
        if own := self._own_role():
            told.append(own)
        others = sorted(self.configuration.members - {self.member})
        told.append(
            "Members " + ", ".join(f"{other:x}" for other in others) + " are removed for good. "
            "Their volumes belong to the former cluster and cannot come back."
        )
        told.append(
            "The group gets a new cluster ID, which is its history ID, too. All sessions expire, "
            "and clients are told that acknowledged writes may be lost."
        )
        return told

    def _own_role(self) -> str:
        voters = self.configuration.voters + self.configuration.voters_outgoing
        if self.member in voters:
            return ""
        return (
            "This member is a learner. It never counted for an acknowledgement, so a voter may "
            "have more entries: recover a voter if one is left."
        )


def look(log: LogReader, applied: LSN, blob_size: Callable[[Digest], int | None]) -> Finding:
    """Looks at a survivor whose state is at `applied`. blob_size: the size of a stored blob, or
    None. Reads the entries behind `applied`. Raises Damaged, StorageFailed."""
    configured, configuration = log.configuration
    found = Finding(
        log.identity.cluster_id,
        log.identity.member_id,
        log.hard_state.term,
        log.last,
        log.committed,
        applied,
        configuration,
        configured,
    )
    if refusal := _refusal(log, found):
        return replace(found, refusal=refusal)
    changed: set[int] = set()
    missing: list[str] = []
    for entry in _entries(log, LSN(min(applied, configured) + 1)):
        if entry.index > configured:
            changed |= set(member_changes(entry))
        if entry.index > applied:
            missing += _missing(entry, blob_size)
    refusal = _lacks(missing) if missing else ""
    return replace(found, changed=frozenset(changed), refusal=refusal, missing=missing)


def _refusal(  # noqa: PLR0911  # one return for each reason
    log: LogReader, found: Finding
) -> str:
    recovery = log.recovery
    if recovery is not None and recovery.step is RecoveryStep.SWITCHED:
        return (
            f"the recovery to cluster {recovery.cluster_id} has begun and is not complete: start "
            "the replica, or give the token that it began with, to go on"
        )
    if not found.cluster:
        return "the volume belongs to no group, so no quorum is lost"
    if log.identity.standalone or log.backfill is not None:
        return (
            "the log is standalone: its one replica needs no quorum. Start it; a backfill that was "
            "interrupted goes on by itself"
        )
    if not found.configuration.members:
        return (
            "this member has never received the group's state: there is nothing to recover from. "
            "Recover another member, or restore a snapshot"
        )
    if found.member not in found.configuration.members:
        return (
            f"this member was removed from the group at LSN {found.configured} or before, and "
            "lacks all that came later: recover another member, or restore a snapshot"
        )
    if found.configuration.is_quorum({found.member}):
        return "this member is the only voter of its group, so the quorum is not lost: start it"
    return ""


def _entries(log: LogReader, lo: LSN) -> Iterator[LogEntry]:
    """The entries from `lo` on, or from the first that is stored."""
    lo, end = LSN(max(lo, log.boundary.index + 1)), LSN(log.last.index + 1)
    while lo < end:
        page = log.read(lo, end, PAGE_BYTES)
        yield from page
        lo = LSN(page[-1].index + 1)


def _missing(entry: LogEntry, blob_size: Callable[[Digest], int | None]) -> list[str]:
    if entry.kind or not entry.data:
        return []
    return [
        f"{payload.digest.hex()} of entry {entry.index}"
        for payload in payloads_of(decode_body(entry))
        if is_blob(payload) and blob_size(Digest(payload.digest)) != payload.size
    ]


def _lacks(missing: list[str]) -> str:
    shown = ", ".join(missing[:MISSING_SHOWN])
    more = f", and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
    return (
        f"the volume lacks payloads that entries not applied yet name ({shown}{more}): the volume "
        "is damaged. Copy these files from another member's volume (blobs/<first two "
        "digits>/<name>), recover another member, or restore a snapshot"
    )
