"""What three replicas without clients use of a core, by replica and by thread.

`python -m tests.benchmarks.idle [--seconds S --rounds N --before CHECKOUT --insecure]` starts three
replicas with their default settings and mutual TLS, and leaves them alone. With `--before` three
replicas of an older checkout are idle at the same time, so that both versions meet the same
machine, and each costs the other some of its caches: take absolute figures without it.

Per replica and round it prints the processor time in percent of one core, from the scheduler's
counters (/proc/<pid>/task/<tid>/schedstat: nanoseconds in user and kernel mode); how often its
threads began to wait (voluntary context switches, about the wake-ups); and the threads that use the
most. The load average is printed, too: a busy machine has cold caches, which makes each wake-up
dearer.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.etcd.groups import Ours, Security, our_group, use_default_settings
from tests.benchmarks.etcd.trees import older_version

SETTLE_S = 5.0
"""After the start, before the first round: connections are open, and the last write is applied."""

NANOSECONDS = 1e9
SHOWN_PERCENT = 0.01
"""Threads that use less of a core are summed up."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A process's counters, by thread: (nanoseconds on a processor, waits begun)."""

    at: float
    threads: dict[tuple[int, str], tuple[int, int]]

    @classmethod
    def of(cls, pid: int) -> "Sample":
        """Raises FileNotFoundError if the process has ended."""
        threads = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            ran = int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text().splitlines()
            waits = next(line for line in status if line.startswith("voluntary_ctxt_switches"))
            kind = "event loop" if int(task.name) == pid else name
            threads[int(task.name), kind] = (ran, int(waits.split()[1]))
        return cls(time.monotonic(), threads)


@dataclass(frozen=True, slots=True)
class Use:
    """Between two samples: percent of a core, and waits per second; `threads` by name."""

    percent: float
    waits_per_s: float
    threads: dict[str, tuple[float, float]]

    @classmethod
    def between(cls, before: Sample, after: Sample) -> "Use":
        seconds = after.at - before.at
        threads: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for key, (ran, waits) in after.threads.items():
            ran_before, waits_before = before.threads.get(key, (0, 0))
            percent = 100 * (ran - ran_before) / NANOSECONDS / seconds
            per_s = (waits - waits_before) / seconds
            so_far = threads[key[1]]
            threads[key[1]] = (so_far[0] + percent, so_far[1] + per_s)
        return cls(
            sum(percent for percent, _ in threads.values()),
            sum(per_s for _, per_s in threads.values()),
            dict(threads),
        )

    def shown_threads(self) -> str:
        shown = {name: use for name, use in self.threads.items() if use[0] >= SHOWN_PERCENT}
        rest = self.percent - sum(percent for percent, _ in shown.values())
        parts = [
            f"{name} {percent:.2f} % ({per_s:.0f}/s)"
            for name, (percent, per_s) in sorted(shown.items(), key=lambda item: -item[1][0])
        ]
        return ", ".join([*parts, f"others {rest:.2f} %"])


@dataclass(slots=True)
class Measured:
    """The rounds of a version's leader, or of its followers."""

    percent: list[float] = field(default_factory=list)


async def measure(groups: list[Ours], seconds: float, rounds: int) -> None:
    found: dict[tuple[str, str], Measured] = defaultdict(Measured)
    for number in range(1, rounds + 1):
        # Asking for the leader is work: it is done before each round, never in it.
        leaders = [await group.leader() for group in groups]
        for group in groups:
            await group.disconnect()
        await asyncio.sleep(SETTLE_S)
        before = [[Sample.of(pid) for pid in group.pids] for group in groups]
        await asyncio.sleep(seconds)
        after = [[Sample.of(pid) for pid in group.pids] for group in groups]
        print(f"round {number}, {seconds:.0f} s, load average {os.getloadavg()[0]:.1f}")
        for place, group in enumerate(groups):
            for replica, samples in enumerate(zip(before[place], after[place], strict=True)):
                use = Use.between(*samples)
                role = "leader" if replica == leaders[place] else "follower"
                found[group.name, role].percent.append(use.percent)
                print(
                    f"  {group.name:6} {role:8} {use.percent:.2f} %, {use.waits_per_s:.0f} waits/s:"
                    f" {use.shown_threads()}",
                    flush=True,
                )
    for (name, role), measured in found.items():
        low, high = min(measured.percent), max(measured.percent)
        middle = statistics.median(measured.percent)
        print(f"{name:6} {role:8} median {middle:.2f} % of a core ({low:.2f} to {high:.2f})")


async def run(arguments: argparse.Namespace) -> None:
    use_default_settings()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        security = None if arguments.insecure else Security.make(folder / "tls")
        async with AsyncExitStack() as stack:
            groups = [await stack.enter_async_context(our_group(folder / "ours", security))]
            if arguments.before is not None:
                older = older_version(arguments.before)
                groups.append(
                    await stack.enter_async_context(our_group(folder / "before", security, older))
                )
            await measure(groups, arguments.seconds, arguments.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="an older checkout of this project, set up")
    parser.add_argument("--insecure", action="store_true", help="without TLS")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
