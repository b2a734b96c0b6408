"""A whole group in one thread: nodes with stores in memory, messages delivered in order, no clock.

Persisting is a step of its own, so that tests decide what is durable when.
"""

import logging
from collections import deque
from contextlib import suppress

import partition_raft as raft

logger = logging.getLogger("group")


class MemoryStore:
    """What a real store would hold durably; `fail` makes the next cold read raise."""

    def __init__(self) -> None:
        self.entries_by_index: dict[int, raft.Entry] = {}
        self.boundary = (0, 0)
        self.hard_state = raft.HardState(0, 0, 0)
        self.conf_state = raft.ConfState()
        self.snapshots: raft.Snapshot | None = None
        self.fail: Exception | None = None

    @property
    def last(self) -> tuple[int, int]:
        if not self.entries_by_index:
            return self.boundary
        index = max(self.entries_by_index)
        return index, self.entries_by_index[index].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[raft.Entry]:
        if self.fail is not None:
            raise self.fail
        if lo <= self.boundary[0]:
            raise raft.Compacted(f"{lo}")
        return [self.entries_by_index[i] for i in range(lo, hi)]

    def term(self, index: int) -> int:
        if self.fail is not None:
            raise self.fail
        if index == self.boundary[0]:
            return self.boundary[1]
        if index < self.boundary[0]:
            raise raft.Compacted(f"{index}")
        return self.entries_by_index[index].term

    def snapshot(self, request_index: int, to: int) -> raft.Snapshot | None:
        return self.snapshots

    def append(self, entries: list[raft.Entry]) -> None:
        for entry in entries:
            for index in [i for i in self.entries_by_index if i >= entry.index]:
                del self.entries_by_index[index]
            self.entries_by_index[entry.index] = entry


class Peer:
    """One member: node, store, and what it applied."""

    def __init__(
        self, number: int, store: MemoryStore, applied: int, *, announces: bool, **config: int
    ) -> None:
        """announces: as a leader, tells the others of each commit index at once."""
        self.number = number
        self.announces = announces
        self.store = store
        self.applied: list[bytes] = []
        self.applied_index = applied
        self.role = "follower"
        self.leader = 0
        self.reads: list[tuple[int, bytes]] = []
        tail_from = max(store.boundary[0] + 1, store.hard_state.commit + 1)
        last = store.last[0]
        self.node = raft.Node(
            raft.Config(number, **config),
            hard_state=store.hard_state,
            conf_state=store.conf_state,
            boundary=store.boundary,
            last=store.last,
            applied=applied,
            entries=[store.entries_by_index[i] for i in range(tail_from, last + 1)],
            storage=store,
            logger=logger,
        )

    def work(self) -> list[raft.Message]:
        """Does everything that is ready, durably at once; returns what leaves."""
        out: list[raft.Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.node.advance_append_async()
            if ready.soft_state is not None:
                self.role, self.leader = ready.soft_state.role, ready.soft_state.leader_id
            if ready.snapshot is not None:
                self.store.entries_by_index.clear()
                self.store.boundary = (ready.snapshot.index, ready.snapshot.term)
                self.store.conf_state = ready.snapshot.conf_state
                self.applied_index = ready.snapshot.index
            self.store.append(ready.entries)
            if ready.hard_state is not None:
                self.store.hard_state = ready.hard_state
            self.node.on_persist_ready(ready.number)
            out += ready.messages + ready.persisted_messages
            self.reads += ready.read_states
            if ready.snapshot is not None:
                self.node.advance_apply_to(ready.snapshot.index)
            self._apply(ready.committed_entries)
        return out

    def _apply(self, entries: list[raft.Entry]) -> None:
        for entry in entries:
            assert entry.index == self.applied_index + 1
            if entry.kind != raft.EntryKind.NORMAL:
                self.store.conf_state = self.node.apply_conf_change(entry)
            elif entry.data:
                self.applied.append(entry.data)
            self.applied_index = entry.index
        if entries:
            self.node.advance_apply_to(self.applied_index)
            if self.announces:
                self.node.announce_commit()


class Group:
    """Members 1 to n, all voters, starting at boundary (1, 1)."""

    def __init__(
        self,
        size: int = 3,
        *,
        voters: list[int] | None = None,
        announces: bool = True,
        **config: int,
    ) -> None:
        self.announces = announces
        self.cut: set[int] = set()
        self.peers: dict[int, Peer] = {}
        self.config = config
        self.queue: deque[raft.Message] = deque()
        for number in range(1, size + 1):
            store = MemoryStore()
            store.boundary = (1, 1)
            store.hard_state = raft.HardState(1, 0, 1)
            store.conf_state = raft.ConfState(voters or list(range(1, size + 1)))
            self.peers[number] = Peer(number, store, 1, announces=announces, **config)

    def restart(self, number: int) -> Peer:
        """From what its store holds."""
        old = self.peers[number]
        peer = Peer(number, old.store, old.applied_index, announces=self.announces, **self.config)
        peer.applied = old.applied
        self.peers[number] = peer
        return peer

    def settle(self) -> None:
        """Works and delivers until nothing moves."""
        for _ in range(10_000):
            for peer in self.peers.values():
                self.queue.extend(peer.work())
            if not self.queue:
                return
            message = self.queue.popleft()
            if message.to in self.peers and not {message.to, message.sender} & self.cut:
                # Through bytes, as over a network; that a removed member is unknown is normal.
                with suppress(raft.PeerNotFound):
                    self.peers[message.to].node.step(raft.Message.decode(message.encode()))
        raise AssertionError("the group does not settle")

    def elect(self, number: int) -> Peer:
        self.peers[number].node.campaign()
        self.settle()
        assert self.peers[number].role == "leader"
        return self.peers[number]

    def elect_among(self, *numbers: int) -> Peer:
        """Ticks until one of them leads; votes are refused while a leader was heard of lately."""
        for _ in range(100):
            self.tick(1, *numbers)
            for number in numbers:
                if self.peers[number].role == "leader":
                    return self.peers[number]
        raise AssertionError("nobody was elected")

    def tick(self, count: int, *numbers: int) -> None:
        for _ in range(count):
            for number in numbers or self.peers:
                self.peers[number].node.tick()
            self.settle()
