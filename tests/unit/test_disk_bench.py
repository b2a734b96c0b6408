"""`partition-replica bench-disk`: its figures, verdict and bounds, and that it leaves nothing."""

import itertools
import json
from pathlib import Path

import pytest
from partition_replica.__main__ import parse
from partition_replica.errors import InvalidArgument
from partition_replica.offline.commands import EXIT_REFUSED, run
from partition_replica.offline.volume import disk_bench
from partition_replica.offline.volume.disk_bench import GOOD, MIB, SLOW, TOO_SLOW, bench, report


@pytest.mark.parametrize(
    ("sync_ms", "mib_s", "verdict"),
    [
        (2, 200, GOOD),
        (10, 50, GOOD),
        (11, 200, SLOW),
        (2, 49, SLOW),
        (100, 10, SLOW),
        (101, 200, TOO_SLOW),
        (2, 9, TOO_SLOW),
        (11, 9, TOO_SLOW),
    ],
)
def test_the_worse_of_both_parts_is_the_verdict(sync_ms: int, mib_s: int, verdict: str) -> None:
    found = report([sync_ms / 1000] * 10, mib_s * 100 * MIB, 100.0)
    assert found.verdict == verdict
    assert found.fsync_p50_ms == found.fsync_p99_ms == found.fsync_max_ms == sync_ms
    assert found.write_mib_s == mib_s


def test_percentiles_are_those_of_all_syncs() -> None:
    found = report([n / 1000 for n in range(1, 102)], MIB, 1.0)
    assert (found.syncs, found.fsync_p50_ms, found.fsync_p99_ms) == (101, 51, 100)
    assert found.fsync_max_ms == 101


def test_time_and_bytes_are_bounded_and_nothing_is_left(tmp_path: Path) -> None:
    ticks = itertools.count()
    told: list[tuple[str, int, int]] = []
    found = bench(
        tmp_path, 10, 16 * MIB, lambda *one: told.append(one), clock=lambda: next(ticks) / 10
    )
    # The clock is read three times a sync, and 100 times in all.
    assert 30 <= found.syncs <= 34
    assert found.written_bytes == 16 * MIB
    assert list(tmp_path.iterdir()) == []
    assert told[-1] == ("write", 100, 100)
    assert ("fsync", 100, 100) in told
    slow = itertools.count()
    found = bench(tmp_path, 10, 64 * MIB, clock=lambda: next(slow) * 5)
    assert found.syncs == disk_bench.SAMPLES_MIN
    assert found.written_bytes < 16 * MIB


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not a directory"):
        bench(tmp_path / "absent")
    with pytest.raises(InvalidArgument, match="at least 16 MiB must be written"):
        bench(tmp_path, most_bytes=MIB)


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 30 * MIB

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    with pytest.raises(InvalidArgument, match=r"30 MiB are free.*at least 32 MiB"):
        bench(tmp_path)


def test_the_command_prints_a_report_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "report"
    words = ["bench-disk", f"--data={tmp_path}", "--seconds=1", "--mib=16", "--json"]
    assert run(parse([*words, f"--report={kept}"])) in (0, EXIT_REFUSED)  # type: ignore[arg-type]
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(kept.read_text())
    assert found["syncs"] >= 2
    monkeypatch.setattr(disk_bench, "FSYNC_P99_SLOW_MS", 0.0)
    monkeypatch.setattr(disk_bench, "FSYNC_P99_GOOD_MS", 0.0)
    assert run(parse(words[:-1])) == EXIT_REFUSED  # type: ignore[arg-type]
    assert "verdict          too slow" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "601", "x"])
def test_a_wrong_time_is_refused(seconds: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["bench-disk", f"--data={tmp_path}", f"--seconds={seconds}"])
    assert ended.value.code == 2
