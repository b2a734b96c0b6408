"""Fixtures: empty stores of either kind, a directory and a bucket of a real S3 server."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_snapshots.destination import DirectoryDestination

from dev.object_store import ObjectStoreServer
from tests.support.object_store import BUCKET, Place, s3_destination

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """One for all that leave it alone; whoever kills it starts its own."""
    server = ObjectStoreServer(tmp_path_factory.mktemp("s3"))
    server.make_bucket(BUCKET)
    with server:
        yield server


@pytest.fixture
def directory_place(tmp_path: Path) -> Place:
    return Place(DirectoryDestination(tmp_path / "store"), tmp_path / "store")


@pytest.fixture
def s3_place(s3_server: ObjectStoreServer) -> Place:
    prefix = f"shop/orders/{next(_prefixes)}"
    files = s3_server.buckets / BUCKET / prefix
    return Place(s3_destination(s3_server, prefix), files, s3_server)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty store of either kind."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found
