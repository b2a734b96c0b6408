"""Fixtures for all; and the rule that in CI nothing is skipped."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.local_group import PARTITION, LocalGroup

CI = os.environ.get("CI") == "true"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A skip needs a reason that the machine gives; in CI the machine has none."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"


SHARED = ("cluster", "apiserver")
"""Markers of tests that share one costly server for the whole run."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a server run in one worker, and begin first: they mostly wait, and the other
    workers use the processor meanwhile."""
    for item in items:
        for marker in SHARED:
            if marker in item.keywords:
                item.add_marker(pytest.mark.xdist_group(marker))
    items.sort(key=lambda item: not any(marker in item.keywords for marker in SHARED))


@pytest.fixture
def group(tmp_path: Path) -> LocalGroup:
    """Three replicas with mutual TLS, not started."""
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 3)
    return LocalGroup(tmp_path, tls=tls, tls_directories=folders)
