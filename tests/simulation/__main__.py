"""Runs the simulation from the command line: one seed, to look at it, or many.

python -m tests.simulation --seed 7 --trace
python -m tests.simulation --seeds 1000 --first 0 --jobs 2
"""

import argparse
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from tests.simulation.cluster import Report, simulate, simulate_apart

SEEDS_A_PROCESS = 20
SEED_S_MAX = 600.0
"""A seed takes a second."""


def main() -> int:
    """The number of seeds that failed, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay one seed")
    what.add_argument("--seeds", type=int, help="run so many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes beside each other")
    parser.add_argument("--steps", type=int, default=None, help="inject at most so many faults")
    parser.add_argument("--trace", action="store_true", help="print each event")
    parser.add_argument("--digest", action="store_true", help="print the hash of the trace alone")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.steps, arguments.trace, arguments.digest)
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments.jobs)


def _one(seed: int, steps: int | None, echo: bool, digest: bool) -> int:
    report = simulate(seed, faults_max=steps, echo=echo)
    if digest:
        print(report.digest)
        return int(report.violation is not None)
    if report.violation is not None:
        print(report.explain())
        if report.violation.__cause__ is not None:
            traceback.print_exception(report.violation.__cause__)
        return 1
    print(f"seed {seed}: {report.virtual_s:.1f} s in {report.cpu_s:.1f} s, trace {report.digest}")
    _summary(report.counts)
    return 0


def _many(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    virtual_s = cpu_s = 0.0
    for done, report in enumerate(_reports(seeds, jobs), 1):
        counts += report.counts
        virtual_s += report.virtual_s
        cpu_s += report.cpu_s
        if report.violation is not None:
            failed.append(report.seed)
            print(f"\n{report.explain()}", flush=True)
        if sys.stdout.isatty() or done % 50 == 0:
            wall_s = time.monotonic() - began
            end = "\r" if sys.stdout.isatty() else "\n"
            print(
                f"{done}/{len(seeds)} seeds, {len(failed)} failed, {wall_s:.0f} s",
                end=end,
                flush=True,
            )
    print(
        f"\n{len(seeds)} seeds in {time.monotonic() - began:.0f} s ({cpu_s:.0f} s of processor): "
        f"{virtual_s:.0f} s of groups' lives; failed: {failed or 'none'}"
    )
    _summary(counts)
    return int(bool(failed))


def _reports(seeds: range, jobs: int) -> Iterator[Report]:
    # Ten megabytes of a run stay until the process ends: suspended coroutines of the dead.
    fresh = multiprocessing.get_context("spawn")
    with fresh.Pool(jobs, maxtasksperchild=SEEDS_A_PROCESS) as pool:
        reports = pool.imap(simulate_apart, seeds)
        for seed in seeds:
            try:
                yield reports.next(SEED_S_MAX)
            except multiprocessing.TimeoutError:
                raise SystemExit(f"seed {seed}: nothing within {SEED_S_MAX:.0f} s") from None


def _summary(counts: Counter[str]) -> None:
    for kind, count in sorted(counts.items()):
        print(f"  {count:10} {kind}")


if __name__ == "__main__":
    sys.exit(main())
