"""A Raft loop between stand-ins."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, LogEntry, Position
from partition_replica.engine.port import Message, Ready, TransferHeader
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.loop_hooks import LoopHooks
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.consensus.waits import ReadIndexes
from partition_replica.runtime.metrics import Metrics

HEADER = TransferHeader(Position(LSN(369), Term(3)), Configuration(voters=(1,)), b"manifest")


class RecordingEngine:
    """Gives one snapshot to write, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.asked = 0
        self.term = 1
        self._work: list[Ready] = [
            Ready(1, None, 0, None, [], HEADER, [], [], [], [], must_sync=True, hold_messages=False)
        ]

    def commit(self, index: int) -> None:
        """The next work is an entry that is committed."""
        entry = LogEntry(LSN(index), Term(1), 0, b"")
        self._work = [
            Ready(2, None, 0, None, [], None, [], [], [entry], [], False, hold_messages=False)
        ]

    def follow(self, leader: int) -> None:
        """The next work names a leader, and nothing is written."""
        self._work = [
            Ready(3, "follower", leader, None, [], None, [], [], [], [], False, hold_messages=False)
        ]

    def read_index(self, context: bytes) -> None:
        self.told.append("read index")

    def take_ready(self) -> Ready | None:
        self.asked += 1
        return self._work.pop() if self._work else None

    def persisted(self, number: int) -> None:
        self.told.append(f"persisted {number}")

    def applied_to(self, index: LSN) -> None:
        self.told.append(f"applied to {index}")

    def tick(self) -> None:
        self.told.append("tick")

    def ticks_to_act(self) -> int:
        return 1

    def only_a_sign_of_life(self, message: Message) -> bool:
        return False

    def status(self) -> Any:
        return SimpleNamespace(term=self.term)

    def announce_commit(self) -> None:
        self.told.append("announce")

    def committed_in_term(self) -> bool:
        return True

    def report_snapshot(self, member: int, succeeded: bool) -> None:
        self.told.append(f"snapshot {member} {succeeded}")


def loop_of(
    engine: RecordingEngine,
    log_writer: Callable[..., Any],
    installed: list[TransferHeader],
    *,
    tick_s: float,
    limits: Limits | None = None,
) -> RaftLoop:
    raft_loop = RaftLoop(
        cast("Any", None),
        cast("Any", None),
        cast("Any", engine),
        cast("Any", None),
        limits or Limits(),
        Metrics(),
        roster=Roster(),
        proposals=cast("Any", SimpleNamespace(committed=lambda _: None, take=list)),
        reads=ReadIndexes(1),
        applier=cast("Any", SimpleNamespace(pause=lambda: None, add=lambda _: None)),
        tick_s=tick_s,
        election_ticks=10,
        wall_ms=lambda: 0,
        failed=lambda _: None,
        log_writer=cast("Any", log_writer),
    )
    raft_loop.start(
        LoopHooks(
            role_changed=lambda *_: None,
            send_state=lambda *_: None,
            staged_state=lambda _: 2,
            state_installed=installed.append,
            released=lambda _: None,
        ),
    )
    return raft_loop
