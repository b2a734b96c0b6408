"""One replica of the simulation: a volume that outlives the processes which serve it."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from partition_replica.config import ReplicaConfig
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import Configuration, LogBatch, LogEntry
from partition_replica.core.payloads import blob_digests
from partition_replica.engine.factory import make_engine
from partition_replica.engine.port import Engine
from partition_replica.ids import Digest, MemberID
from partition_replica.runtime.assembly import build_replica
from partition_replica.runtime.consensus.log_writer import LogWriter, _Call
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.replica import Replica
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.volume import Volume
from partition_replica.transport.failures import Failures
from partition_replica.transport.log_store_service import LogStoreService

from tests.simulation.disk import Disks, VolumeDisk
from tests.simulation.loop import PROCESS, Process, SimulatedCrash, VirtualLoop
from tests.simulation.peers import SimulatedPeers
from tests.simulation.settings import Settings
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.checks import Checks
    from tests.simulation.network import Network

CLUSTER = "00000000-0000-4000-8000-00000000000c"
TICK_S = 0.1
ELECTION_TICKS = 10


class SimulatedLogWriter(LogWriter):
    """The log's writer without its thread: takes what waits a moment after it came, and is heard of
    a moment after that."""

    def start(self) -> None:
        process = PROCESS.get()
        assert process is not None, "a replica is a process"
        self._process = process
        self._at_work = False
        self._news: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._loop = _Mailbox(self._loop, self._news)  # type: ignore[assignment]
        self._log = _WatchedLog(self._log, process)  # type: ignore[assignment]

    def write(self, number: int, batch: LogBatch) -> None:
        super().write(number, batch)
        self._begin()

    async def call(self, body: Callable[[], Any]) -> Any:
        future = self._process.loop.create_future()
        self._queue.put(_Call(body, future))
        self._begin()
        return await future

    def close(self) -> None:
        self._deliver()
        self._queue.put(None)
        while self._step():
            pass
        self._deliver()

    def _begin(self) -> None:
        if not self._at_work and not self._queue.empty():
            self._at_work = True
            loop = self._process.loop
            loop.call_exactly_at(loop.time() + self._process.delay(), self._work)

    def _work(self) -> None:
        if not self._process.alive:
            return
        if not self._queue.empty():
            try:
                self._step()
            except SimulatedCrash:
                return
            except BaseException as error:
                self._news.append((self._failed, (error,)))
            self._process.worked()
        loop = self._process.loop
        loop.call_exactly_at(loop.time() + self._process.delay(), self._end)

    def _end(self) -> None:
        if not self._process.alive:
            return
        self._at_work = False
        self._deliver()
        self._begin()

    def _deliver(self) -> None:
        while self._news:
            callback, arguments = self._news.pop(0)
            callback(*arguments)


class _Mailbox:
    """The loop as the writer sees it: what it calls there is kept until the work is done."""

    def __init__(self, loop: Any, news: list[Any]) -> None:
        self._loop = loop
        self._news = news

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._news.append((callback, arguments))

    def create_future(self) -> Any:
        return self._loop.create_future()


class _WatchedLog:
    """Tells the checks what became durable."""

    def __init__(self, log: LmdbLog, process: Process) -> None:
        self._real = log
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self, batch: LogBatch) -> list[Digest]:
        if isinstance(self._process, ReplicaProcess):
            self._process.storing(batch)
        released = self._real.commit(batch)
        if isinstance(self._process, ReplicaProcess):
            self._process.stored(batch)
        return released


class _Counted:
    """A counter of the metrics that the trace counts."""

    def __init__(self, trace: Trace, what: str) -> None:
        self._trace = trace
        self._what = what

    def inc(self) -> None:
        self._trace.count(self._what)


class ReplicaProcess(Process):
    """A replica's. `stored` hears of each durable commit of the log. `streams`: the connections
    that others have opened to it, the newest of each member."""

    def __init__(self, loop: VirtualLoop, name: str, rng: random.Random) -> None:
        super().__init__(loop, name, rng)
        self.storing: Callable[[LogBatch], None] = lambda _: None
        self.stored: Callable[[LogBatch], None] = lambda _: None
        self.streams: dict[int, Any] = {}


@dataclass(eq=False)
class Node:
    """A volume at an address, and the process that serves it, if any. A volume that is made anew is
    a new node, with a new member ID."""

    name: str
    member: int
    loop: VirtualLoop
    disks: Disks
    network: "Network"
    checks: "Checks"
    settings: Settings
    trace: Trace
    rng: random.Random
    starts: int = 0
    slow: bool = False
    clock_skew_ms: int = 0
    suspended_s: float = 0.0
    """By how much its clock that counts suspension is ahead of the other one."""
    frozen_clock: tuple[float, float] | None = None
    """What its lease takes for the time, for ever: a machine that stopped without its clocks."""
    process: ReplicaProcess | None = None
    replica: Replica | None = None
    volume: Volume | None = None
    joined: bool = False
    ended: bool = False
    """A restore stopped it for good; its volume goes when the restored one is there."""
    left_behind: bool = False
    """A restore missed it: it runs on, at an address that is its own."""
    retired: bool = False
    _disk: VolumeDisk | None = None
    _peers: SimulatedPeers | None = None
    _directory: str = ""
    _lock: VolumeLock | None = None
    _operations_left: int = 0
    _crashed: Callable[[], None] = field(default=lambda: None)
    _service: tuple[Process, LogStoreService] | None = None

    @property
    def address(self) -> str:
        return f"{self.name}:1"

    @property
    def up(self) -> bool:
        return self.process is not None and self.replica is not None

    @property
    def running(self) -> Member | None:
        return self.replica.member if self.replica is not None else None

    @property
    def service(self) -> LogStoreService:
        """What clients call of the process that runs."""
        process, replica = self.process, self.replica
        assert process is not None and replica is not None, "a call reaches a replica that runs"
        if self._service is None or self._service[0] is not process:
            failures = Failures(lambda _: None, lambda error: self.end_by(process, error))
            service = LogStoreService(replica.applications, self.settings.limits, failures)
            self._service = (process, service)
        return self._service[1]

    # --- life ---------------------------------------------------------------------------------

    def directory(self, start: int) -> str:
        """Of its disk from a start on: names come again after a restore."""
        return f"{self.name}-{start}" if self.checks.number == 1 else f"{self.member}-{start}"

    def restored(self, directory: str) -> None:
        """A restore made its volume there, durably."""
        self._directory = directory
        self._disk = self.disks.add(directory)

    def start(self) -> None:
        """Opens the volume and starts its replica, as a process of its own."""
        assert self.process is None, "one process at a time"
        self.starts += 1
        if self._disk is None:
            self._directory = self.directory(self.starts)
            self._disk = self.disks.add(self._directory)
        rng = random.Random(f"{self.rng.random()}")
        self.process = ReplicaProcess(self.loop, f"{self.name}.{self.starts}", rng)
        process = self.process
        process.worked = lambda: self.checks.worked(self, process)
        process.storing = lambda batch: self.checks.storing(self, batch)
        process.stored = self._stored
        self.set_slow(self.slow)
        self._disk.before = lambda: self._before_operation(process)
        self._disk.removed = lambda path: self.checks.blob_removed(self, process, path)
        self.trace.event(self.name, "start", f"{self.starts}")
        self.trace.count("starts")
        try:
            process.run(self._open)
        except SimulatedCrash:
            return
        except Exception as error:
            self.checks.violated("start", f"{self.name} does not start: {error!r}", error)
            return
        self.checks.started(self)

    def _open(self) -> None:
        assert self._disk is not None and self.process is not None
        root = self._disk.root
        self._lock = VolumeLock(root)
        assert self._lock.try_acquire(), "a directory has one process"
        if not (root / "log").exists():
            # The product draws a member's ID from the system's randomness.
            LmdbLog(root / "log", MemberID(self.member), blob_digests).close()
        limits = self.settings.limits
        volume = Volume(
            root,
            self._lock,
            pins_max=limits.pins_max,
            retention=LogRetention.of(limits),
            journal=JournalLimits.of(limits),
            clock=self.loop.time,
        )
        config = ReplicaConfig(
            data=root,
            listen="",
            http_listen="",
            advertise=self.address,
            partition="",
            tls=None,
            tick_s=TICK_S,
            election_ticks=ELECTION_TICKS,
            election_timeout_ticks=self.rng.randrange(ELECTION_TICKS, 2 * ELECTION_TICKS),
            lease_reads=self.settings.lease_reads,
            limits=limits,
        )
        process = self.process
        peers = SimulatedPeers(self, process, self.network, volume)
        metrics = Metrics()
        metrics.fast_clocks = _Counted(self.trace, "fast clocks")  # type: ignore[assignment]
        replica = build_replica(
            config,
            volume,
            peers,
            metrics,
            make_engine=self._make_engine,
            wall_ms=self._wall_ms,
            failed=lambda error: self.end_by(process, error),
            log_writer=SimulatedLogWriter,
            lease_clock=self._lease_clock,
            draw_session=lambda: process.rng.randrange(1, 1 << 62),
        )
        peers.replica = replica
        self._peers = peers
        self.volume, self.replica = volume, replica
        replica.start()

    def _stored(self, batch: LogBatch) -> None:
        if self.volume is not None and batch.entries and self.volume.log.journaled_count:
            self.trace.count("commits to a journal")
        self.checks.stored(self, batch)

    def _make_engine(self, *arguments: Any) -> Engine:
        engine = make_engine(*arguments)
        apply_change = engine.apply_change

        def apply_and_note(entry: LogEntry) -> Configuration:
            configuration = apply_change(entry)
            self.checks.configured(configuration)
            return configuration

        engine.apply_change = apply_and_note  # type: ignore[method-assign]
        return engine

    def _lease_clock(self) -> tuple[float, float]:
        if self.frozen_clock is not None:
            return self.frozen_clock
        return self.loop.time() + self.suspended_s, self.loop.time()

    def _wall_ms(self) -> int:
        return int(self.loop.time() * 1000) + self.clock_skew_ms

    def end_by(self, process: Process, error: BaseException) -> None:
        """What assembly.py answers by ending the process: there is never a reason to, here."""
        if process.alive and not isinstance(error, SimulatedCrash):
            self.checks.violated("fatal", f"{self.name} ended itself: {error!r}", error)

    def _before_operation(self, process: Process) -> None:
        self.trace.count("disk operations")
        if self._operations_left and process.alive:
            self._operations_left -= 1
            if not self._operations_left:
                self.trace.event(self.name, "crash inside of a disk operation")
                self.trace.count("crashes inside of the disk's work")
                self.crash()
                self._crashed()
                raise SimulatedCrash

    def crash_at_operation(self, count: int, crashed: Callable[[], None]) -> None:
        """At the count-th disk operation from now. `crashed` is called then."""
        self._operations_left, self._crashed = count, crashed

    def crash(self) -> None:
        """The process ends here and now; what its disk keeps is drawn."""
        process, disk = self.process, self._disk
        if process is None or disk is None:
            return
        power = self.rng.random() < self.settings.power_loss
        if not power and self._peers is not None:
            self._peers.close()
        self.trace.event(self.name, "crash", "power" if power else "process")
        self.trace.count("power losses" if power else "process crashes")
        directory = self.directory(self.starts + 1)
        target = disk.root.with_name(directory)
        if power:
            disk.lose_power(target, self.rng)
        else:
            disk.keep_all(target)
        process.alive = False
        self._forget()
        old, self._directory = self._directory, directory
        self._disk = self.disks.add(directory)
        self.network.process_ended(process)
        # Not now: the crash may have come out of a transaction that is being unwound.
        self.loop.call_exactly_at(self.loop.time(), self._clean_up, process, old)

    async def stop(self) -> None:
        """As by SIGTERM."""
        process, replica, volume = self.process, self.replica, self.volume
        if process is None or replica is None or volume is None:
            return
        self.trace.event(self.name, "stop")
        self.trace.count("stops")
        await asyncio.wait([process.spawn(replica.stop())])
        while process.alive and process.jobs:
            await asyncio.sleep(0.01)
        if self.process is not process:
            return
        try:
            process.run(volume.close)
        except SimulatedCrash:
            return
        process.kill()
        if self._peers is not None:
            self._peers.close()
        self._forget()
        self.network.process_ended(process)

    def retire(self) -> None:
        """The volume goes for good."""
        self.retired = True
        self.trace.event(self.name, "retire")
        self.crash()
        self._disk = None

    def set_slow(self, slow: bool) -> None:
        self.slow = slow
        if self.process is not None:
            self.process.disk_delay_s = (0.02, 0.25) if slow else (0.0002, 0.004)

    def _forget(self) -> None:
        self.process = self.replica = self.volume = self._peers = None
        self._operations_left = 0
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _clean_up(self, process: Process, directory: str) -> None:
        process.kill()
        # The cancelled tasks run next; only then the dead process's files go.
        self.loop.call_exactly_at(self.loop.time() + 0.5, self.disks.drop, directory)
