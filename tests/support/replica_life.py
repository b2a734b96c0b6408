"""A replica's storage at work, recorded, and what must hold of every state that a power failure may
leave of it. tests/support/power_loss.py has the rules.

POWER_LOSS_STATES and POWER_LOSS_SEED are read here; tests/conformance/test_power_loss.py says what
they mean."""

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import (
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import ReplicaError
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.environment import DATA_FILE
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.staging import StagedFile
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume

from tests.support.power_loss import Model, Recorder, Tree, materialise
from tests.support.proposals import body, link, opening, proposal, remove, set_key

STATES = int(os.environ.get("POWER_LOSS_STATES", "20"))
SEED = int(os.environ.get("POWER_LOSS_SEED", "1"))

CLUSTER = ClusterID("00000000-0000-4000-8000-000000000000")
SESSION = 2


def content(name: str) -> bytes:
    """Of three pages, none like another, the last one not full."""
    return b"".join(hashlib.sha256(f"{name}{n}".encode()).digest() for n in range(290))


def blob(name: str) -> types.Payload:
    """A payload that the entry does not carry. Smaller than the inline limit: the storage doesn't
    mind, and three pages have few ways to be lost."""
    data = content(name)
    return types.Payload(digest=hashlib.sha256(data).digest(), size=len(data), mode=0o644)


def digest(name: str) -> Digest:
    return Digest(blob(name).digest)


class Killed(BaseException):
    """The process ends here."""


@dataclass(slots=True)
class Promise:
    """An entry that was acknowledged: it must be there from point `since` to `until`."""

    entry: LogEntry
    since: int
    until: int = 1 << 60


@dataclass(frozen=True, slots=True)
class Sent:
    """A state, as its sender sends it."""

    position: Position
    content: bytes


class Life:
    """A replica's storage at work, in the order that the runtime keeps."""

    def __init__(
        self, root: Path, recorder: Recorder, journal: JournalLimits | None = None
    ) -> None:
        self.root = root
        self.journal = journal
        self.recorder = recorder
        self.promises: list[Promise] = []
        self.term = 1
        self.sequence = 0

    def open(self) -> None:
        self.lock = VolumeLock(self.root)
        assert self.lock.try_acquire()
        self.volume = Volume(self.root, self.lock, pins_max=100, journal=self.journal)

    def close(self) -> None:
        self.volume.close()

    def bootstrap(self) -> None:
        member = self.volume.log.identity.member_id
        self.volume.state.start(Position(LSN(1), Term(1)), {member: "here:1"})
        self.volume.log.bootstrap(CLUSTER, Configuration((member,)))
        self.commit(opening(), commit=True)
        self.apply()

    def join(self) -> None:
        self.volume.log.join(CLUSTER)

    def upload(self, name: str, *, until: int | None = None) -> None:
        """`until`: the upload breaks off behind so many bytes."""
        self.volume.blobs.pin(digest(name), 1e9)
        writer = self.volume.blobs.writer(digest(name), len(content(name)))
        for start in range(0, len(content(name)), 5000):
            writer.write(content(name)[start : start + 5000][:until])
            if until is not None:
                writer.abort()
                return
        writer.finish()

    def propose(self, operations: list[types.Operation], *names: str) -> types.EntryBody:
        self.sequence += 1
        return body(proposal(SESSION, self.sequence, operations, [blob(n) for n in names]))

    def commit(self, *bodies: types.EntryBody, at: int | None = None, commit: bool) -> None:
        """Entries behind the last one, or from `at` on, in place of what stands there."""
        log = self.volume.log
        first = at or log.last.index + 1
        entries = [
            LogEntry(LSN(first + n), Term(self.term), 0, found.SerializeToString())
            for n, found in enumerate(bodies)
        ]
        committed = LSN(entries[-1].index) if commit else log.hard_state.commit
        now = len(self.recorder.operations)
        for promise in self.promises:
            if promise.entry.index >= first:
                promise.until = min(promise.until, now)
        hard_state = HardState(Term(self.term), MemberID(0), committed)
        released = log.commit(LogBatch(entries, hard_state))
        now = len(self.recorder.operations)
        self.promises += [Promise(entry, now) for entry in entries]
        self._collect(released)

    def apply(self) -> None:
        volume = self.volume
        first, last = volume.state.applied.index + 1, volume.log.committed
        entries = volume.log.read(LSN(first), LSN(last + 1), None)
        _, released = volume.state.apply(entries, {})
        self._collect(released)

    def compact(self, *, sync: bool = True) -> None:
        """Everything that is applied."""
        volume = self.volume
        applied = (volume.state.sync() if sync else volume.state.applied).index
        volume.log.acknowledge("applied", applied)
        volume.log.compact(applied)
        _, released = volume.log.prune(1000)
        self._collect(released)

    def install(self, sent: Sent, *names: str) -> None:
        """A snapshot from another replica, whose blobs are fetched first."""
        volume = self.volume
        volume.blobs.hold([digest(name) for name in names])
        group = volume.blobs.group()
        for name in names:
            group.add(digest(name), len(content(name)), content(name))
        group.finish()
        # Behind it, so that its syncs are not those of the state.
        incoming = volume.staging / "incoming"
        whole = hashlib.sha256(sent.content).digest()
        file = StagedFile(incoming, DATA_FILE, len(sent.content), whole)
        for start in range(0, len(sent.content), 5000):
            file.append(sent.content[start : start + 5000])
        file.check()
        file.make_durable()
        generation = volume.log.identity.state_generation + 1
        volume.states.place(incoming, generation)
        now = len(self.recorder.operations)
        for promise in self.promises:
            promise.until = min(promise.until, now)
        configuration = Configuration((volume.log.identity.member_id, 77))
        switch = StateSwitch(sent.position, configuration, generation)
        dropped = [found for found, _ in volume.state.blobs()]
        released = volume.log.commit(LogBatch(snapshot=switch))
        volume.states.drop(volume.states.replace(volume.states.open_named()))
        volume.blobs.release_hold([digest(name) for name in names])
        self._collect([*released, *dropped])

    def _collect(self, released: list[Digest]) -> None:
        """What is released has outlived its lease, too."""
        for found in released:
            self.volume.blobs._pins.pop(found, None)
        self.volume.garbage.collect(released)


class Violated(Exception):
    """A surviving state breaks a promise."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise Violated(what)


def check(root: Path, tree: Tree, promised: list[LogEntry]) -> None:
    """Raises Violated, or what opening the volume raises."""
    for name, data in tree.items():
        if name.startswith("blobs/") and data is not None:
            named = name.rpartition("/")[2]
            demand(hashlib.sha256(data).hexdigest() == named, f"half-named: {name}")
    lock = VolumeLock(root)
    demand(lock.try_acquire(), "the lock is held")
    volume = Volume(root, lock, pins_max=100)
    try:
        check_open(root, volume, promised)
    finally:
        volume.close()


def check_open(root: Path, volume: Volume, promised: list[LogEntry]) -> None:
    log, state = volume.log, volume.state
    first, last = log.first_stored, log.last.index
    stored = {e.index: e for e in log.read(first, LSN(last + 1), None)}
    for entry in promised:
        if entry.index > log.boundary.index:
            demand(stored.get(entry.index) == entry, f"entry {entry.index} is gone")
    demand(log.boundary.index <= state.applied.index <= last, "the state is not of the log")
    wanted = {found for entry in stored.values() for found in blob_digests(entry)}
    demand(all(log.names_blob(found) for found in wanted), "the log forgot a name")
    wanted |= {found for found, _ in state.blobs()}
    for found in wanted:
        path = volume.blobs.path(found)
        demand(path.exists(), f"blob {found.hex()[:8]} is named and gone")
        actual = hashlib.sha256(path.read_bytes()).digest()
        demand(actual == found, f"blob {found.hex()[:8]} has other content")
    left = set(volume.blobs.digests()) - wanted
    demand(not left, f"nothing names {[found.hex()[:8] for found in left]}")
    demand(not list(volume.staging.iterdir()), "staging is not empty")
    generations = [child.name for child in (root / "state").iterdir()]
    demand(generations == [str(log.identity.state_generation)], f"generations {generations}")
    if log.identity.cluster_id and last > state.applied.index:
        state.apply(log.read(LSN(state.applied.index + 1), LSN(last + 1), None), {})


@dataclass(slots=True)
class Found:
    moments: int = 0
    states: int = 0


def replay(life: Life, scratch: Path, points: range | None = None) -> Found:
    """Checks what may be left at each moment; raises Violated."""
    operations = life.recorder.operations
    found = Found()
    checked: set[int] = set()
    for point in points or range(len(operations) + 1):
        rng = random.Random(f"{SEED} {point}")
        found.moments += 1
        promised = [p.entry for p in life.promises if p.since <= point <= p.until]
        for tree in Model(operations[:point]).survivors(rng, STATES):
            key = hash((frozenset(tree.items()), tuple(promised)))
            if key in checked:
                continue
            checked.add(key)
            found.states += 1
            materialise(tree, scratch)
            try:
                check(scratch, tree, promised)
            except (Violated, ReplicaError) as error:
                last = "\n  ".join(map(str, operations[max(0, point - 8) : point]))
                names = "\n  ".join(f"{n} {'' if d is None else len(d)}" for n, d in tree.items())
                raise Violated(
                    f"{error}\nPOWER_LOSS_SEED={SEED}, moment {point} of {len(operations)}, behind"
                    f"\n  {last}\nthe disk kept\n  {names}"
                ) from error
    return found


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder in memory where there is one: the model knows what is durable, not the kernel."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def live(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Life]:
    """`live(what happens)`: the life of a volume that is recorded; with what is omitted."""

    def run(
        story: Callable[[Life], None], omit: str = "", journal: JournalLimits | None = None
    ) -> Life:
        root = disk / "volume"
        root.mkdir()
        recorder = Recorder(root, omit)
        with monkeypatch.context() as patch:
            recorder.attach(patch)
            life = Life(root, recorder, journal)
            life.open()
            story(life)
            life.close()
        return life

    return run


def blobs_come_and_go(life: Life) -> None:
    """Uploads, entries that name them, apply, overwriting, compaction, collection, a restart."""
    life.bootstrap()
    life.upload("a")
    life.commit(life.propose([link(b"a")], "a"), commit=True)
    life.apply()
    life.upload("b")
    life.upload("c")
    life.commit(life.propose([link(b"b")], "b"), life.propose([link(b"x")], "c"), commit=False)
    life.term = 2
    life.commit(life.propose([link(b"c")], "c"), at=4, commit=True)
    life.upload("broken off", until=4000)
    life.apply()
    life.commit(life.propose([remove(b"a")]), commit=True)
    life.apply()
    life.compact()
    assert not life.volume.blobs.path(digest("a")).exists()
    assert not life.volume.blobs.path(digest("b")).exists()
    life.close()
    life.open()
    life.upload("b")
    life.commit(life.propose([link(b"b")], "b"), commit=True)
    life.apply()


def the_journal_fills(life: Life) -> None:
    """Small entries in the journal, which is full again and again; overwriting; entries that name
    blobs, for which there is no place; compaction of what is in the journal; a restart."""
    life.bootstrap()
    for _ in range(4):
        life.commit(life.propose([set_key(b"k", b"v" * 100)]), commit=True)
    life.apply()
    life.commit(life.propose([set_key(b"large", b"v" * 9000)]), commit=False)
    life.commit(life.propose([set_key(b"k", b"lost")]), commit=False)
    life.term = 2
    life.commit(life.propose([set_key(b"k", b"kept")]), at=life.volume.log.last.index, commit=True)
    life.commit(life.propose([set_key(b"k", b"1")]), life.propose([]), commit=True)
    life.apply()
    life.compact()
    life.commit(life.propose([set_key(b"k", b"2")]), commit=True)
    life.upload("a")
    life.commit(life.propose([link(b"a")], "a"), commit=True)
    life.commit(life.propose([set_key(b"k", b"3")]), commit=True)
    life.apply()
    life.close()
    life.open()
    for number in range(3):
        life.commit(life.propose([set_key(b"k", b"%d" % number)]), commit=True)
        life.apply()


def a_snapshot_arrives(life: Life, sent: Sent) -> None:
    """For a member with a log and a state of its own, twice."""
    life.bootstrap()
    life.upload("mine")
    life.commit(life.propose([link(b"mine")], "mine"), commit=True)
    life.apply()
    life.install(sent, "theirs", "theirs too")
    assert not life.volume.blobs.path(digest("mine")).exists()
    life.term = 5
    life.upload("later")
    life.commit(life.propose([link(b"later")], "later"), commit=True)
    life.apply()


def another_state(folder: Path) -> LmdbState:
    """A replica at entry 41 that names two blobs."""
    source = LmdbState(folder)
    source.start(Position(LSN(40), Term(5)), {77: "there:1"})
    bodies = types.EntryBody(
        imported=types.ImportedEntry(
            payloads=[blob("theirs"), blob("theirs too")],
            operations=[link(b"theirs", 1), link(b"theirs too", 2)],
        )
    )
    source.apply([LogEntry(LSN(41), Term(5), 0, bodies.SerializeToString())], {})
    return source
