"""Stores to run one suite on: a directory, and a bucket of a real S3 server."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from partition_snapshots.store import Store

from tests.support.object_store import Partition, Place
from tests.support.store_places import directory_place as directory_place  # a fixture
from tests.support.store_places import place as place  # a fixture
from tests.support.store_places import s3_place as s3_place  # a fixture
from tests.support.store_places import s3_server as s3_server  # a fixture


@pytest.fixture
async def store(place: Place) -> AsyncGenerator[Store, None]:
    opened = place.open()
    yield opened
    await opened.close()


@pytest.fixture
def partition(tmp_path: Path) -> Partition:
    return Partition.random(tmp_path / "volume", 5)
