"""The chart's alerts, by promtool: each fires with the series of its fault, after its time, and
with nothing else."""

from collections import defaultdict
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from dev.prometheus import RULES, promtool
from tests.support.alert_cases import CASES, rules, unit_tests

Tests = list[dict[str, Any]]

pytestmark = pytest.mark.timeout(900)  # the first run builds promtool


def run(file: Path, rules_file: str, interval: str, wanted: Tests) -> CompletedProcess[str]:
    content = {"rule_files": [rules_file], "evaluation_interval": interval, "tests": wanted}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return promtool("test", "rules", str(file))


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(rules())


def test_the_rules_are_valid() -> None:
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_alert_fires_for_its_fault_alone(tmp_path: Path) -> None:
    by_interval = defaultdict(list)
    for test in unit_tests():
        by_interval[test["interval"]].append(test)
    assert sum(map(len, by_interval.values())) >= 2 * len(CASES)
    for interval, wanted in by_interval.items():
        found = run(tmp_path / f"{interval}.test.yaml", str(RULES), interval, wanted)
        assert found.returncode == 0, found.stdout + found.stderr


def test_a_rule_that_does_not_fire_fails_the_test(tmp_path: Path) -> None:
    broken = RULES.read_text().replace("(logstore_disk_full) == 1", "(logstore_disk_full) == 2")
    (tmp_path / "broken.yaml").write_text(broken)
    wanted = [test for test in unit_tests() if test["name"] == "PartitionDiskFull fires"]
    found = run(tmp_path / "broken.test.yaml", "broken.yaml", "1m", wanted)
    assert found.returncode != 0
    assert "PartitionDiskFull" in found.stdout + found.stderr
