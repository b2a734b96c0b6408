"""The new volume of an import or a restore: it is staged completely, then moved into place.

All staged files are durable before the first move. Blobs move first, then the state, and the log
last, because the volume exists once the log's identity is in place. After a crash, the volume is
still new, or the import is complete: `storage.volume` deletes blobs and states that no log names.
"""

import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from partition_replica.core.payloads import blob_digests
from partition_replica.errors import (
    Damaged,
    ImportRefused,
    StorageFailed,
    VolumeBusy,
    VolumeTaken,
)
from partition_replica.ids import MemberID
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import (
    VolumeLock,
    disk,
    empty_directory,
    fatal_on_failure,
    make_directory,
    move_file,
    sync_directory,
)
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.log.tables import holds_nothing
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.volume import IMPORT, SNAPSHOT_BASE, SNAPSHOTS

logger = logging.getLogger(__name__)

LOG, STATE, BLOBS, STAGING = "log", "state", "blobs", "staging"
GENERATION = "1"

_OURS = frozenset({LOG, f"{LOG}.new", STATE, BLOBS, STAGING, "lock"})
# Stored snapshots do not depend on a log: they may exist before it and outlive it.
_ANYBODYS = frozenset({"lost+found", SNAPSHOTS, SNAPSHOT_BASE})


class NewVolume:
    """The volume at `data`, locked while the context lasts. `move_into_place` turns the files in
    `staged` into the volume. Without that call, the exit restores what was there before; only a
    file `lock` stays in a directory that existed.

    The caller fills staged/log, staged/state/<generation> and staged/blobs/xx/<hex>. `member` is
    the volume's member ID, or a new one if the volume has no log. `action` names the caller in
    messages: "an import" or "a restore".
    """

    def __init__(self, data: Path, action: str = "an import") -> None:
        self._action = action
        self._data = data
        self._space = VolumeSpace(data)
        self._before: set[str] | None = None
        self._lock = VolumeLock(data)
        self._created = self._staging = self._complete = False
        self.staged = data / STAGING / IMPORT
        self.member = MemberID(secrets.randbits(62) + 1)

    def __enter__(self) -> Self:
        """Raises ImportRefused if the volume is not new (VolumeTaken if it belongs to a group,
        VolumeBusy if another process uses it), StorageFailed."""
        if self._data.exists():
            self._check_names()  # before our own lock file is among them
        elif not self._data.parent.is_dir():
            raise ImportRefused(f"{self._data.parent} is not a directory: create it, or mount it")
        else:
            self._create()
            self._created = True
        if not self._lock.try_acquire():
            raise VolumeBusy(
                f"another process uses the volume {self._data}: stop it, then try again"
            )
        try:
            # Under the lock. Its file stays, because another process may wait for it.
            self._before = self._names()
            self._check_new()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._leave()
        except StorageFailed as failed:
            if error is None:
                raise
            # The first error is the one to report. As after a crash, the volume is still new, and
            # the next import or restore cleans it.
            logger.warning("the files of %s could not all be removed: %s", self._action, failed)

    def free_bytes(self) -> int:
        """The bytes that this process may still write to the volume's file system."""
        return self._space.free_bytes()[0]

    def stage(self) -> None:
        """Makes the empty staging directories; removes what an earlier import left in them."""
        self._staging = True
        self._drop_remains()
        empty_directory(self._data / STAGING)
        for path in (self.staged, self.staged / STATE, self.staged / BLOBS):
            make_directory(path)

    def move_into_place(self) -> None:
        """Moves the staged files into place, durably. The caller has made them durable, with their
        names."""
        reach("import.staged")
        blobs, states = self._data / BLOBS, self._data / STATE
        make_directory(blobs)
        for directory in sorted((self.staged / BLOBS).iterdir()):
            _move_directory(directory, blobs / directory.name)
        sync_directory(blobs)
        reach("import.blobs_moved")
        # The volume belongs to no group, so an existing state is a leftover.
        empty_directory(states)
        move_file(self.staged / STATE / GENERATION, states / GENERATION, "a state")
        sync_directory(states)
        reach("import.state_moved")
        log = self._data / LOG
        if log.exists():
            move_file(log, self._earlier_log, "an empty log")
        move_file(self.staged / LOG, log, "a log")
        self._complete = True
        sync_directory(self._data)
        reach("import.log_moved")

    @property
    def _earlier_log(self) -> Path:
        return self.staged / "earlier-log"

    def _create(self) -> None:
        try:
            make_directory(self._data)
        except StorageFailed:
            with suppress(OSError):
                self._data.rmdir()
            raise

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self._data))
        except OSError as error:
            raise ImportRefused(
                f"the volume {self._data} cannot be listed ({error.strerror}): give an empty "
                "directory that this user can read, or one that does not exist"
            ) from error

    def _check_names(self) -> None:
        for name in sorted(self._names() - _OURS - _ANYBODYS):
            raise ImportRefused(
                f"the volume {self._data} contains {name!r}; {self._action} writes to a new volume "
                "only: give an empty directory, or one that does not exist"
            )

    def _check_new(self) -> None:
        self._check_names()
        if not (self._data / LOG).exists():
            self._check_no_log()
            return
        try:
            log = LmdbLog(self._data / LOG, self.member, blob_digests, read_only=True)
        except (Damaged, StorageFailed) as error:
            # A replica creates the tables before it writes the identity, and may have been
            # interrupted in between.
            with suppress(Damaged, StorageFailed):
                if holds_nothing(self._data / LOG):
                    return
            raise ImportRefused(
                f"the log of the volume {self._data} cannot be read ({error}), so the volume may "
                "not be new: give another directory"
            ) from error
        try:
            identity, last = log.identity, log.last.index
            founded = bool(log.boundary.index or identity.standalone)
        finally:
            log.close()
        if identity.cluster_id or last:
            raise VolumeTaken(
                f"the volume {self._data} belongs to cluster ID {identity.cluster_id or '(none)'} "
                f"and its log ends at {last}; {self._action} writes to a new volume only: give an "
                "empty directory, or one that does not exist",
                identity.cluster_id,
                last,
                founded=founded,
            )
        self.member = identity.member_id

    def _check_no_log(self) -> None:
        # The same rule as in `storage.volume`: the files of an interrupted import are still staged.
        states = self._data / STATE
        if states.exists() and any(states.iterdir()) and not self.staged.exists():
            raise ImportRefused(
                f"the volume {self._data} has a state and no log: the log is lost, so the volume "
                "is not new; keep it, and give another directory"
            )

    def _leave(self) -> None:
        try:
            if self._complete:
                shutil.rmtree(self.staged, ignore_errors=True)
            else:
                self._take_back()
        finally:
            self._lock.release()

    def _take_back(self) -> None:
        if self._created:
            with fatal_on_failure(f"removing {self._data}"):
                disk.remove_tree(self._data)
            return
        if self._before is None:
            return  # nothing was changed yet
        if self._staging:
            if self._earlier_log.exists() and not (self._data / LOG).exists():
                move_file(self._earlier_log, self._data / LOG, "an empty log")
            self._drop_remains()
        with fatal_on_failure("removing what an import staged"):
            if self._staging and self.staged.exists():
                disk.remove_tree(self.staged)
            for name in (self._names() - self._before) & _OURS:
                path = self._data / name
                if path.is_dir():
                    disk.remove_tree(path)
                else:
                    disk.remove(path)

    def _drop_remains(self) -> None:
        """Removes the state of an interrupted import, before its staged files: _check_no_log needs
        these as long as the state exists."""
        if (self._data / STATE).exists() and not (self._data / LOG).exists():
            empty_directory(self._data / STATE)
            sync_directory(self._data / STATE)


def _move_directory(source: Path, target: Path) -> None:
    """Moves a directory of blobs, in one step if the target does not exist. That step is durable
    once the caller syncs the target's parent; blobs that are moved one by one are durable when this
    returns."""
    if not target.exists():
        move_file(source, target, "a directory of blobs")
        return
    # The target is left of an interrupted move, or of a volume that was once in use.
    for blob in sorted(source.iterdir()):
        move_file(blob, target / blob.name, "a blob")
    sync_directory(target)
