"""Settings of one replica's process."""

from dataclasses import dataclass, field
from pathlib import Path

from partition_proto.connection.pem import PemFiles

from partition_replica.core.limits import Limits

HEARTBEATS_A_TIMEOUT_MIN = 5

TlsFiles = PemFiles
"""PEM files; the replica reads them again when they change."""


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """The settings of a replica, fixed at its start.

    advertise: host:port at which other members and clients reach the replica. partition:
    "namespace/name", which every certificate must carry. tls: None means plain text, which the user
    has to request explicitly. election_timeout_ticks: 0 draws the time-out at random, as Raft needs
    it; any other value fixes it, for simulations. keep_all_entries: never compact the log, for
    debugging. raft_listen: host:port for Raft connections of other members, which connect to that
    port at the host of `advertise`; "" accepts none. socket: unix:PATH, where programs on this
    machine may call as clients without TLS, if the mode of the file lets them; "" for none. Its
    folder must not be open to others. lease_reads: answer linearizable reads by the
    leader's lease; equal at all members (docs/appends.md says what it relies on).
    """

    data: Path
    listen: str
    http_listen: str
    advertise: str
    partition: str
    tls: TlsFiles | None
    tick_s: float = 0.1
    election_ticks: int = 10
    election_timeout_ticks: int = 0
    shutdown_s: float = 10.0
    keep_all_entries: bool = False
    raft_listen: str = ""
    socket: str = ""
    lease_reads: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def heartbeat_ticks(self) -> int:
        """Ticks from one heartbeat of a leader to the next: two, if at least five still fit into
        the shortest election time-out. Each one costs an idle group as much as several ticks."""
        return 2 if self.election_ticks >= 2 * HEARTBEATS_A_TIMEOUT_MIN else 1
