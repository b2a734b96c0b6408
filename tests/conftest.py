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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a cluster comes last: everything else answers sooner."""
    items.sort(key=lambda item: "cluster" in item.keywords)


@pytest.fixture
def group(tmp_path: Path) -> LocalGroup:
    """Three replicas with mutual TLS, not started."""
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 3)
    return LocalGroup(tmp_path, tls=tls, tls_directories=folders)
