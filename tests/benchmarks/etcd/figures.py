"""The arithmetic of the comparison: medians, ranges, ratios, validity, tables. No I/O."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LOAD_MAX = 0.5
"""The highest load average (of one minute) before a round that counts as an idle machine."""
BUSY_MAX = 0.15
"""The busy share of the processors before a turn up to which they count as idle. Both groups stand
by, and their heartbeats go on."""
ROUNDS_MIN = 5
KILLS_MIN = 20
MIB = 1024 * 1024


def percentile(latencies: Sequence[float], share: float) -> float:
    """`latencies` is sorted. Returns 0 if it is empty."""
    return latencies[min(int(len(latencies) * share), len(latencies) - 1)] if latencies else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Returns None if there are no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True)
class ServerUse:
    """What three servers used during a load. CPU and bytes: of all three together, per operation;
    bytes: None if their disk does not count them. Memory: the peak of the server that has the
    most."""

    cpu_ms: float
    written_bytes: float | None
    peak_anonymous_mib: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One side of one round.

    rate: operations per second, from the beginning of the load until its last operation ended.
    p50_s, p99_s: None if operations have no latency of their own, as the files of a tree.
    client_cpu_ms: of all client processes together, per operation. servers: None if there are no
    servers, as with copies of files.
    """

    operations: int
    rate: float
    p50_s: float | None = None
    p99_s: float | None = None
    client_cpu_ms: float | None = None
    servers: ServerUse | None = None


Value = Callable[[Measured], float | None]


def cpu_ms(measured: Measured) -> float | None:
    return measured.servers.cpu_ms if measured.servers else None


def written_bytes(measured: Measured) -> float | None:
    return measured.servers.written_bytes if measured.servers else None


def written_kib(measured: Measured) -> float | None:
    written = written_bytes(measured)
    return None if written is None else written / 1024


def peak_mib(measured: Measured) -> float | None:
    return measured.servers.peak_anonymous_mib if measured.servers else None


VALUES: dict[str, Value] = {
    "rate": lambda m: m.rate,
    "p50": lambda m: m.p50_s,
    "p99": lambda m: m.p99_s,
    "server_cpu_per_operation": cpu_ms,
    "client_cpu_per_operation": lambda m: m.client_cpu_ms,
    "written_bytes_per_operation": written_bytes,
    "peak_anonymous_memory": peak_mib,
}


@dataclass(slots=True)
class Result:
    """A row. other: the name of the side that ours is compared with; "" if there is no other side.
    loads: the load average before each round. busy: the busy share of the processors before each
    turn. failure: of the first turn that failed, or ""."""

    name: str
    title: str
    other: str
    sides: dict[str, list[Measured]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    failure: str = ""

    def of(self, side: str, value: Value) -> Spread | None:
        return Spread.of([v for m in self.sides.get(side, []) if (v := value(m)) is not None])

    def ratio(self, value: Value) -> Spread | None:
        """Ours to the other side's, round by round. A round without a value is left out, and so is
        a last round that failed after one side's turn."""
        found = []
        pairs = zip(self.sides.get("ours", []), self.sides.get(self.other, []), strict=False)
        for ours, other in pairs:
            above, below = value(ours), value(other)
            if above is not None and below:
                found.append(above / below)
        return Spread.of(found)

    def failed(self, number: int, error: BaseException) -> None:
        """Round `number`, from 0, failed."""
        self.failure = self.failure or _failure(number, error)

    def doubts(self) -> list[str]:
        """Why the row may not go into the documentation; empty if it may."""
        rounds = min((len(side) for side in self.sides.values()), default=0)
        return _doubts(self.failure, rounds, ROUNDS_MIN, "rounds", self.loads, self.busy)

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {name: self.ratio(value) for name, value in VALUES.items()}
        return {
            **asdict(self),
            "doubts": self.doubts(),
            "ratios": {name: asdict(ratio) for name, ratio in ratios.items() if ratio},
        }


@dataclass(slots=True)
class Failover:
    """Seconds from SIGKILL of the leader to the next acknowledged write, for each kill."""

    name: str
    title: str
    other: str = "etcd"
    seconds: dict[str, list[float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    failure: str = ""

    def of(self, side: str) -> Spread | None:
        return Spread.of(self.seconds.get(side, []))

    def ratios(self) -> tuple[float, float] | None:
        """Returns the ratios (of the medians, of the worst), or None if a side has no kills. Kills
        are not compared one by one: the time-out of an election is drawn at random."""
        ours, other = self.of("ours"), self.of(self.other)
        if ours is None or other is None:
            return None
        return ours.median / other.median, ours.high / other.high

    def failed(self, number: int, error: BaseException) -> None:
        """Round `number`, from 0, failed."""
        self.failure = self.failure or _failure(number, error)

    def doubts(self) -> list[str]:
        kills = min((len(side) for side in self.seconds.values()), default=0)
        return _doubts(self.failure, kills, KILLS_MIN, "kills", self.loads, self.busy)

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        ratios = self.ratios()
        named = dict(zip(("of_medians", "of_worst"), ratios, strict=True)) if ratios else {}
        return {**asdict(self), "doubts": self.doubts(), "ratios": named}


def _failure(number: int, error: BaseException) -> str:
    return f"round {number + 1}: {type(error).__name__}: {error}"


def _doubts(
    failure: str,
    done: int,
    least: int,
    what: str,
    loads: Sequence[float],
    busy: Sequence[float],
) -> list[str]:
    found = [f"failed: {failure}"] if failure else []
    if done < least:
        found.append(f"{done} {what}; {least} are needed")
    if (worst := max(loads, default=0.0)) > LOAD_MAX:
        found.append(f"load average {worst:.2f} before a round; at most {LOAD_MAX} is allowed")
    if (worst := max(busy, default=0.0)) > BUSY_MAX:
        found.append(
            f"processors were {worst:.0%} busy before a turn; at most {BUSY_MAX:.0%} is allowed"
        )
    return found


def peak_of_rounds(results: Sequence["Result | Failover"]) -> Result | None:
    """The peak memory over all rows of each round that have servers on both sides, as a row of its
    own. None without such rows."""
    rows = [r for r in results if isinstance(r, Result) and r.other == "etcd"]
    rounds = min((len(side) for row in rows for side in row.sides.values()), default=0)
    if not rounds:
        return None
    whole = Result("memory", "all rows of a round", "etcd", {"ours": [], "etcd": []})
    for name, side in whole.sides.items():
        for number in range(rounds):
            peak = max(peak_mib(row.sides[name][number]) or 0.0 for row in rows)
            side.append(Measured(0, 0.0, servers=ServerUse(0.0, None, peak)))
    return whole


def memory_summary(results: Sequence["Result | Failover"]) -> dict[str, Any]:
    """For JSON: the peak anonymous memory of a server over all rows of a round, in MiB."""
    whole = peak_of_rounds(results)
    if whole is None:
        return {}
    sides = {f"{side}_mib": whole.of(side, peak_mib) for side in whole.sides}
    found = {**sides, "ratio": whole.ratio(peak_mib)}
    return {name: asdict(spread) for name, spread in found.items() if spread}


def line(result: Result | Failover) -> str:
    """What to print when a row is over."""
    if isinstance(result, Failover):
        ours, other = _ratio(result.of("ours")), _ratio(result.of(result.other))
        found = f"ours {ours} s, {result.other} {other} s"
    else:
        rate = VALUES["rate"]
        found = f"ours {_number(result.of('ours', rate), '/s')}"
        if result.other:
            found += f", {result.other} {_number(result.of(result.other, rate), '/s')}"
            found += f", ratio {_ratio(result.ratio(rate))}"
    return f"{result.name}: {found}" + "".join(f"; {doubt}" for doubt in result.doubts())


def table(results: Sequence[Result | Failover]) -> Iterator[str]:
    """Lines of Markdown: rates and latencies, what the servers used, failovers, doubts. A ratio is
    ours to the other side's."""
    rows = [result for result in results if isinstance(result, Result)]
    kills = [result for result in results if isinstance(result, Failover)]
    if rows:
        yield from _rates(rows)
        yield from _uses(rows)
    if (whole := peak_of_rounds(results)) is not None:
        ratio = _ratio(whole.ratio(peak_mib))
        yield "Peak anonymous memory of a server over all rows of a round, MiB: ours / etcd:"
        yield f"{_both(whole, peak_mib)}; the ratio is {ratio}"
        yield ""
    if kills:
        yield from _failovers(kills)
    for result in results:
        for doubt in result.doubts():
            yield f"NOT VALID: {result.name}: {doubt}"


def _rates(rows: Sequence[Result]) -> Iterator[str]:
    yield "| row | ours | beside | ratio of rates | p50, ms | p99, ms |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            row.title,
            _number(row.of("ours", VALUES["rate"]), "/s"),
            f"{row.other}: {_number(row.of(row.other, VALUES['rate']), '/s')}" if row.other else "",
            _ratio(row.ratio(VALUES["rate"])),
            _both(row, lambda m: None if m.p50_s is None else m.p50_s * 1000),
            _both(row, lambda m: None if m.p99_s is None else m.p99_s * 1000),
        ]
        yield _cells(cells)
    yield ""


def _uses(rows: Sequence[Result]) -> Iterator[str]:
    yield (
        "| row | server CPU per operation, ms | its ratio | client CPU per operation, ms "
        "| peak anonymous memory of a server, MiB | its ratio | KiB written per operation |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            row.title,
            _both(row, cpu_ms),
            _ratio(row.ratio(cpu_ms)),
            _both(row, VALUES["client_cpu_per_operation"]),
            _both(row, peak_mib),
            _ratio(row.ratio(peak_mib)),
            _both(row, written_kib),
        ]
        yield _cells(cells)
    yield ""


def _failovers(rows: Sequence[Failover]) -> Iterator[str]:
    yield "| row | kills of each | ours, s: median, range | beside | ratio of medians | of worst |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        ratios = row.ratios()
        cells = [
            row.title,
            str(min((len(side) for side in row.seconds.values()), default=0)),
            _ratio(row.of("ours")),
            f"{row.other}: {_ratio(row.of(row.other))}",
            *([f"{ratio:.2f}" for ratio in ratios] if ratios else ["-", "-"]),
        ]
        yield _cells(cells)
    yield ""


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(found: Spread | None, unit: str = "") -> str:
    """Three digits, and no fraction of large numbers."""
    if found is None:
        return "-"
    text = f"{found.median:,.0f}" if found.median >= 100 else f"{found.median:.3g}"
    return f"{text} {unit}".strip()


def _both(row: Result, value: Value) -> str:
    ours, other = row.of("ours", value), row.of(row.other, value)
    return _number(ours) if other is None else f"{_number(ours)} / {_number(other)}"


def _ratio(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
