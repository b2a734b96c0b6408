"""One API server with etcd for all tests here; each test has a namespace of its own."""

import os
from collections.abc import Iterator

import pytest

from tests.support.api_server import ApiServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if os.geteuid() != 0:
        pytest.skip("replicas find each other by a hosts file that only root can mount")
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as found:
        yield found
