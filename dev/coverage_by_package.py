"""Prints how many lines and branches of each package `make coverage` has covered.

`python -m dev.coverage_by_package [FILE]` reads the combined data of coverage.py. If FILE is given,
the figures of each module are written to it as JSON.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from coverage import Coverage

COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def rows_of(path: str) -> tuple[str, str, str]:
    """Returns the rows in which a module counts: all, its package, its directory."""
    parts = Path(path).parts
    first = next(n for n, part in enumerate(parts) if part.startswith("partition_"))
    package, *below = parts[first:-1]
    return "", package, f"{package}.{below[0]}" if below else f"{package}, top level"


def counts_of(files: dict[str, Any]) -> dict[str, list[int]]:
    """Returns the sums of COUNTS of each row."""
    found: dict[str, list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    for path, file in files.items():
        for row in rows_of(path):
            for n, count in enumerate(COUNTS):
                found[row][n] += file["summary"][count]
    return {row: counts for row, counts in found.items() if counts[1]}


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if sys.argv[1:] else Path(folder) / "coverage.json"
        measured = Coverage()
        measured.load()
        measured.json_report(outfile=str(path))
        files = json.loads(path.read_text())["files"]
    print(f"{'package':36} {'lines':>13} {'':>6} {'branches':>11}")
    for row, (lines, of_lines, branches, of_branches) in sorted(counts_of(files).items()):
        print(
            f"{row or 'all':36} {f'{lines}/{of_lines}':>13} {percent(lines, of_lines):>6}"
            f" {f'{branches}/{of_branches}':>11} {percent(branches, of_branches):>6}"
        )


if __name__ == "__main__":
    main()
