"""Ours and etcd in turns: `make bench-etcd`.

Three replicas of ours and three members of etcd stand on one machine and one disk, with the
settings that each has by default, and with mutual TLS on both sides or on neither. Each round
begins with new groups on an idle machine, and drives all rows. In each row both sides take a turn,
and the side that begins changes with the round. So a slow moment of the machine meets both. A ratio
is that of one round. The table shows the median and the range of the rounds.

Loads are closed loops. Keys have the same size on both sides, and so have values. The servers'
processor time, memory and bytes are those from the beginning of a load to its end, without the
start of servers and of Python clients. Before each turn everything is synced, and the processors
have been idle for a second. docs/performance.md says what is not equal.

Writes build/bench/summary.json after each round. A row is valid only if it has at least 5 rounds
(20 kills), the load average was at most 0.5 before each of them, and the processors were idle
before each turn. The exit code is 1 if a row failed.
"""

import argparse
import asyncio
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from partition_client import ClientError

import dev.etcd
from tests.benchmarks.etcd import files, trees
from tests.benchmarks.etcd.failover import measure_kill
from tests.benchmarks.etcd.figures import (
    KILLS_MIN,
    ROUNDS_MIN,
    Failover,
    Result,
    line,
    memory_summary,
    table,
)
from tests.benchmarks.etcd.groups import (
    Group,
    Security,
    Version,
    etcd_group,
    our_group,
    use_default_settings,
)
from tests.benchmarks.etcd.loads import Loader, LoadFailed
from tests.benchmarks.etcd.machine import Calm, check_space, describe, sync_ms
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
    """What the rounds have in common. `results` has one for each chosen row."""

    folder: Path
    security: Security | None
    loader: Loader
    calm: Calm
    progress: Progress
    results: dict[Row, Result | Failover]
    seconds: float
    kills: int
    before: Version | None

    async def round(self, number: int) -> None:
        """Drives all rows once. Never fails but by cancellation: a failure is part of a row's
        result, and the other rows follow."""
        self.progress.show(f"round {number + 1}: waiting")
        load = await self.calm.before_round()
        for result in self.results.values():
            result.loads.append(load)
        folder = self.folder / f"round-{number}"
        folder.mkdir()
        todo = [row for row in self.results if row != TREE]
        try:
            async with AsyncExitStack() as stack:
                self.progress.show(f"round {number + 1}: starting, warming up")
                try:
                    both = await self._both(folder, stack) if todo else None
                except FAILURES as error:
                    for row in todo:
                        self.results[row].failed(number, error)
                    both = None
                for row in todo if both else ():
                    await self._row(row, number, folder, both)
                    self.progress.step()
            if TREE in self.results:
                await self._row(TREE, number, folder, None)
                self.progress.step()
        finally:
            # After a cancellation a thread may still copy files. The run's directory goes later.
            shutil.rmtree(folder, ignore_errors=True)

    async def _both(self, folder: Path, stack: AsyncExitStack) -> tuple[Group, Group]:
        etcd = await stack.enter_async_context(etcd_group(folder / "etcd", self.security))
        ours = await stack.enter_async_context(our_group(folder / "ours", self.security))
        for row in self.results:
            if isinstance(row, LoadRow):
                for group in (ours, etcd):
                    await self.loader.warm_up(group, row, min(WARM_UP_S, self.seconds))
                break
        return ours, etcd

    async def _row(
        self, row: Row, number: int, folder: Path, both: tuple[Group, Group] | None
    ) -> None:
        result = self.results[row]
        try:
            if both is None:
                assert isinstance(result, Result)
                await self._tree(result, number, folder)
            elif isinstance(result, Failover):
                await self._failover(result, number, both)
            elif isinstance(row, LoadRow):
                await self._load(row, result, number, both)
            else:
                await self._files(result, number, folder, both[0])
        except FAILURES as error:
            result.failed(number, error)

    async def _load(
        self, row: LoadRow, result: Result, number: int, both: tuple[Group, Group]
    ) -> None:
        for group in in_turns(both, number):
            await self._before_turn(result, number, group.name)
            measured = await self.loader.measure(group, row, self.seconds)
            result.sides[group.name].append(measured)

    async def _failover(self, result: Failover, number: int, both: tuple[Group, Group]) -> None:
        for kill in range(self.kills):
            for group in in_turns(both, number + kill):
                await self._before_turn(result, number, group.name)
                result.seconds[group.name].append(await measure_kill(group))

    async def _files(self, result: Result, number: int, folder: Path, ours: Group) -> None:
        count = files.FILES_PER_ROUND
        if number == 0:  # page cache and directories
            await files.put_files(ours, folder, 1)
            await asyncio.to_thread(files.copy_files, folder, 1)
        for side in in_turns(("ours", "copies"), number):
            await self._before_turn(result, number, side)
            if side == "ours":
                measured = await files.put_files(ours, folder, count)
            else:
                measured = await asyncio.to_thread(files.copy_files, folder, count)
            result.sides[side].append(measured)

    async def _tree(self, result: Result, number: int, folder: Path) -> None:
        """Each turn has a new group, because equal files are stored once."""
        source = trees.go_sources()
        count = await asyncio.to_thread(trees.read_all, source)
        versions = [Version.current(), *([self.before] if self.before else [])]
        for version in in_turns(versions, number):
            data = folder / f"tree-{version.name}"
            async with our_group(data, self.security, version) as group:
                await self._before_turn(result, number, version.name)
                measured = await trees.put_tree(group, version, source, count)
                result.sides[version.name].append(measured)
            shutil.rmtree(data)

    async def _before_turn(self, result: Result | Failover, number: int, side: str) -> None:
        """Syncs, so that no side waits for the other's writes, and waits for idle processors."""
        self.progress.show(f"round {number + 1}, {result.name}: {side}")
        await asyncio.to_thread(os.sync)
        result.busy.append(await self.calm.before_turn())


def empty(row: Row, before: Version | None) -> Result | Failover:
    """A row's result without rounds."""
    if row == FAILOVER:
        return Failover(row.name, row.title, seconds={"ours": [], "etcd": []})
    other = "etcd"
    if row == FILES:
        other = "copies"
    elif row == TREE:
        other = "before" if before else ""
    return Result(row.name, row.title, other, {side: [] for side in ("ours", other) if side})


def in_turns(sides: Sequence[T], number: int) -> list[T]:
    """The sides in the order of a round: the one that begins changes."""
    return list(sides) if number % 2 == 0 else list(reversed(sides))


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
    """Writes the summary after each round, so that a run that is ended has what was measured."""
    SUMMARY.unlink(missing_ok=True)
    cancel_on_signals()
    progress = Progress(arguments.rounds * len(arguments.rows))
    run = Run(
        folder,
        Security.make(folder / "pki") if arguments.tls else None,
        Loader(python_only=arguments.python_clients, spread=arguments.spread),
        Calm(progress, hurry=arguments.hurry),
        progress,
        {row: empty(row, arguments.before) for row in arguments.rows},
        arguments.seconds,
        arguments.kills,
        arguments.before,
    )
    results = list(run.results.values())
    summary = {
        "machine": describe(folder, tls=arguments.tls),
        "etcd_clients": "python" if arguments.python_clients else "its own load generator",
        "etcd_clients_at": "all members" if arguments.spread else "the leader",
        "seconds_per_turn": arguments.seconds,
        "sync_4_kib_ms": {"before": await asyncio.to_thread(sync_ms, folder)},
    }
    for number in range(arguments.rounds):
        await run.round(number)
        progress.reach((number + 1) * len(results))
        summary["valid"] = not any(result.doubts() for result in results)
        summary["complete"] = number + 1 == arguments.rounds
        summary["sync_4_kib_ms"]["after"] = await asyncio.to_thread(sync_ms, folder)
        summary["memory"] = memory_summary(results)
        summary["rows"] = [result.summary() for result in results]
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
        progress.clear()
        print(f"after round {number + 1}:", *map(line, results), sep="\n  ", flush=True)
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
    parser.add_argument(
        "--kills",
        type=int,
        default=math.ceil(KILLS_MIN / ROUNDS_MIN),
        help="of each side in each round of failover",
    )
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
