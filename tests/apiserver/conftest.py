"""One API server with etcd for all tests here; each test has a namespace of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer

FOLDER = Path(__file__).parent
LAST = "test_every_right_is_used"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if os.geteuid() != 0:
        pytest.skip("replicas find each other by a hosts file that only root can mount")
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as found:
        yield found


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Rights are compared after the other tests have used them, and only if all of them run."""
    before = [item for item in items if item.path.parent == FOLDER]
    yield
    here = [item for item in items if item.path.parent == FOLDER]
    last = next((item for item in here if item.name == LAST), None)
    if last is None:
        return
    items.remove(last)
    items.insert(
        max((items.index(item) for item in here if item is not last), default=-1) + 1, last
    )
    wanted = {item.nodeid for item in before if not item.get_closest_marker("long")}
    modules = {item.path for item in before}
    if wanted - {item.nodeid for item in here} or modules < set(FOLDER.glob("test_*.py")):
        last.add_marker(pytest.mark.skip(reason="compares rights after the whole folder has run"))
