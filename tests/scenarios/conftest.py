"""Fixtures for scenarios."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.object_store import ObjectStoreServer
from tests.support.object_store import BUCKET


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    """A real S3 server with an empty bucket."""
    with ObjectStoreServer(tmp_path / "s3") as found:
        found.make_bucket(BUCKET)
        yield found
