"""The fence of a volume: a file that says that no replica may serve it.

While it is there, the process stays, answers nobody but the operator, and neither opens nor locks
the volume, so that a person can inspect it with the offline commands.
"""

import json
from dataclasses import asdict
from pathlib import Path

from partition_replica.core.model import Fence
from partition_replica.storage.files import (
    create_file,
    move_file,
    remove_file,
    sync_directory,
    sync_file,
    write_file,
)

NAME = "fence"
WHAT = "the fence"


def read_fence(root: Path) -> Fence | None:
    """Returns the fence of a volume, or None. A file that can't be understood fences, too: a person
    may have made it."""
    try:
        text = (root / NAME).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return Fence()
    try:
        found = json.loads(text)
        return Fence(
            transitions=int(found["transitions"]),
            holder=str(found["holder"]),
            cluster_id=str(found["cluster_id"]),
            member_id=int(found["member_id"], 16),
        )
    except (ValueError, TypeError, KeyError):
        return Fence()


def put_fence(root: Path, fence: Fence) -> None:
    """Fences a volume, durably. Raises StorageFailed."""
    body = asdict(fence) | {"member_id": f"{fence.member_id:x}"}
    staged = root / f"{NAME}.new"
    remove_file(staged, WHAT)
    with create_file(staged) as file:
        write_file(file, json.dumps(body).encode(), WHAT)
        sync_file(file.fileno(), WHAT)
    move_file(staged, root / NAME, WHAT)
    sync_directory(root)


def remove_fence(root: Path) -> None:
    """Removes the fence of a volume, durably. Does nothing if there is none. Raises
    StorageFailed."""
    if remove_file(root / NAME, WHAT):
        sync_directory(root)
