"""A file that can't be sent whole leaves nothing of itself in a bucket."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_snapshots.errors import SourceDamaged
from partition_snapshots.s3_files import WAIT, FileReader

CONTENT = b"0123456789" * 10
PART = 40


def other_content(path: Path) -> None:
    path.write_bytes(CONTENT[:-1] + b"x")


def longer(path: Path) -> None:
    path.write_bytes(CONTENT + b"x")


def shorter(path: Path) -> None:
    path.write_bytes(CONTENT[:-30])


@pytest.mark.parametrize("damage", [other_content, longer, shorter, Path.unlink])
async def test_the_part_under_way_is_waited_for_before_an_upload_is_given_up(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """obstore waits for it before it takes the next part, and aborts the upload at the error. A
    part that arrives after the abort would stay in some stores."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    damage(path)
    digest = hashlib.sha256(CONTENT).hexdigest()
    reader = FileReader(path, len(CONTENT), digest, PART, lambda _: None)
    given: list[bytes] = []
    with pytest.raises(SourceDamaged, match="the volume is damaged"):
        async for part in reader.parts():
            given.append(part)
    assert given[-1] == WAIT
    assert WAIT not in given[:-1]
    assert len(b"".join(given)) < len(CONTENT), "the last part is not given"
