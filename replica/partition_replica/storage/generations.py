"""The generations of a volume's state, in state/<n>, and the current one.

A state transfer places a new generation beside the current one. The log's commit of the transfer
makes it current, because it writes the number into the identity. The old generation is deleted once
it has no readers.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.model import Identity
from partition_replica.storage.files import fatal_on_failure, make_directory, sync_directory
from partition_replica.storage.state import LmdbState


class StateGenerations:
    """`current` is read on the event loop and on the applier's thread. It is replaced on the event
    loop, while the applier is idle. `identity` returns the log's current identity."""

    def __init__(self, root: Path, identity: Callable[[], Identity]) -> None:
        """root: the directory of all generations. Nothing is read or created before `open`."""
        self._root = root
        self._identity = identity
        self._current: LmdbState | None = None
        self._last = 0

    def open(self) -> None:
        """Opens or creates the current generation, and deletes all others. Raises Damaged,
        StorageFailed."""
        make_directory(self._root)
        self._drop_others()
        self._current = LmdbState(self._named())

    @property
    def current(self) -> LmdbState:
        assert self._current is not None, "open() is first"
        return self._current

    def history_of(self, state: LmdbState) -> str:
        """The history ID of a state of this volume: the one that a restore or an import gave the
        state, or else the cluster ID."""
        return state.history or str(self._identity().cluster_id)

    def path(self, generation: int) -> Path:
        return self._root / str(generation)

    def new(self) -> int:
        """A number that no generation has had since the process began. So it differs from that of
        a generation that is placed but not committed to the log yet."""
        self._last = max(self._last, self._identity().state_generation) + 1
        return self._last

    def place(self, staged: Path, generation: int) -> None:
        """Moves a staged state into its generation's directory, durably. It is not current yet."""
        target = self.path(generation)
        with fatal_on_failure("moving a transferred state into place"):
            shutil.rmtree(target, ignore_errors=True)
            os.replace(staged, target)
        sync_directory(self._root)

    def open_named(self) -> LmdbState:
        """Opens the generation that the log's identity names; `current` stays the previous one."""
        return LmdbState(self._named())

    def replace(self, fresh: LmdbState) -> LmdbState:
        """Makes `fresh` the current one; returns the previous one, which is still open."""
        old, self._current = self.current, fresh
        return old

    def drop(self, old: LmdbState) -> None:
        """Closes and deletes the previous generation. It must not have readers."""
        old.close()
        self._drop_others()

    def reset(self) -> None:
        """Empties the state of a volume that belongs to no group, after an interrupted
        bootstrap."""
        path = self.current.path
        self.current.close()
        with fatal_on_failure("removing a state"):
            shutil.rmtree(path)
        self._current = LmdbState(path)

    def close(self) -> None:
        self.current.close()

    def _named(self) -> Path:
        return self.path(self._identity().state_generation)

    def _drop_others(self) -> None:
        # A volume that belongs to no group has no state. One that exists is left of a bootstrap
        # that was interrupted before it was committed to the log.
        identity = self._identity()
        keep = str(identity.state_generation) if identity.cluster_id else ""
        with fatal_on_failure("removing an old state generation"):
            for child in self._root.iterdir():
                if child.name != keep:
                    shutil.rmtree(child)
