"""The log store alone, side by side with what the same file system does otherwise.

Each figure is the median of short runs. What is compared is run in turns, so that a slow moment of
the machine meets both, and a ratio is the median of each turn's. The yardstick, 4 KiB appends with
fdatasync, is measured before and after.

Nothing is removed before the end, and ext4 is told to spread the directories made here: near files
that were just deleted, creating one takes up to thirty times as long, which only the writer of
directories would pay. What creating costs is printed, so that one sees whether it was paid.
"""

import hashlib
import os
import random
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.compaction import LogRetention
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry, Position
from partition_replica.core.payloads import blob_digests
from partition_replica.core.sessions import content_digest
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume

from tests.benchmarks.directory_writer import (
    DirectoryWriter,
    raft_file,
    spread_directories,
    write_sequentially,
)
from tests.support.proposals import body, link, opening, payload, proposal, set_key

ROUNDS = 7
ROUND_S = 0.35
YARDSTICK_S = 1.0
ENTRY_BYTES = 256
LONG_LOG_ENTRIES = 1_000_000
LONG_LOG_BATCH = 4096
PAGE_BYTES = 1024 * 1024
CLUSTER = ClusterID("benchmark")
MEMBER = MemberID(1)
TERM = Term(1)
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

Step = Callable[[], tuple[float, float]]
"""Does some work; (how many units it did, the seconds that they took)."""


def main(root: Path) -> None:
    """Measures everything below a new directory of root, and prints a table in Markdown."""
    folder = root / "log_store"
    folder.mkdir()
    spread_directories(folder)
    report = Report()
    limits = Limits()
    before = yardstick(folder)
    report.add("4 KiB append with fdatasync, before", _per_second(before), note=_per_call(before))
    with AnonymousMemory() as memory:
        for measure in (measure_appends, measure_applies, measure_payloads):
            measure(folder, report, memory)
        measure_long_log(folder / "volume", report, memory, limits)
        measure_backfill(folder / "plain", report, memory, limits)
    after = yardstick(folder)
    report.add("4 KiB append with fdatasync, after", _per_second(after), note=_per_call(after))
    for phase, growth, peak in memory.phases:
        report.add(f"anonymous memory, {phase}", f"{peak:.0f} MiB", note=f"{growth:+.0f} MiB")
    shutil.rmtree(folder)
    report.show()


class Report:
    """The table: one row a figure."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str, str]] = []

    def add(
        self, what: str, measured: str, *, beside: str = "", ratio: str = "", note: str = ""
    ) -> None:
        self._rows.append((what, measured, beside, ratio, note))
        say(" | ".join(cell for cell in self._rows[-1] if cell))

    def show(self) -> None:
        heads = ("log store", "measured", "beside it", "ratio", "")
        rows = [heads, *self._rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        rule = tuple("-" * width for width in widths)
        for row in (heads, rule, *self._rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("| " + " | ".join(cells) + " |")


class AnonymousMemory:
    """Samples RssAnon of this process. LMDB's map is page cache, so it does not count."""

    INTERVAL_S = 0.02

    def __init__(self) -> None:
        self.phases: list[tuple[str, float, float]] = []
        self._peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> "AnonymousMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        say(f"-- {name}")
        start = self._peak = anonymous_mib()
        yield
        peak = max(self._peak, anonymous_mib())
        self.phases.append((name, peak - start, peak))

    def _sample(self) -> None:
        while not self._ended.wait(self.INTERVAL_S):
            self._peak = max(self._peak, anonymous_mib())


# --- appends ----------------------------------------------------------------------------------


def measure_appends(folder: Path, report: Report, memory: AnonymousMemory) -> None:
    with memory.phase("appends"):
        report.add(
            "a directory with two files, not synced",
            f"{creation_ms(folder):.3f} ms",
            note="where it is not far below the yardstick, directories are slowed by deletions",
        )
        for batch in (1, 16, 256):
            path = folder / f"appends-{batch}"
            path.mkdir()
            _measure_appends_of(batch, path, report)


def _measure_appends_of(batch: int, path: Path, report: Report) -> None:
    log = new_log(path / "lmdb")
    each = DirectoryWriter(path / "each", one_sync_a_batch=False)
    one = DirectoryWriter(path / "one", one_sync_a_batch=True)
    rates = in_turns(
        {
            "log": log_step(log, batch),
            "each": directory_step(each, batch),
            "one": directory_step(one, batch),
        }
    )
    log.close()
    each.close()
    one.close()
    name = "one writer" if batch == 1 else f"batches of {batch}"
    for key, how in (("each", "fsync of each file"), ("one", "one syncfs a batch")):
        report.add(
            f"durable committed 256-byte entries, {name}",
            f"{rates['log'].median:,.0f} entries/s",
            beside=f"{rates[key].median:,.0f} entries/s",
            ratio=rates["log"].times(rates[key]),
            note=f"a directory an entry, {how}; best round {rates[key].best:,.0f}",
        )


def log_step(log: LmdbLog, batch: int) -> Step:
    """One commit of entries and a hard state that commits them."""
    data = entry_body()

    def step() -> tuple[float, float]:
        first = log.last.index + 1
        entries = [LogEntry(LSN(first + n), TERM, 0, data) for n in range(batch)]
        wanted = LogBatch(entries, HardState(TERM, MEMBER, LSN(first + batch - 1)))
        return batch, timed(lambda: log.commit(wanted))

    return step


def directory_step(writer: DirectoryWriter, batch: int) -> Step:
    data = entry_body()

    def step() -> tuple[float, float]:
        first = writer.last + 1
        commit = first + batch - 1
        entries = [(data, raft_file(first + n, TERM, commit)) for n in range(batch)]
        return batch, timed(lambda: writer.commit(entries))

    return step


# --- payloads ---------------------------------------------------------------------------------


# --- the apply --------------------------------------------------------------------------------

APPLY_KEYS = 1000


def measure_applies(folder: Path, report: Report, memory: AnonymousMemory) -> None:
    with memory.phase("applies"):
        for sessions in (1, 64):
            for batch in (1, 16, 64, 256, 1024):
                path = folder / f"applies-{sessions}-{batch}"
                state = LmdbState(path)
                rate = in_turns({"apply": apply_step(state, sessions, batch)})["apply"]
                state.close()
                report.add(
                    f"applies of 256-byte proposals of {sessions} sessions, batches of {batch}",
                    f"{1e6 / rate.median:.1f} µs an entry",
                    note=f"best round {1e6 / rate.best:.1f} µs; each sets one of {APPLY_KEYS} keys",
                )


def apply_step(state: LmdbState, sessions: int, batch: int) -> Step:
    """One batch of proposals, in turns of the sessions; each acknowledges the 64th before it."""
    opened = [
        LogEntry(LSN(n), TERM, 0, opening().SerializeToString()) for n in range(1, sessions + 1)
    ]
    state.apply(opened, {})
    value = os.urandom(150)

    def entry(index: int) -> LogEntry:
        sequence = index // sessions
        made = proposal(
            index % sessions + 1,
            sequence,
            [set_key(b"accounts/%07d" % (index % APPLY_KEYS), value)],
            below=max(1, sequence - 64),
        )
        found = types.EntryBody(
            proposal=made,
            time_ms=1 << 40,
            term=1,
            elapsed_ms=1,
            content_digest=content_digest(made),
        )
        return LogEntry(LSN(index), TERM, 0, found.SerializeToString())

    def step() -> tuple[float, float]:
        first = state.applied.index + 1
        entries = [entry(index) for index in range(first, first + batch)]
        return batch, timed(lambda: state.apply(entries, {}))

    return step


def measure_payloads(folder: Path, report: Report, memory: AnonymousMemory) -> None:
    with memory.phase("payloads"):
        for name, size in (("64 KiB + 1", 64 * 1024 + 1), ("8 MiB", 8 * 1024 * 1024)):
            path = folder / f"payloads-{size}"
            path.mkdir()
            _measure_payloads_of(name, size, path, report)


def _measure_payloads_of(name: str, size: int, path: Path, report: Report) -> None:
    log = new_log(path / "log")
    store = BlobStore(path / "blobs", path / "staging", pins_max=1)
    for prefix in range(256):  # as a store that has been in use has them
        (path / "blobs" / f"{prefix:02x}").mkdir()
    (path / "beside").mkdir()
    content = Content(size)

    def stored() -> tuple[float, float]:
        made = content.next()
        return size / 1e6, timed(lambda: store_payload(store, log, made))

    def beside() -> tuple[float, float]:
        made = content.next().content
        file = path / "beside" / str(content.serial)
        seconds = timed(lambda: write_sequentially(file, made))
        return size / 1e6, seconds

    def hashed() -> tuple[float, float]:
        made = content.next().content
        return size / 1e6, timed(lambda: hashlib.sha256(made).digest())

    rates = in_turns({"stored": stored, "beside": beside, "hashed": hashed})
    log.close()
    report.add(
        f"payloads of {name}, with the entry that names each",
        f"{rates['stored'].median:,.0f} MB/s",
        beside=f"{rates['beside'].median:,.0f} MB/s",
        ratio=rates["stored"].times(rates["beside"]),
        note="a sequential write, one fdatasync a file; SHA-256 alone "
        f"{rates['hashed'].median:,.0f} MB/s",
    )


class Payload:
    """A content, and what names it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        named = payload(content)
        self.digest = Digest(named.digest)
        self.entry = body(proposal(1, 1, [link(b"file")], [named])).SerializeToString()


class Content:
    """Contents of one size, no two alike."""

    def __init__(self, size: int) -> None:
        self._random = os.urandom(size - 8)
        self.serial = 0

    def next(self) -> Payload:
        self.serial += 1
        return Payload(self.serial.to_bytes(8, "big") + self._random)


def store_payload(store: BlobStore, log: LmdbLog, made: Payload) -> None:
    """As an upload does: chunk by chunk, then the entry that names it, committed."""
    view, chunk = memoryview(made.content), Limits().chunk_bytes
    writer = store.writer(made.digest, len(view))
    for start in range(0, len(view), chunk):
        writer.write(view[start : start + chunk])  # type: ignore[arg-type]
    writer.finish()
    index = LSN(log.last.index + 1)
    entry = LogEntry(index, TERM, 0, made.entry)
    log.commit(LogBatch([entry], HardState(TERM, MEMBER, index)))


# --- a long log: reads, reopening, pruning ----------------------------------------------------


def measure_long_log(path: Path, report: Report, memory: AnonymousMemory, limits: Limits) -> None:
    path.mkdir()
    retention = LogRetention(limits.log_trail_entries, limits.consumer_lag_entries_max)
    with memory.phase("writing 1,000,000 entries"):
        seconds = _write_long_log(path, retention)
        report.add(
            f"durable committed 256-byte entries, batches of {LONG_LOG_BATCH}",
            f"{LONG_LOG_ENTRIES / seconds:,.0f} entries/s",
            note=f"log of 1,000,000 entries: {_mib(path / 'log')} MiB",
        )
    with memory.phase("reads"):
        _measure_reads(path, retention, report)
    with memory.phase("reopening 1,000,000 entries"):
        _measure_reopening(path, retention, report)
    with memory.phase("reopening that prunes"):
        _measure_pruning(path, retention, report)


def _write_long_log(path: Path, retention: LogRetention) -> float:
    """A volume whose state is applied to the end, and whose log a consumer holds from the start.
    Returns the seconds that the log's commits took."""
    volume = open_volume(path, retention)
    log = volume.log
    log.bootstrap(CLUSTER, Configuration(voters=(log.identity.member_id,)))
    log.register("archive", LSN(1))
    step = log_step(log, LONG_LOG_BATCH)
    seconds, said = 0.0, time.monotonic()
    while log.last.index < LONG_LOG_ENTRIES:
        seconds += step()[1]
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"{log.last.index:,} of {LONG_LOG_ENTRIES:,} entries")
    last = log.last
    volume.close()
    # A volume drops the state of a log that belonged to no cluster when it was opened.
    state = LmdbState(path / "state" / "1")
    state.start(last, {1: "benchmark:1"})
    state.close()
    return seconds


def _measure_reopening(path: Path, retention: LogRetention, report: Report) -> None:
    def reopen_log(cold: bool) -> float:
        state = LmdbState(path / "state" / "1")
        applied = state.applied.index
        state.close()
        if cold:
            drop_caches()
        opened: list[LmdbLog] = []

        def reopen() -> None:
            log = LmdbLog(path / "log", MEMBER, blob_digests, retention=retention)
            opened.append(log)
            log.initialize(applied)

        seconds = timed(reopen)
        opened[0].close()
        return seconds

    def reopen_volume(cold: bool) -> float:
        if cold:
            drop_caches()
        opened: list[Volume] = []
        seconds = timed(lambda: opened.append(open_volume(path, retention)))
        opened[0].close()
        return seconds

    temperatures = [("warm page cache", False)]
    if can_drop_caches():
        temperatures.append(("page cache dropped", True))
    else:
        say("the page cache can't be dropped here (no root): reopening is measured warm only")
    for name, cold in temperatures:
        for what, reopen in (("log", reopen_log), ("whole volume", reopen_volume)):
            seconds = statistics.median(reopen(cold) for _ in range(ROUNDS))
            report.add(
                f"reopening a {what} of 1,000,000 entries",
                f"{seconds * 1000:,.1f} ms",
                note=f"{name}; a small state, no blobs",
            )


def _measure_reads(path: Path, retention: LogRetention, report: Report) -> None:
    log = LmdbLog(path / "log", MEMBER, blob_digests, retention=retention)
    first, end = log.boundary.index + 1, log.last.index + 1
    draw = random.Random(1)
    at = first

    def page() -> tuple[float, float]:
        nonlocal at
        began = time.perf_counter()
        found = log.entries(LSN(at), LSN(end), PAGE_BYTES)
        seconds = time.perf_counter() - began
        at = found[-1].index + 1 if found[-1].index + 1 < end else first
        return len(found), seconds

    def at_random(read: Callable[[int], object]) -> Step:
        def step() -> tuple[float, float]:
            wanted = [draw.randrange(first, end) for _ in range(200)]
            return len(wanted), timed(lambda: [read(index) for index in wanted])

        return step

    steps = {
        "pages": page,
        "single": at_random(lambda index: log.entries(LSN(index), LSN(index + 1), None)),
        "term": at_random(lambda index: log.term(LSN(index))),
    }
    say("   reading the log once, into the page cache")
    for start in range(first, end, LONG_LOG_BATCH):
        log.entries(LSN(start), LSN(min(start + LONG_LOG_BATCH, end)), None)
    _report_reads("warm page cache", in_turns(steps), report)
    log.close()
    if can_drop_caches():
        drop_caches()
        log = LmdbLog(path / "log", MEMBER, blob_digests, retention=retention)
        at, cold = first, Rates()
        for _ in range(ROUNDS):
            cold.add(*_for_a_round(page))
        _report_reads("page cache dropped", {"pages": cold}, report)
        log.close()


def _report_reads(state: str, rates: "Mapping[str, Rates]", report: Report) -> None:
    names = {
        "pages": "reading in order, in pages of 1 MiB",
        "single": "reading single entries at random",
        "term": "terms of entries at random",
    }
    for key, found in rates.items():
        report.add(names[key], f"{found.median:,.0f} entries/s", note=state)


def _measure_pruning(path: Path, retention: LogRetention, report: Report) -> None:
    """The consumer goes, so the volume prunes all but the trail when it is opened."""
    log = LmdbLog(path / "log", MEMBER, blob_digests, retention=retention)
    first = log.first_stored
    log.unregister("archive")
    log.close()
    opened: list[Volume] = []
    seconds = timed(lambda: opened.append(open_volume(path, retention)))
    pruned = opened[0].log.first_stored - first
    opened[0].close()
    report.add(
        f"reopening that prunes {pruned:,} entries",
        f"{seconds:,.2f} s",
        note=f"{pruned / seconds:,.0f} entries/s",
    )


# --- backfill ---------------------------------------------------------------------------------

BACKFILLS = 3


def measure_backfill(path: Path, report: Report, memory: AnonymousMemory, limits: Limits) -> None:
    with memory.phase("writing 1,000,000 plain entries"):
        log = LmdbLog(path, MEMBER, blob_digests)
        log.bootstrap_standalone(CLUSTER)
        bodies = [entry_body()] * LONG_LOG_BATCH
        while (missing := LONG_LOG_ENTRIES - log.last.index) > 0:
            log.append(None, bodies[:missing])
        log.close()
    with memory.phase("backfill"):
        times = [
            _backfill(path, path.with_name(f"backfill-{number}"), limits.backfill_rows)
            for number in range(BACKFILLS)
        ]
    seconds = statistics.median(times)
    report.add(
        "backfill of 1,000,000 entries",
        f"{LONG_LOG_ENTRIES / seconds:,.0f} entries/s",
        note=f"{seconds:.2f} s, {limits.backfill_rows:,} entries a transaction",
    )


def _backfill(plain: Path, path: Path, rows_max: int) -> float:
    """Backfills a copy of a standalone log; the seconds from begin to finish, all of it durable."""
    path.mkdir()
    shutil.copyfile(plain / "data.mdb", path / "data.mdb")
    with (path / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())
    log = LmdbLog(path, MEMBER, blob_digests)

    def run() -> None:
        progress = log.begin_backfill()
        while not progress.complete:
            progress = log.step_backfill(rows_max)
        # At its first entry, so that all others can be read back as Raft's.
        log.finish_backfill(Position(LSN(1), log.term(LSN(1))))

    assert log.last == Position(LSN(LONG_LOG_ENTRIES), Term(0))
    seconds = timed(run)
    assert log.hard_state.commit == LONG_LOG_ENTRIES
    for start in range(2, LONG_LOG_ENTRIES + 1, LONG_LOG_BATCH):
        end = min(start + LONG_LOG_BATCH, LONG_LOG_ENTRIES + 1)
        entries = log.entries(LSN(start), LSN(end), None)
        assert len(entries) == end - start
        assert all(entry.term == log.hard_state.term for entry in entries)
    log.close()
    return seconds


# --- what the measurements are made of --------------------------------------------------------


class Rates:
    """Units a second, round by round."""

    def __init__(self) -> None:
        self.rounds: list[float] = []

    def add(self, units: float, seconds: float) -> None:
        self.rounds.append(units / seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return max(self.rounds)

    def times(self, other: "Rates") -> str:
        """How many times the other's, within each round: the median, and the extremes."""
        ratios = [a / b for a, b in zip(self.rounds, other.rounds, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def in_turns(steps: Mapping[str, Step]) -> dict[str, Rates]:
    """Runs each for ROUND_S seconds of its own time, ROUNDS times over, one after the other."""
    found = {name: Rates() for name in steps}
    names = list(steps)
    for step in steps.values():
        step()
    for number in range(ROUNDS):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].add(*_for_a_round(steps[name]))
        said = ", ".join(f"{name} {rates.rounds[-1]:,.0f}" for name, rates in found.items())
        say(f"   round {number + 1} of {ROUNDS}, a second: {said}")
    return found


def _for_a_round(step: Step) -> tuple[float, float]:
    units = seconds = 0.0
    while seconds < ROUND_S:
        more = step()
        units, seconds = units + more[0], seconds + more[1]
    return units, seconds


def creation_ms(folder: Path) -> float:
    """Milliseconds that a directory with two files in it takes, nothing synced."""
    root = folder / "creation"
    root.mkdir()

    def create() -> None:
        for number in range(300):
            _create(root / str(number))

    return timed(create) * 1000 / 300


def _create(directory: Path) -> None:
    directory.mkdir()
    for name in ("MANIFEST", "RAFT"):
        os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def yardstick(folder: Path) -> float:
    """4 KiB appends with fdatasync, a second; median of ROUNDS short runs."""
    descriptor = os.open(folder / "yardstick", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    rates: list[float] = []
    for _ in range(ROUNDS):
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < YARDSTICK_S / ROUNDS:
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            count += 1
        rates.append(count / (time.perf_counter() - began))
    os.close(descriptor)
    (folder / "yardstick").unlink()
    return statistics.median(rates)


def new_log(path: Path) -> LmdbLog:
    log = LmdbLog(path, MEMBER, blob_digests)
    log.bootstrap(CLUSTER, Configuration(voters=(MEMBER,)))
    return log


def open_volume(path: Path, retention: LogRetention) -> Volume:
    lock = VolumeLock(path)
    assert lock.try_acquire()
    return Volume(path, lock, pins_max=1, retention=retention)


def entry_body() -> bytes:
    """An EntryBody of ENTRY_BYTES as a client's proposal makes it: one small key."""
    key = b"accounts/0000001"

    def of(value_bytes: int) -> bytes:
        operation = set_key(key, os.urandom(value_bytes))
        return body(proposal(1 << 60, 1 << 20, [operation]), 1 << 40).SerializeToString()

    made = of(ENTRY_BYTES - len(of(150)) + 150)
    assert len(made) == ENTRY_BYTES, len(made)
    return made


def timed(body: Callable[[], object]) -> float:
    began = time.perf_counter()
    body()
    return time.perf_counter() - began


def can_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK) and os.geteuid() == 0


def drop_caches() -> None:
    with suppress(OSError):
        DROP_CACHES.write_text("3")


def anonymous_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _mib(path: Path) -> int:
    return (path / "data.mdb").stat().st_size >> 20


def _per_second(rate: float) -> str:
    return f"{rate:,.0f} /s"


def _per_call(rate: float) -> str:
    return f"{1000 / rate:.3f} ms each"


def _times(one: float, other: float) -> str:
    return f"{one / other:.2f} x"
