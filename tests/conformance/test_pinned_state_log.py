"""A pinned state is of one history, and the log behind it stays until its reader has gone on."""

import asyncio
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, NotFound, PayloadSource, RequestRefused
from partition_client.errors import DeadlineExceeded, HistoryChanged, InvalidEndpoint
from partition_client.pinned_state import PinnedState
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_replica.errors import NoLeader, WrongHistory
from partition_replica.runtime.serving.applications import Applications

from dev.cluster.layout import ROOT
from tests.support.one_replica import CLUSTER, OneReplica
from tests.support.served_replica import QUICK, Served, served, serving_clients

TAKE = admin.StartSnapshotJobRequest(
    job_id="job",
    take=admin.TakeSnapshot(
        snapshot_id="s",
        uid="s",
        destination=admin.SnapshotDestination(volume=admin.VolumeDestination()),
    ),
)


async def lsns_behind(client: AsyncClient, state: PinnedState) -> list[int]:
    """Up to the present."""
    return [
        entry.lsn
        async for entry in client.tail(
            state.lsn + 1, stale_from=state.address, history=state.history
        )
    ]


async def write(here: Served, count: int) -> None:
    for number in range(count):
        await here.client.set_key(b"k", b"%d" % number)


# --- histories ----------------------------------------------------------------------------------


async def test_a_joining_replica_has_no_state_to_pin(tmp_path: Path) -> None:
    """Nor does it know its group's history."""
    one = OneReplica(tmp_path / "data", QUICK)
    try:
        await one.replica.administration.join(CLUSTER)
        async with serving_clients(one, QUICK) as here:
            # Not NotBootstrapped, which is final: the state comes, and others have one.
            with pytest.raises(NoLeader, match="has no state yet"):
                one.replica.applications.check_history("any")
            with pytest.raises(NoLeader, match="has no state yet"):
                one.replica.snapshot_jobs.start(TAKE)
            with pytest.raises(NoLeader, match="has no state yet"):
                async with one.replica.applications.pinned_state(linearizable=False, history=""):
                    pass
            hurried = AsyncClient([here.address], deadline_s=0.5, follow_hints=False)
            with pytest.raises(DeadlineExceeded, match="has no state yet"):
                async with hurried.state(stale_from=here.address):
                    pass
            await hurried.close()
            assert (here.copies, here.pinned) == ([], 0)
    finally:
        await one.stop()


async def test_the_copys_own_history_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's may become another one between the request and the copy."""
    async with served(tmp_path / "data") as here:
        with pytest.raises(WrongHistory) as raised:
            async with here.one.replica.applications.pinned_state(
                linearizable=False, history="another"
            ):
                pass
        assert raised.value.history == await here.client.history()
        assert (here.copies, here.pinned) == ([], 0)
        monkeypatch.setattr(Applications, "check_history", lambda *_, **__: None)
        with pytest.raises(HistoryChanged):
            async with here.client.state(history="another"):
                pass


async def test_a_linearizable_state_is_refused_by_a_leader_that_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that was left behind must not tell a client of its old history."""
    async with served(tmp_path / "data") as here:
        member = here.one.replica.member
        assert member is not None
        monkeypatch.setattr(member, "serving", False)
        hurried = AsyncClient([here.address], deadline_s=0.5, follow_hints=False)
        hurried._routing.leader = here.address
        with pytest.raises(DeadlineExceeded):
            async with hurried.state(history="another"):
                pass
        with pytest.raises(HistoryChanged):
            async with hurried.state(history="another", stale_from=here.address):
                pass
        await hurried.close()


# --- the log ------------------------------------------------------------------------------------


async def test_the_log_goes_on_where_the_state_ends_for_as_long_as_it_is_pinned(
    tmp_path: Path,
) -> None:
    async with served(tmp_path / "data") as here:
        log = here.one.volume.log
        await write(here, 1)
        async with here.client.state() as state:
            await write(here, 20)
            await here.eventually(lambda: log.first_stored == state.lsn + 1, "compacted up to it")
            expected = list(range(state.lsn + 1, log.last.index + 1))
            assert await lsns_behind(here.client, state) == expected
        await write(here, 1)
        await here.eventually(lambda: log.first_stored > state.lsn + 1, "compacted further")


async def test_a_state_that_is_too_far_behind_takes_no_other_ones_log(tmp_path: Path) -> None:
    async with served(tmp_path / "data", replace(QUICK, consumer_lag_entries_max=20)) as here:
        log = here.one.volume.log
        await write(here, 1)
        async with here.client.state() as old:
            await write(here, 15)
            async with here.client.state() as new:
                await write(here, 15)
                await here.eventually(
                    lambda: log.first_stored == new.lsn + 1, "compacted up to the newer one"
                )
                with pytest.raises(RequestRefused, match="COMPACTED"):
                    await lsns_behind(here.client, old)
                assert len(await lsns_behind(here.client, new)) == log.last.index - new.lsn
            # What it holds no more is no reason to keep what is behind it.
            await write(here, 1)
            await here.eventually(lambda: log.first_stored > new.lsn + 1, "compacted further")


async def test_a_state_stays_while_replication_is_switched_on(tmp_path: Path) -> None:
    """Another member takes over: the copy, its payloads and the log behind it stay."""
    large = b"large" * 50_000
    async with served(tmp_path / "data", standalone=True) as here:
        await here.client.put_file(b"f", PayloadSource.of_bytes(large))
        async with here.client.state() as state:
            before = here.one.replica.member
            await here.client.remove_file(b"f")
            assert not await here.one.replica.administration.enable_replication()
            await here.eventually(
                lambda: here.one.replica.member not in (None, before), "another member runs"
            )
            await write(here, 20)
            log = here.one.volume.log
            await here.eventually(lambda: log.boundary.index > state.lsn, "it is compacted")
            content: list[bytes] = []
            await state.read_file(b"f", content.append)
            assert b"".join(content) == large
            assert (await lsns_behind(here.client, state))[0] == state.lsn + 1
            async with here.client.state() as later:
                assert later.lsn > state.lsn


# --- consumers ----------------------------------------------------------------------------------


async def test_a_consumer_that_is_registered_in_the_block_keeps_the_log(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here:
        client, log, replica = here.client, here.one.volume.log, here.address
        await write(here, 3)
        async with client.state() as state:
            history = state.history
            for _ in range(2):  # the answer to the first try was lost
                found = await client.register_consumer(
                    "reader", state.lsn, replica=state.address, history=history
                )
            assert (found.consumer.name, found.consumer.lsn) == ("reader", state.lsn)
        await write(here, 20)
        await here.eventually(lambda: not here.copies, "the copy is gone")
        await here.eventually(lambda: log.first_stored == state.lsn + 1, "compacted up to it")
        lsns = await lsns_behind(client, state)
        assert lsns[0] == state.lsn + 1
        await client.acknowledge_consumer("reader", lsns[-1], replica=replica, history=history)
        listed = await client.list_consumers(replica=replica)
        assert [(one.name, one.lsn) for one in listed.consumers] == [("reader", lsns[-1])]
        await here.eventually(lambda: log.first_stored > lsns[0], "what it has goes")

        with pytest.raises(RequestRefused, match="COMPACTED"):
            await client.register_consumer("late", state.lsn, replica=replica)
        with pytest.raises(RequestRefused, match="INVALID_ARGUMENT"):
            await client.acknowledge_consumer("reader", state.lsn, replica=replica)
        with pytest.raises(HistoryChanged):
            await client.acknowledge_consumer("reader", lsns[-1], replica=replica, history="other")
        await client.remove_consumer("reader", replica=replica, history=history)
        with pytest.raises(NotFound):
            await client.remove_consumer("reader", replica=replica)
        # The leader is not asked instead of the replica that has the position.
        with pytest.raises(InvalidEndpoint):
            await client.list_consumers(replica="")


async def test_the_documented_example_works(tmp_path: Path) -> None:
    """As it stands in docs/client.md."""
    page = (ROOT / "docs" / "client.md").read_text().split("## Read the whole state")[1]
    found = re.search(r"\n\n((?: {4}.*\n)+)", page)
    assert found is not None
    source = "async def example(client, put, write, apply):\n" + found.group(1)

    class Done(Exception):
        pass

    keys: dict[bytes, bytes] = {}
    content: list[bytes] = []

    def apply(entry: Any) -> None:
        for operation in entry.body.proposal.operations:
            keys[operation.set_key.key] = operation.set_key.value
        if keys.get(b"end") == last:
            raise Done

    def put(key: bytes, value: bytes) -> None:
        keys[key] = value

    space: dict[str, Any] = {"NotFound": NotFound}
    exec(compile(textwrap.dedent(source), "docs/client.md", "exec"), space)
    async with served(tmp_path / "data") as here:
        log = here.one.volume.log
        for name in (b"f", b"g"):
            await here.client.put_file(name, PayloadSource.of_bytes(name))
        await here.client.set_key(b"a", b"1")
        for last in (b"1", b"2"):  # the second run finds the consumer of the first one
            keys.clear()
            content.clear()
            reading = asyncio.create_task(space["example"](here.client, put, content.append, apply))
            await here.eventually(
                lambda task=reading: task.done() or (keys and not here.copies), "it read the state"
            )
            await here.client.set_key(b"a", b"behind " + last)
            await here.client.set_key(b"end", last)
            with pytest.raises(Done):
                await asyncio.wait_for(reading, 30)
            assert (keys[b"a"], keys[b"end"]) == (b"behind " + last, last)
            assert content == [b"f", b"g"]
            (consumer,) = (await here.client.list_consumers(replica=here.address)).consumers
            assert consumer.lsn < here.one.volume.state.applied.index
            await write(here, 20)  # to what is compacted
            first = consumer.lsn + 1
            await here.eventually(lambda first=first: log.first_stored == first, "compacted")
