"""Any sequence of changes, publishes, deletions, collections and deaths at any point: each snapshot
that exists reads back as it was published, and nothing else is left after a collection. Against a
model that is a dictionary; on both kinds of store."""

import asyncio
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from partition_snapshots import failpoints
from partition_snapshots.collect import collect_garbage, delete_snapshots
from partition_snapshots.destination import DirectoryDestination
from partition_snapshots.model import Manifest, Row
from partition_snapshots.read import SnapshotReader, list_snapshots
from partition_snapshots.store import Store
from partition_snapshots.take import take_snapshot

from dev.object_store import ObjectStoreServer
from tests.support.object_store import (
    BUCKET,
    QUICK,
    Died,
    Mortal,
    Partition,
    Place,
    listed_objects,
    named_objects,
    s3_destination,
)

EXAMPLES = int(os.environ.get("SNAPSHOT_EXAMPLES", "12"))
OWNER = "member-1"

NUMBERS = st.integers(0, 7)
CRASHES = st.one_of(st.none(), st.integers(1, 40))
_serial = itertools.count()


def machine(  # noqa: C901  # the methods of the class count as branches
    server: ObjectStoreServer | None,
) -> type[RuleBasedStateMachine]:
    class Snapshots(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="snapshots-"))
            self.loop = asyncio.new_event_loop()
            if server is None:
                path = self.folder / "store"
                self.place = Place(DirectoryDestination(path), path)
            else:
                prefix = f"machine/{next(_serial)}"
                path = server.buckets / BUCKET / prefix
                self.place = Place(s3_destination(server, prefix), path, server)
            self.partition = Partition(self.folder / "volume")
            self.partition.keys[b"always"] = b"x" * 400
            # Published for certain; perhaps, for a death came after the manifest.
            self.there: dict[str, tuple[list[Row], list[tuple[bytes, int]]]] = {}
            self.perhaps: dict[str, tuple[list[Row], list[tuple[bytes, int]]]] = {}
            self.base = self.folder / "base" if server is not None else None

        def run(self, work: Coroutine[Any, Any, Any]) -> Any:
            return self.loop.run_until_complete(work)

        def until_death(self, crash: int | None, act: Any) -> bool:
            """Whether it lived."""

            async def whole() -> bool:
                store = Mortal(self.place.open())
                count = itertools.count(1)

                def hook(name: str) -> None:
                    if store.dead or next(count) == crash:
                        store.dead = True
                        raise Died(name)

                failpoints.hook = hook
                try:
                    await act(store)
                except Died:
                    return False
                finally:
                    failpoints.hook = lambda _: None
                return True

            lived: bool = self.run(whole())
            return lived

        @rule(key=NUMBERS, value=st.binary(max_size=60))
        def put_key(self, key: int, value: bytes) -> None:
            self.partition.keys[b"key-%d" % key] = value

        @rule(key=NUMBERS)
        def delete_key(self, key: int) -> None:
            self.partition.keys.pop(b"key-%d" % key, None)

        @rule(path=NUMBERS, content=NUMBERS)
        def put_blob(self, path: int, content: int) -> None:
            self.partition.put_blob(b"file-%d" % path, b"content %d" % content * 20)

        @rule(path=NUMBERS)
        def remove_file(self, path: int) -> None:
            self.partition.large.pop(b"file-%d" % path, None)

        @rule(number=NUMBERS, full=st.booleans(), crash=CRASHES)
        def publish(self, number: int, full: bool, crash: int | None) -> None:
            name = f"s{number}"
            self.partition.lsn += 1
            state = list(self.partition.rows()), self.partition.blobs()

            async def act(store: Store) -> None:
                await take_snapshot(
                    store,
                    self.partition.source(name),
                    self.partition.rows,
                    self.partition.blobs(),
                    self.partition.blob_path,
                    base_directory=self.base,
                    full=full,
                    owner=OWNER,
                    limits=QUICK,
                )

            lived = self.until_death(crash, act)
            if name in self.there:
                return
            if lived:
                # An earlier try that died after its manifest counts: the ID is the same.
                self.there[name] = self.perhaps.pop(name, state)
                self.settle(name, state)
            elif name not in self.perhaps:
                self.perhaps[name] = state
                self.settle_perhaps(name)

        def settle(self, name: str, state: Any) -> None:
            found = self.run(self.read(name))
            assert found in (self.there[name], state)
            self.there[name] = found

        def settle_perhaps(self, name: str) -> None:
            """After a death it is there, or isn't."""
            state = self.perhaps.pop(name)
            if name in self.run(self.ids()):
                self.there[name] = state

        @rule(numbers=st.sets(NUMBERS, max_size=4), crash=CRASHES)
        def delete(self, numbers: set[int], crash: int | None) -> None:
            names = [f"s{number}" for number in sorted(numbers)]
            lived = self.until_death(
                crash, lambda store: delete_snapshots(store, names, QUICK, owner=OWNER)
            )
            left = self.run(self.ids())
            assert not lived or not left & set(names)
            assert self.there.keys() - set(names) <= left
            self.there = {name: self.there[name] for name in left}

        @rule(crash=CRASHES)
        def collect(self, crash: int | None) -> None:
            if self.until_death(crash, lambda store: collect_garbage(store, QUICK, owner=OWNER)):
                self.run(self.nothing_left())

        async def nothing_left(self) -> None:
            store = self.place.open()
            assert await listed_objects(store) == await named_objects(store)
            names = self.place.names()
            assert {name.split("/")[0] for name in names} <= {"format.json", "objects", "snapshots"}

        async def ids(self) -> set[str]:
            return {one.snapshot_id for one in await list_snapshots(self.place.open())}

        async def read(self, name: str) -> tuple[list[Row], list[tuple[bytes, int]]]:
            store = self.place.open()
            found = {one.snapshot_id: one for one in await list_snapshots(store)}[name]
            assert isinstance(found, Manifest)
            reader = SnapshotReader(store, found)
            blobs = [blob async for blob in reader.blobs()]
            for digest, size in blobs:
                data = await store.get(f"objects/{digest.hex()[:2]}/{digest.hex()}", size)
                assert hashlib.sha256(data).digest() == digest
            return [row async for batch, _ in reader.rows() for row in batch], blobs

        @invariant()
        def every_snapshot_reads_back(self) -> None:
            assert self.run(self.ids()) == self.there.keys()
            for name, state in self.there.items():
                assert self.run(self.read(name)) == state

        def teardown(self) -> None:
            self.run(collect_garbage(self.place.open(), QUICK, owner=OWNER))
            self.run(self.nothing_left())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    return Snapshots


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_any_sequence(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("s3_server") if kind == "s3" else None
    run_state_machine_as_test(
        machine(server),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
