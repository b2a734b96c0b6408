"""The generations of a volume's state, in state/<n>, and the one in force.

A state transfer places a new generation beside the current one. The log's commit of the transfer
names it in the identity, and so puts it in force; the old one goes when nobody reads it any more.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.model import Identity
from partition_replica.storage.files import fatal_on_failure, make_directory, sync_directory
from partition_replica.storage.state import LmdbState


class StateGenerations:
    """`current` is read on the event loop and on the applier's thread, and replaced on the event
    loop, while the applier does nothing. `identity` says what the log names now."""

    def __init__(self, root: Path, identity: Callable[[], Identity]) -> None:
        """root: the folder of all generations. Nothing is read or made before `open`."""
        self._root = root
        self._identity = identity
        self._current: LmdbState | None = None
        self._last = 0

    def open(self) -> None:
        """Opens or makes the generation in force; others are removed. Raises Damaged,
        StorageFailed."""
        make_directory(self._root)
        self._drop_others()
        self._current = LmdbState(self._named())

    @property
    def current(self) -> LmdbState:
        assert self._current is not None, "open() is first"
        return self._current

    def history_of(self, state: LmdbState) -> str:
        """The ID of the history that a state of this volume belongs to: a restore gave the state
        its own, else the cluster's ID counts."""
        return state.history or str(self._identity().cluster_id)

    def path(self, generation: int) -> Path:
        return self._root / str(generation)

    def new(self) -> int:
        """A number that no generation has had since the process began: one that was placed may
        still be on its way to the log."""
        self._last = max(self._last, self._identity().state_generation) + 1
        return self._last

    def place(self, staged: Path, generation: int) -> None:
        """Moves a staged state to where its generation lies, durably; not yet in force."""
        target = self.path(generation)
        with fatal_on_failure("moving a transferred state into place"):
            shutil.rmtree(target, ignore_errors=True)
            os.replace(staged, target)
        sync_directory(self._root)

    def open_named(self) -> LmdbState:
        """Opens the generation that the log names now; `current` is still the one before."""
        return LmdbState(self._named())

    def replace(self, fresh: LmdbState) -> LmdbState:
        """Makes `fresh` the current one; returns the one before, which is still open."""
        old, self._current = self.current, fresh
        return old

    def drop(self, old: LmdbState) -> None:
        """Closes and removes the generation before. Nobody may read it any more."""
        old.close()
        self._drop_others()

    def reset(self) -> None:
        """Empties the state of a volume that belongs to no cluster: a bootstrap was interrupted."""
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
        # A volume that belongs to no cluster has no state: one that is there is left of a
        # bootstrap that was interrupted before the log named it.
        identity = self._identity()
        keep = str(identity.state_generation) if identity.cluster_id else ""
        with fatal_on_failure("removing an old state generation"):
            for child in self._root.iterdir():
                if child.name != keep:
                    shutil.rmtree(child)
