"""The comparison with etcd: what it reads, how it computes, and when it calls itself valid."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.etcd import failover, machine, trees
from tests.benchmarks.etcd.compare import in_turns
from tests.benchmarks.etcd.figures import (
    VALUES,
    Failover,
    Measured,
    Result,
    ServerUse,
    Spread,
    line,
    memory_summary,
    peak_of_rounds,
    percentile,
    table,
)
from tests.benchmarks.etcd.loads import LoadFailed, from_reports, parse_tool
from tests.benchmarks.etcd.progress import Progress
from tests.benchmarks.etcd.rows import ROWS, choose
from tests.benchmarks.etcd.usage import Meter

REPORT = """
Summary:
  Total:        1.0123 secs.
  Requests/sec: 3550.1234

Latency distribution:
  10% in 0.0101 secs.
  50% in 0.0162 secs.
  99% in 0.0417 secs.
"""


def measured(rate: float, cpu_ms: float = 1.0, peak_mib: float = 1.0) -> Measured:
    return Measured(10, rate, 0.001, 0.002, 0.5, ServerUse(cpu_ms, 2048.0, peak_mib))


def result(ours: Sequence[float], etcd: Sequence[float], loads: Sequence[float] = ()) -> Result:
    sides = {"ours": [measured(r) for r in ours], "etcd": [measured(r) for r in etcd]}
    return Result("put-8", "8 writers", "etcd", sides, list(loads))


def kills(ours: Sequence[float], etcd: Sequence[float]) -> Failover:
    return Failover("failover", "a kill", seconds={"ours": list(ours), "etcd": list(etcd)})


def test_rate_and_latencies_are_read() -> None:
    assert parse_tool(REPORT) == (3550.1234, 0.0162, 0.0417)


def test_anything_else_is_no_report() -> None:
    for text in ("", REPORT.replace("99%", "98%"), "Error: no endpoint"):
        with pytest.raises(ValueError, match="no report of etcd"):
            parse_tool(text)


def test_a_report_of_failed_operations_is_refused() -> None:
    failed = REPORT + "\nError distribution:\n  [3] etcdserver: mvcc: database space exceeded\n"
    with pytest.raises(ValueError, match=r"failed.*database space exceeded"):
        parse_tool(failed)


def test_percentiles_are_of_the_sorted_latencies() -> None:
    latencies = [float(number) for number in range(1, 101)]
    assert (percentile(latencies, 0.5), percentile(latencies, 0.99)) == (51.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) == 0.0


def test_reports_of_processes_are_joined() -> None:
    """The rate is up to the end of the last operation, so that a slow one is not left out."""
    reports = [
        {"latencies": [0.3, 0.1], "ended_at": 102.0, "cpu_s": 0.2},
        {"latencies": [0.2, 4.0], "ended_at": 104.0, "cpu_s": 0.4},
    ]
    meter = Meter([])
    meter.cpu_s, meter.written_bytes, meter.peak_anonymous_bytes = 0.8, 4000, 3 * 1024 * 1024
    found = from_reports(reports, 100.0, meter)
    assert (found.operations, found.rate) == (4, 1.0)
    assert (found.p50_s, found.p99_s) == (0.3, 4.0)
    assert found.client_cpu_ms == pytest.approx(150.0)
    assert found.servers == ServerUse(pytest.approx(200.0), 1000.0, 3.0)


def test_a_load_without_an_operation_has_failed() -> None:
    with pytest.raises(LoadFailed, match="nothing was done"):
        from_reports([{"latencies": [], "ended_at": 1.0, "cpu_s": 0.1}], 0.0, Meter([]))


def test_a_ratio_is_that_of_one_round() -> None:
    """Not of the medians: those would be 20 to 10 here."""
    found = result([10, 20, 90], [40, 10, 10]).ratio(VALUES["rate"])
    assert found == Spread(2.0, 0.25, 9.0)


def test_a_round_that_one_side_did_not_finish_has_no_ratio() -> None:
    assert result([10, 20], [5]).ratio(VALUES["rate"]) == Spread(2.0, 2.0, 2.0)
    assert result([10], []).ratio(VALUES["rate"]) is None


def test_copies_have_no_ratio_of_memory() -> None:
    row = result([10], [])
    row.sides["etcd"] = [Measured(1, 5.0)]
    assert row.ratio(VALUES["rate"]) == Spread(2.0, 2.0, 2.0)
    assert row.ratio(VALUES["peak_anonymous_memory"]) is None


def test_a_side_that_wrote_nothing_has_no_ratio() -> None:
    row = result([10], [10])
    row.sides["etcd"] = [Measured(1, 5.0, servers=ServerUse(1.0, 0.0, 1.0))]
    assert row.ratio(VALUES["written_bytes_per_operation"]) is None


def test_five_rounds_on_an_idle_machine_are_valid() -> None:
    assert result([1] * 5, [1] * 5, [0.5] * 5).doubts() == []


def test_a_busy_machine_before_one_round_makes_the_row_invalid() -> None:
    doubts = result([1] * 5, [1] * 5, [0.1, 0.51, 0.1, 0.1, 0.1]).doubts()
    assert doubts == ["load average 0.51 before a round; at most 0.5 is allowed"]


def test_the_side_with_fewer_rounds_counts() -> None:
    assert result([1] * 5, [1] * 4).doubts() == ["4 rounds; 5 are needed"]


def test_a_failed_row_is_not_valid() -> None:
    row = result([1] * 5, [1] * 5)
    row.failed(2, RuntimeError("process 2 of ours has ended"))
    row.failed(3, RuntimeError("process 1 of ours has ended"))
    assert row.doubts() == ["failed: round 3: RuntimeError: process 2 of ours has ended"]


def test_a_busy_machine_before_one_turn_makes_the_row_invalid() -> None:
    row = result([1] * 5, [1] * 5)
    row.busy = [0.15, 0.02]
    assert row.doubts() == []
    row.busy.append(0.4)
    assert row.doubts() == ["processors were 40% busy before a turn; at most 15% is allowed"]


def test_memory_is_judged_by_the_largest_of_all_rows_of_a_round() -> None:
    small, large = result([1, 1], [1, 1]), result([1, 1], [1, 1])
    small.sides["ours"] = [measured(1, peak_mib=40), measured(1, peak_mib=60)]
    large.sides["etcd"] = [measured(1, peak_mib=400), measured(1, peak_mib=100)]
    whole = peak_of_rounds([small, kills([1], [1]), large])
    assert whole is not None
    assert whole.ratio(VALUES["peak_anonymous_memory"]) == Spread(0.35, 0.1, 0.6)
    assert memory_summary([small, large])["ratio"] == {"median": 0.35, "low": 0.1, "high": 0.6}
    assert memory_summary([result([], []), kills([1], [1])]) == {}


def test_failovers_are_compared_by_median_and_worst() -> None:
    found = kills([0.4, 0.5, 0.9], [1.0, 1.0, 1.8])
    assert found.ratios() == (0.5, 0.5)
    assert found.doubts() == ["3 kills; 20 are needed"]
    assert kills([0.5] * 20, [1.0] * 20).doubts() == []
    assert kills([0.5], []).ratios() is None


def test_the_summary_is_json_with_the_ratios() -> None:
    read = json.loads(json.dumps(result([10] * 5, [20] * 5, [0.2] * 5).summary()))
    assert read["ratios"]["rate"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert read["doubts"] == []
    assert len(read["sides"]["ours"]) == 5
    read = json.loads(json.dumps(kills([0.5], [1.0]).summary()))
    assert read["ratios"] == {"of_medians": 0.5, "of_worst": 0.5}


def test_the_table_says_what_is_not_valid() -> None:
    lines = list(table([result([1000], [2000]), kills([0.5], [1.0])]))
    assert any(row.startswith("| 8 writers | 1,000 /s | etcd: 2,000 /s | 0.50") for row in lines)
    assert any(row.startswith("| a kill | 1 | 0.50 (0.50 to 0.50)") for row in lines)
    assert "NOT VALID: put-8: 1 rounds; 5 are needed" in lines
    assert "NOT VALID: failover: 1 kills; 20 are needed" in lines


def test_each_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    alone = Result("put-tree", "a tree", "", {"ours": [Measured(10, 5.0)]})
    failed = Result("put-1", "1 writer", "etcd", {"ours": [], "etcd": []}, failure="no quorum")
    rows = [result([1], [2]), alone, failed, kills([], [])]
    cells = 0
    for row in table(rows):
        if not row.startswith("|"):
            cells = 0
            continue
        cells = cells or row.count("|")
        assert row.count("|") == cells
    assert "no quorum" in line(failed)
    assert line(alone).startswith("put-tree: ours 5 /s;")


def test_rows_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert choose("") == list(ROWS)
    assert [row.name for row in choose("failover, put-64")] == ["put-64", "failover"]
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_an_unknown_row_is_an_error_that_names_all_rows() -> None:
    with pytest.raises(ValueError, match=r"unknown: put-7; the rows are put-1, put-8, "):
        choose("put-8,put-7")


def test_the_side_that_begins_changes() -> None:
    assert [in_turns(("ours", "etcd"), number)[0] for number in range(3)] == [
        "ours",
        "etcd",
        "ours",
    ]


async def test_a_round_waits_for_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "POLL_S", 0.0)
    loads = [3.0, 0.6, 0.5]
    calm = machine.Calm(Progress(1), load=lambda: loads.pop(0))
    assert await calm.before_round() == 0.5
    assert loads == []


async def test_the_wait_for_an_idle_machine_is_bounded() -> None:
    """The round is measured all the same, and its load makes the row invalid."""
    calm = machine.Calm(Progress(1), hurry=True, load=lambda: 3.0)
    assert await calm.before_round() == 3.0


async def test_a_turn_waits_for_idle_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "POLL_S", 0.0)
    times = [(0, 0), (50, 100), (50, 100), (140, 200)]
    calm = machine.Calm(Progress(1), times=lambda: times.pop(0))
    assert await calm.before_turn() == pytest.approx(0.1)
    assert times == []


async def test_the_wait_for_idle_processors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "POLL_S", 0.0)
    times = [(0, 0), (50, 100)]
    calm = machine.Calm(Progress(1), hurry=True, times=lambda: times.pop(0))
    assert await calm.before_turn() == 0.5


def test_progress_shows_a_step_once_if_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = Progress(4)
    for left in (9, 8, 7):
        progress.show("waiting", f"({left} s more)")
    progress.reach(2)
    progress.show("put-8: 1 of 2, ours")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[0/4] waiting"
    assert second.startswith("[2/4, about 0 min left] put-8")


class ScriptedWriter:
    """Each try gives the next answer. `killed` is done before the try with this number."""

    def __init__(self, answers: list[bool], kill_before: int) -> None:
        self.answers = answers
        self.tries = 0
        self._kill_before = kill_before
        self.killed: asyncio.Future[tuple[float, float]] = (
            asyncio.get_running_loop().create_future()
        )

    async def tried(self) -> bool:
        if self.tries == self._kill_before:
            now = time.monotonic()
            self.killed.set_result((now, now))
        self.tries += 1
        return self.answers.pop(0)


async def test_a_write_that_was_under_way_at_the_kill_does_not_count() -> None:
    """The old leader may have acknowledged it."""
    writer = ScriptedWriter([True, True, True, True], kill_before=1)
    seconds = await failover.next_write(writer, writer.killed)
    assert writer.tries == 3
    assert seconds >= 0


async def test_a_failed_try_is_followed_by_others_of_the_same_write() -> None:
    writer = ScriptedWriter([True, False, False, True, False, True], kill_before=1)
    seconds = await failover.next_write(writer, writer.killed)
    assert writer.tries == 6
    assert seconds >= 3 * failover.PAUSE_S


def test_a_directory_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    """Else the packages of this checkout would be measured twice."""
    with pytest.raises(ValueError, match=r"can't be imported|in its place"):
        trees.older_version(tmp_path)
