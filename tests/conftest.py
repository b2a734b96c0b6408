"""Fixtures for all; and the rule that in CI nothing is skipped."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Before its modules are imported: their assertions say as much as those of a test.
pytest.register_assert_rewrite("tests.support")

from tests.support import certificates  # noqa: E402
from tests.support.local_group import PARTITION, LocalGroup  # noqa: E402

CI = os.environ.get("CI") == "true"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A skip needs a reason that the machine gives; in CI the machine has none."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"


class Suites:
    """How long the tests of each suite took, setup and teardown included."""

    def __init__(self) -> None:
        self._took: Counter[str] = Counter()
        self._tests: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = "/".join(report.nodeid.split("/")[:2])
        self._took[suite] += report.duration
        self._tests[suite].add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        parts = [
            f"{suite} {seconds / 60:.1f} min ({len(self._tests[suite])})"
            for suite, seconds in self._took.most_common()
        ]
        terminalreporter.write_line("suites: " + ", ".join(parts))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers' reports come here
        config.pluginmanager.register(Suites(), "suites")


SHARED = ("tests/e2e/", "tests/apiserver/")
"""Folders whose tests share one costly server for the whole run."""


class Scheduling(LoadScopeScheduling):
    """Tests that share a server run in one worker; all others go where there is room."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in SHARED if nodeid.startswith(folder)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Not by xdist's own marks, which pytest from 9.2 on does not see."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a server begin first: they mostly wait, and the other workers use the
    processor meanwhile."""
    items.sort(key=lambda item: not item.nodeid.startswith(SHARED))


@pytest.fixture
def group(tmp_path: Path) -> LocalGroup:
    """Three replicas with mutual TLS, not started."""
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 3)
    return LocalGroup(tmp_path, tls=tls, tls_directories=folders)
