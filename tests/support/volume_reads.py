"""Reads of a volume, and what happens to it meanwhile."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import LogEntry, OpenedFile
from partition_replica.ids import LSN, Digest, Term
from partition_replica.runtime.serving.reads import Reads
from partition_replica.storage.volume import Volume

from tests.support.proposals import payload


def reads(volume: Volume) -> Reads:
    return Reads(
        volume.log,
        volume.states,
        volume.blobs,
        cast("Any", SimpleNamespace(running=SimpleNamespace)),
    )


def apply(volume: Volume, *operations: types.Operation, files: list[bytes] | None = None) -> None:
    """What the applier does with an entry, its collection included."""
    payloads = [payload(content) for content in files or []]
    imported = types.ImportedEntry(operations=operations, payloads=payloads)
    body = types.EntryBody(imported=imported)
    index = LSN(volume.state.applied.index + 1)
    entry = LogEntry(index, Term(1), 0, body.SerializeToString())
    _, released = volume.state.apply([entry], {})
    volume.garbage.collect(released)


def store(volume: Volume, content: bytes) -> None:
    digest = Digest(hashlib.sha256(content).digest())
    writer = volume.blobs.writer(digest, len(content))
    writer.write(content)
    writer.finish()


@contextmanager
def meanwhile(body: Any) -> Iterator[None]:
    """Runs `body` over and over on a thread; what it raises is raised here."""
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            while not stop.is_set():
                body()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


def content(opened: OpenedFile, found: Reads) -> bytes:
    try:
        got = opened.content
        return got if isinstance(got, bytes) else got.read_bytes()
    finally:
        found.close_file(opened)
