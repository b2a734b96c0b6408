"""Compares the state with a replay of the log.

If the log is complete (it has all entries since the state was empty), a second state is built from
it and compared, table by table. Otherwise, for each key and path, the last stored entry that wrote
it is compared with the state. The table `unapplied` contains the operations without effect.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry, Position, TreeEntry
from partition_replica.core.paths import shown
from partition_replica.core.payloads import decode_body, payloads_of
from partition_replica.core.ports import FIRST, NOTHING
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Digest
from partition_replica.storage import codec
from partition_replica.storage.environment import lmdb_failures
from partition_replica.storage.key_table import SHORT_BYTES
from partition_replica.storage.log.reading import LogReader
from partition_replica.storage.state import LmdbState

PAGE_BYTES = 4 * 1024**2
PAGE_ENTRIES = 2048
"""The maximum bytes and entries that are read and replayed at a time, whichever comes first."""

ANY_FILE = object()
COMPARED = ("value", "tree", "payload", "content", "session", "result")


class Replay:
    """One comparison. `entries` counts the replayed entries; `unchecked` lists what was not
    compared, and why."""

    def __init__(
        self,
        log: LogReader,
        state: LmdbState,
        scratch: Path,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._log = log
        self._state = state
        self._scratch = scratch
        self._progress = progress
        self._base = log.base
        self.entries = 0
        self.unchecked: list[str] = []

    def check(self, find: Callable[[str], None]) -> None:
        """Calls `find` for each difference. Raises Damaged, Compacted if the log cannot be read."""
        log, applied = self._log, self._state.applied.index
        if self._base >= log.first_stored:
            self.unchecked.append(
                f"the state against a replay of entries up to {self._base}: it was imported as a "
                "base that includes them; only the last write of later entries to each key and "
                "path was checked"
            )
            self._check_backwards(applied, find)
            return
        if log.first_stored > applied:
            self.unchecked.append(
                f"the state against a replay: the log has no entry up to {applied}, the applied LSN"
            )
            return
        start = _start(log)
        if start is not None:
            self._rebuild(start, applied, find)
            return
        self.unchecked.append(
            f"the state against a replay from its start: the log begins at {log.first_stored}; "
            "only the last write of these entries to each key and path was checked"
        )
        self._check_backwards(applied, find)

    # --- whole --------------------------------------------------------------------------------

    def _rebuild(self, start: Position, applied: LSN, find: Callable[[str], None]) -> None:
        self._scratch.parent.mkdir(parents=True, exist_ok=True)
        rebuilt = LmdbState(self._scratch)
        try:
            if start.index:
                rebuilt.start(start, {})
            while rebuilt.applied.index < applied:
                batch = self._page(LSN(rebuilt.applied.index + 1), applied)
                rebuilt.apply(batch, {})
                self.entries += len(batch)
                self._progress("replay", self.entries, applied - start.index)
            if rebuilt.time_ms != self._state.time_ms:
                find(
                    f"the state's time is {self._state.time_ms} ms, a replay of the log gives "
                    f"{rebuilt.time_ms} ms"
                )
            if rebuilt.clock_ms != self._state.clock_ms:
                find(
                    f"the session clock is {self._state.clock_ms} ms, a replay of the log gives "
                    f"{rebuilt.clock_ms} ms"
                )
            for name in COMPARED:
                self._compare(name, rebuilt, find)
        finally:
            rebuilt.close()

    def _compare(self, name: str, rebuilt: LmdbState, find: Callable[[str], None]) -> None:
        """Compares a table row by row."""
        with self._state.environment.begin() as ours, rebuilt.environment.begin() as theirs:
            left, right = self._state.tables.rows(ours, name), rebuilt.tables.rows(theirs, name)
            one, other = next(left, None), next(right, None)
            while one is not None or other is not None:
                if one is not None and (other is None or one[0] < other[0]):
                    find(
                        f"row {_show(one[0])} of {name} is in the state, not in a replay of the log"
                    )
                    one = next(left, None)
                elif other is not None and (one is None or other[0] < one[0]):
                    find(
                        f"row {_show(other[0])} of {name} is in a replay of the log, not in the "
                        "state"
                    )
                    other = next(right, None)
                elif one is not None and other is not None:
                    if one[1] != other[1]:
                        find(f"row {_show(one[0])} of {name} differs from a replay of the log")
                    one, other = next(left, None), next(right, None)

    # --- in part ------------------------------------------------------------------------------

    def _check_backwards(self, applied: LSN, find: Callable[[str], None]) -> None:
        """Checks the entries from the last to the first: the first write that it meets is the last
        one."""
        seen = _Seen(self._scratch)
        first = LSN(max(self._log.first_stored, self._base + 1))
        end = applied
        try:
            while end >= first:
                page = self._log.read_back(first, end, PAGE_ENTRIES, PAGE_BYTES)
                for entry in page:
                    try:
                        self._check_entry(entry, seen, find)
                    except (Damaged, IndexError) as error:
                        find(f"log entry {entry.index} cannot be compared with the state: {error}")
                    self.entries += 1
                self._progress("replay", self.entries, applied - first + 1)
                end = LSN(page[-1].index - 1)
        finally:
            seen.close()

    def _check_entry(self, entry: LogEntry, seen: "_Seen", find: Callable[[str], None]) -> None:
        if entry.kind or not entry.data:
            return
        body = decode_body(entry)
        operations = (
            body.imported.operations if body.HasField("imported") else body.proposal.operations
        )
        note = self._state.unapplied(entry.index)
        if note is not None and note.whole:
            return
        outcomes = note.outcomes if note is not None else b""
        payloads = payloads_of(body)
        for number in range(len(operations) - 1, -1, -1):
            if outcomes and outcomes[number] != types.OUTCOME_APPLIED:
                continue
            difference = self._check_operation(operations[number], payloads, seen)
            if difference:
                find(f"log entry {entry.index}, operation {number + 1}: {difference}")

    def _check_operation(
        self, operation: types.Operation, payloads: Sequence[types.Payload], seen: "_Seen"
    ) -> str:
        """The difference between the state and the operation's result; "" if there is none."""
        key, path, expected = _left(operation, payloads)
        if key:
            if seen.first(b"k", key) and self._state.get_value(key)[0] != expected:
                return f"key {shown(key)} of the state differs from the operation's result"
        elif path and seen.first(b"p", path):
            node = self._state.get_tree_entry(path)[0]
            # If the link's source is a path, only the fact that the result is a file is known.
            is_file = node is not None and not node.directory
            if not is_file if expected is ANY_FILE else node != expected:
                return f"path {shown(path)} of the state differs from the operation's result"
        return ""

    # --- the log ------------------------------------------------------------------------------

    def _page(self, lo: LSN, last: LSN) -> list[LogEntry]:
        return self._log.read(lo, LSN(min(last, lo + PAGE_ENTRIES - 1) + 1), PAGE_BYTES)


class _Seen:
    """The set of names met so far, in an LMDB environment of its own."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self._environment = lmdb.Environment(str(path), map_size=1 << 40, sync=False, lock=False)

    def first(self, kind: bytes, name: bytes) -> bool:
        """Adds a name; returns whether it is new."""
        key = kind + name
        if len(name) > SHORT_BYTES:
            # A collision of SHA-256 would only hide one finding.
            key = kind.upper() + hashlib.sha256(name).digest()
        with lmdb_failures("the scratch directory"), self._environment.begin(write=True) as txn:
            return bool(txn.put(key, b"", overwrite=False))

    def close(self) -> None:
        self._environment.close()


def _start(log: LogReader) -> Position | None:
    """The position of the empty state, if the log has all entries since; otherwise None."""
    if log.base:
        return None
    if log.first_stored == 1:
        return NOTHING
    if log.first_stored == FIRST.index + 1 and log.boundary == FIRST:
        return FIRST
    return None


def _left(  # noqa: PLR0911  # a flat match over operations
    operation: types.Operation, payloads: Sequence[types.Payload]
) -> tuple[bytes, bytes, object]:
    """The result of an operation: (key, b"", its value or None) or (b"", path, its tree entry, None
    or ANY_FILE)."""
    match operation.WhichOneof("operation"):
        case "set_key":
            return operation.set_key.key, b"", operation.set_key.value
        case "delete_key":
            return operation.delete_key.key, b"", None
        case "create_directory":
            create = operation.create_directory
            return b"", create.path, TreeEntry(True, create.mode)
        case "remove_directory_entry":
            return b"", operation.remove_directory_entry.path, None
        case "create_hard_link":
            link = operation.create_hard_link
            if link.WhichOneof("source") != "payload":
                return b"", link.destination_path, ANY_FILE
            payload = payloads[link.payload - 1]
            node = TreeEntry(False, payload.mode, payload.size, Digest(payload.digest))
            return b"", link.destination_path, node
    return b"", b"", None


def _show(key: bytes) -> str:
    return shown(key) if key.isascii() else codec.shown_hex(key)
