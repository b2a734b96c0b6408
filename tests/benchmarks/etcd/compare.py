"""Ours and etcd in turns: `make bench-etcd`.

Three replicas of ours and three members of etcd stand on one machine and one disk, with the
settings that each has by default, and with mutual TLS on both sides or on neither. Each row has
new groups, which are warmed up. Then it is driven in rounds. In each round both sides take a turn,
and the side that begins changes. So a slow moment of the machine meets both. A ratio is that of one
round. The table shows the median and the range of the rounds.

Loads are closed loops. Keys have the same size on both sides, and so have values. The servers'
processor time, memory and bytes are those from the beginning of a load to its end, without the
start of servers and of Python clients. Before each turn everything is synced. docs/performance.md
says what is not equal.

Writes build/bench/summary.json. A row is valid only if it has at least 5 rounds (20 kills), and the
load average was at most 0.5 before each of them. The exit code is 1 if a row failed.
"""

import argparse
import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from partition_client import ClientError

import dev.etcd
from tests.benchmarks.etcd import files, trees
from tests.benchmarks.etcd.failover import measure_kill
from tests.benchmarks.etcd.figures import KILLS_MIN, ROUNDS_MIN, Failover, Result, line, table
from tests.benchmarks.etcd.groups import (
    Group,
    Security,
    Version,
    etcd_group,
    our_group,
    use_default_settings,
)
from tests.benchmarks.etcd.loads import Loader, LoadFailed
from tests.benchmarks.etcd.machine import CALM_WAIT_S, Calm, check_space, describe, sync_ms
from tests.benchmarks.etcd.progress import Progress
from tests.benchmarks.etcd.rows import FAILOVER, FILES, ROWS, TREE, LoadRow, Row, choose

OUTPUT = Path("build/bench")
SUMMARY = OUTPUT / "summary.json"
RUN_PREFIX = "run-"
WARM_UP_S = 2.0
FAILURES = (
    LoadFailed,
    ClientError,
    grpc.aio.AioRpcError,
    RuntimeError,  # a server has ended
    subprocess.SubprocessError,  # `cp` or `go` failed
    OSError,  # also TimeoutError, and ProcessLookupError if a server ended during a load
    AssertionError,  # `eventually` waited in vain
)
"""A row that ends with one of these failed, which the result says; the other rows follow."""
T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """What the rows have in common."""

    folder: Path
    security: Security | None
    loader: Loader
    calm: Calm
    progress: Progress
    rounds: int
    seconds: float
    kills: int
    before: Version | None

    async def row(self, row: Row) -> Result | Failover:
        """Never fails but by cancellation: a failure is part of the result."""
        folder = self.folder / row.name
        folder.mkdir()
        result = self._empty(row)
        try:
            if isinstance(result, Failover):
                await self._failover(result, folder)
            elif isinstance(row, LoadRow):
                await self._load(row, result, folder)
            elif row == FILES:
                await self._files(result, folder)
            else:
                await self._tree(result, folder)
        except FAILURES as error:
            result.failure = f"{type(error).__name__}: {error}"
        finally:
            # After a cancellation a thread may still copy files. The run's directory goes later.
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def _empty(self, row: Row) -> Result | Failover:
        if row == FAILOVER:
            return Failover(row.name, row.title, seconds={"ours": [], "etcd": []})
        other = "etcd"
        if row == FILES:
            other = "copies"
        elif row == TREE:
            other = "before" if self.before else ""
        return Result(row.name, row.title, other, {side: [] for side in ("ours", other) if side})

    @asynccontextmanager
    async def _both(self, folder: Path) -> AsyncIterator[tuple[Group, Group]]:
        async with AsyncExitStack() as stack:
            etcd = await stack.enter_async_context(etcd_group(folder / "etcd", self.security))
            ours = await stack.enter_async_context(our_group(folder / "ours", self.security))
            yield ours, etcd

    async def _load(self, row: LoadRow, result: Result, folder: Path) -> None:
        self.progress.show(f"{row.name}: starting, warming up")
        async with self._both(folder) as both:
            for group in both:
                await self.loader.warm_up(group, row, min(WARM_UP_S, self.seconds))
            for number in range(self.rounds):
                result.loads.append(await self.calm.before_round())
                for group in in_turns(both, number):
                    self._show(row.name, number, self.rounds, group.name)
                    await sync()
                    measured = await self.loader.measure(group, row, self.seconds)
                    result.sides[group.name].append(measured)
                self.progress.step()

    async def _failover(self, result: Failover, folder: Path) -> None:
        self.progress.show(f"{result.name}: starting")
        async with self._both(folder) as both:
            for number in range(self.kills):
                result.loads.append(await self.calm.before_round())
                for group in in_turns(both, number):
                    self._show(result.name, number, self.kills, group.name)
                    result.seconds[group.name].append(await measure_kill(group))
                self.progress.step()

    async def _files(self, result: Result, folder: Path) -> None:
        self.progress.show(f"{result.name}: starting, warming up")
        count = files.FILES_PER_ROUND
        async with our_group(folder / "ours", self.security) as ours:
            await files.put_files(ours, folder, 1)
            await asyncio.to_thread(files.copy_files, folder, 1)
            for number in range(self.rounds):
                result.loads.append(await self.calm.before_round())
                for side in in_turns(("ours", "copies"), number):
                    self._show(result.name, number, self.rounds, side)
                    await sync()
                    if side == "ours":
                        measured = await files.put_files(ours, folder, count)
                    else:
                        measured = await asyncio.to_thread(files.copy_files, folder, count)
                    result.sides[side].append(measured)
                self.progress.step()

    async def _tree(self, result: Result, folder: Path) -> None:
        """Each turn has a new group, because equal files are stored once."""
        source = trees.go_sources()
        count = await asyncio.to_thread(trees.read_all, source)
        versions = [Version.current(), *([self.before] if self.before else [])]
        for number in range(self.rounds):
            result.loads.append(await self.calm.before_round())
            for version in in_turns(versions, number):
                self._show(result.name, number, self.rounds, version.name)
                data = folder / version.name
                async with our_group(data, self.security, version) as group:
                    await sync()
                    measured = await trees.put_tree(group, version, source, count)
                    result.sides[version.name].append(measured)
                shutil.rmtree(data)
            self.progress.step()

    def _show(self, row: str, number: int, of: int, side: str) -> None:
        self.progress.show(f"{row}: {number + 1} of {of}, {side}")


def in_turns(sides: Sequence[T], number: int) -> list[T]:
    """The sides in the order of a round: the one that begins changes."""
    return list(sides) if number % 2 == 0 else list(reversed(sides))


async def sync() -> None:
    """So that no side waits for the other's writes."""
    await asyncio.to_thread(os.sync)


def cancel_on_signals() -> None:
    """The first SIGINT or SIGTERM cancels this task, which then cleans up; further ones do nothing,
    so that it can finish."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def cancel() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)


@contextmanager
def run_folder() -> Iterator[Path]:
    """A directory for the data of both sides, on the disk of the checkout. It is removed in the
    end, and so are those of earlier runs that were killed. Raises SystemExit if another run is
    going on."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with (OUTPUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another comparison is going on in this checkout") from None
        for left in OUTPUT.glob(f"{RUN_PREFIX}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=RUN_PREFIX, dir=OUTPUT) as name:
            yield Path(name).resolve()


async def compare(arguments: argparse.Namespace, folder: Path) -> list[Result | Failover]:
    """Writes the summary after each row, so that a run that is ended has what was measured."""
    SUMMARY.unlink(missing_ok=True)
    cancel_on_signals()
    chosen: list[Row] = arguments.rows
    steps = [arguments.kills if row == FAILOVER else arguments.rounds for row in chosen]
    progress = Progress(sum(steps))
    run = Run(
        folder,
        Security.make(folder / "pki") if arguments.tls else None,
        Loader(python_only=arguments.python_clients, spread=arguments.spread),
        Calm(progress, 0.0 if arguments.hurry else CALM_WAIT_S),
        progress,
        arguments.rounds,
        arguments.seconds,
        arguments.kills,
        arguments.before,
    )
    summary = {
        "machine": describe(folder, tls=arguments.tls),
        "etcd_clients": "python" if arguments.python_clients else "its own load generator",
        "etcd_clients_at": "all members" if arguments.spread else "the leader",
        "seconds_per_turn": arguments.seconds,
        "sync_4_kib_ms": {"before": await asyncio.to_thread(sync_ms, folder)},
    }
    results: list[Result | Failover] = []
    for row in chosen:
        results.append(await run.row(row))
        progress.reach(sum(steps[: len(results)]))
        summary["valid"] = not any(result.doubts() for result in results)
        summary["complete"] = len(results) == len(chosen)
        summary["sync_4_kib_ms"]["after"] = await asyncio.to_thread(sync_ms, folder)
        summary["rows"] = [result.summary() for result in results]
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
        progress.clear()
        print(line(results[-1]), flush=True)
    print("\nThe machine:", *(f"{k}: {v}" for k, v in summary["machine"].items()), sep="\n  ")
    syncs = summary["sync_4_kib_ms"]
    print(
        f"  4 KiB with fdatasync: {syncs['before']:.2f} ms before, {syncs['after']:.2f} ms after\n"
    )
    print(*table(results), sep="\n")
    print(f"{SUMMARY}: {'valid' if summary['valid'] else 'NOT VALID'}")
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--rows", default="", help=f"separated by commas: {names}; default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS_MIN)
    parser.add_argument("--kills", type=int, default=KILLS_MIN, help="of each side, in failover")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn of a side")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--before", type=Path, help="an older checkout of this project, set up")
    parser.add_argument(
        "--python-clients", action="store_true", help="drive etcd by Python clients in all rows"
    )
    parser.add_argument(
        "--spread", action="store_true", help="etcd's clients use all members, not the leader alone"
    )
    parser.add_argument("--hurry", action="store_true", help="does not wait for an idle machine")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.kills) < 1 or arguments.seconds <= 0:
        parser.error("--rounds, --kills and --seconds must be above 0")
    try:
        arguments.rows = choose(arguments.rows)
        if arguments.before is not None:
            arguments.before = trees.older_version(arguments.before)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    use_default_settings()
    arguments = parse()
    dev.etcd.build()
    with run_folder() as folder:
        check_space(folder)
        try:
            results = asyncio.run(compare(arguments, folder))
        except asyncio.CancelledError:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the directory is about to be removed
            done = f"; {SUMMARY} has the complete rows" if SUMMARY.exists() else ""
            raise SystemExit(f"\nended by a signal{done}") from None
    if any(result.failure for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
