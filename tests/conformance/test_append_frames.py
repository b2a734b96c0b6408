"""AppendFrames: many proposals in a message, each answered once, by its sequence."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import FRAME_BYTES_MAX, FRAME_PROPOSALS_MAX, Limits
from partition_replica.runtime.serving.append_frames import SLICE_OPERATIONS
from partition_replica.storage.blobs import Digest

from tests.support.frame_streams import content, ended, streaming
from tests.support.proposals import delete_key, link, mkdir, payload, set_key
from tests.support.served_replica import served

WITHIN_S = 30.0


async def test_a_frame_is_appended_in_order_and_answered_in_ranges(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (here, stream):
        await stream.send(1, *(content(set_key(b"k%03d" % n, b"v")) for n in range(300)))
        await stream.answers(300)
        lsns = [stream.appended[sequence][0] for sequence in range(1, 301)]
        assert lsns == list(range(lsns[0], lsns[0] + 300))
        assert stream.messages < 10, "one answer for many"
        await stream.send(301, content(delete_key(b"k000")), wait_applied=True, below=301)
        await stream.answers(301)
        await here.eventually(
            lambda: here.one.keys() == [b"k%03d" % n for n in range(1, 300)], "all is applied"
        )


async def test_the_log_holds_the_bytes_that_were_sent(tmp_path: Path) -> None:
    """Also those that this version's protobuf would write in another order."""
    odd = (
        content(set_key(b"b", b"2"))
        + content(set_key(b"a", b"1"))
        + types.Proposal(preconditions=[types.Precondition(key_absent=b"a")]).SerializeToString()
    )
    async with streaming(tmp_path) as (here, stream):
        await stream.send(1, odd, wait_applied=True)
        await stream.answers(1)
        lsn = stream.appended[1][0]
        (entry,) = here.one.volume.log.read(lsn, lsn + 1, None)
        assert odd in entry.data
        await here.eventually(lambda: here.one.keys() == [b"a", b"b"], "all is applied")
        # A retry of the same bytes is the same append.
        await stream.send(2, odd, below=1)
        await stream.answers(2)
        await stream.send(1, odd, retry=True)
        first = stream.appended.pop(1)
        await stream.answers(2)
        assert stream.appended[1] == first


async def test_what_is_wrong_is_refused_by_its_sequence_and_the_rest_is_written(
    tmp_path: Path,
) -> None:
    async with streaming(tmp_path) as (here, stream):
        await stream.send(
            1,
            content(set_key(b"a", b"1")),
            content(set_key(b"", b"1")),
            b"\xff\xff",
            content(set_key(b"big", bytes(600_000))),
            content(mkdir(b"../x")),
            content(link(b"f"), payloads=[payload(b"x" * 70_000)]),
            content(set_key(b"b", b"2")),
        )
        await stream.answers(7)
        assert sorted(stream.appended) == [1, 7]
        reasons = {
            sequence: types.Reason.Name(error.reason) for sequence, error in stream.refused.items()
        }
        assert reasons == {
            2: "REASON_INVALID_ARGUMENT",
            3: "REASON_INVALID_ARGUMENT",
            4: "REASON_INVALID_ARGUMENT",
            5: "REASON_INVALID_ARGUMENT",
            6: "REASON_PAYLOAD_MISSING",
        }
        await here.eventually(lambda: here.one.keys() == [b"a", b"b"], "all is applied")


async def test_content_can_not_name_another_session(tmp_path: Path) -> None:
    """Of a field that is there twice protobuf takes the last one: it must be the leader's."""
    forged = types.Proposal(session_id=1, sequence=9, acknowledged_below=9).SerializeToString()
    zeros = b"\x08\x00\x10\x00\x18\x00"
    async with streaming(tmp_path) as (here, stream):
        for first, extra in ((1, forged), (2, zeros)):
            await stream.send(first, content(set_key(b"k%d" % first, b"v")) + extra)
        await stream.answers(2)
        for sequence in (1, 2):
            lsn = stream.appended[sequence][0]
            (entry,) = here.one.volume.log.read(lsn, lsn + 1, None)
            proposal = types.EntryBody.FromString(entry.data).proposal
            assert (proposal.session_id, proposal.sequence) == (here.one.session, sequence)
            assert proposal.acknowledged_below == 1
        await here.eventually(lambda: here.one.keys() == [b"k1", b"k2"], "all is applied")


async def test_large_payloads_of_a_frame_wait_for_their_upload(tmp_path: Path) -> None:
    found = payload(b"y" * 100_000)
    async with streaming(tmp_path) as (here, stream):
        data = b"y" * 100_000

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        await here.one.replica.applications.upload(found.digest, len(data), chunks())
        proposal = content(link(b"f"), payloads=[found])
        await stream.send(1, content(set_key(b"a", b"1")), proposal, wait_applied=True)
        await stream.answers(2)
        assert sorted(stream.appended) == [1, 2]
        assert here.one.volume.blobs.size(Digest(found.digest)) == len(data)
        assert here.one.volume.state.get_tree_entry(b"f")[0] is not None


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        ({"proposals": []}, "has 0 proposals"),
        ({"proposals": [b""] * (FRAME_PROPOSALS_MAX + 1)}, "4097 proposals"),
        ({"proposals": [bytes(FRAME_BYTES_MAX // 2 + 1)] * 2}, "allowed are 2097152"),
        ({"first_sequence": 0, "proposals": [b""]}, "sequence is 0"),
        ({"first_sequence": 4096, "proposals": [b"", b""]}, "or more above"),
        ({"first_sequence": 3, "acknowledged_below": 4, "proposals": [b""]}, "is below"),
        ({"session_id": 0, "proposals": [b""]}, "session_id is 0"),
        (
            {
                "first_sequence": 2**64 - 2,
                "acknowledged_below": 2**64 - 2,
                "proposals": [b"", b""],
            },
            "above the highest one",
        ),
    ],
)
async def test_a_frame_against_the_rules_ends_the_stream(
    tmp_path: Path, frame: dict[str, Any], what: str
) -> None:
    async with streaming(tmp_path) as (here, stream):
        sound = {"session_id": here.one.session, "first_sequence": 1, "acknowledged_below": 1}
        await stream.call.write(api.AppendFrame(**(sound | frame)))
        error = await ended(stream)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert what in str(error.details())
        assert here.one.keys() == []


async def test_another_session_or_a_sequence_that_is_under_way_ends_the_stream(
    tmp_path: Path,
) -> None:
    async with streaming(tmp_path) as (here, stream):
        await stream.send(1, content(set_key(b"a", b"1")))
        await stream.answers(1)
        await stream.send(2, content(set_key(b"b", b"1")), session_id=here.one.session + 1)
        assert "another stream for another session" in str((await ended(stream)).details())
        await here.eventually(lambda: here.one.keys() == [b"a"], "all is applied")


async def test_a_sequence_twice_in_the_same_moment_is_told_apart(tmp_path: Path) -> None:
    """Two answers to one sequence could not be."""
    async with streaming(tmp_path) as (here, stream):
        here.one.replica.member.loop._writer._log = Stuck(here.one.replica.member.loop._writer._log)
        await stream.send(1, content(set_key(b"a", b"1")))
        await stream.send(1, content(set_key(b"a", b"1")))
        error = await ended(stream)
        assert "was sent on this stream and is not answered" in str(error.details())


class Stuck:
    """A log whose disk takes its time."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def commit(self, batch: Any) -> Any:
        import time

        time.sleep(0.3)
        return self._log.commit(batch)


async def test_used_and_acknowledged_sequences_are_refused(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (_, stream):
        five = [content(set_key(b"k", b"%d" % n)) for n in range(5)]
        await stream.send(1, *five, wait_applied=True)
        await stream.answers(5)
        await stream.send(6, content(set_key(b"k", b"5")), below=4, wait_applied=True)
        await stream.answers(6)
        done = dict(stream.appended)
        stream.appended.clear()
        # Under one that is above the mark: 2 is acknowledged, 4 was used with other content.
        await stream.send(2, content(set_key(b"k", b"1")), below=1)
        await stream.send(4, content(set_key(b"k", b"other")), below=1)
        await stream.send(5, content(set_key(b"k", b"4")), below=1)
        await stream.answers(3)
        assert stream.appended[5] == done[5]
        reasons = {s: types.Reason.Name(e.reason) for s, e in stream.refused.items()}
        assert reasons == {2: "REASON_SEQUENCE_ACKNOWLEDGED", 4: "REASON_SEQUENCE_REUSED"}


async def test_all_streams_share_a_limit(tmp_path: Path) -> None:
    limits = replace(Limits(), append_bytes_total_max=10_000)
    async with streaming(tmp_path, limits) as (_, stream):
        await stream.send(1, content(set_key(b"k", bytes(20_000))), content(set_key(b"k", b"v")))
        await stream.answers(2)
        assert {e.reason for e in stream.refused.values()} == {types.REASON_OVERLOADED}
        await stream.send(1, content(set_key(b"k", b"v")))
        stream.refused.clear()
        await stream.answers(1)
        assert sorted(stream.appended) == [1]


async def test_another_history_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (here, stream):
        await stream.send(1, content(set_key(b"a", b"1")), history_id="other")
        await stream.answers(1)
        assert stream.refused[1].reason == types.REASON_WRONG_HISTORY
        assert stream.refused[1].history_id == here.one.replica.applications.history()
        await stream.send(1, content(set_key(b"a", b"1")))  # the stream belongs to the other one
        stream.refused.clear()
        await stream.answers(1)
        assert here.one.keys() == []


async def test_a_stream_that_is_left_is_over_for_the_replica(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (here, stream):
        await stream.send(1, content(set_key(b"a", b"1")))
        await stream.answers(1)
        assert here.streams["AppendFrames"] == 1
        stream.call.cancel()
        await here.eventually(lambda: not here.streams["AppendFrames"], "its place is free")


async def test_bytes_that_are_no_frame_end_the_stream(tmp_path: Path) -> None:
    """With a code that tells the sender not to try again."""
    async with served(tmp_path / "data", Limits()) as here:
        async with grpc.aio.insecure_channel(here.address) as channel:
            call = channel.stream_stream(
                "/logstore.v1.LogStore/AppendFrames",
                request_serializer=bytes,
                response_deserializer=bytes,
            )()
            await call.write(b"\x3a\x02\xff\xff")  # history_id, not UTF-8
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async with asyncio.timeout(WITHIN_S):
                    await call.read()
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_other_tasks_run_while_a_frame_is_checked(tmp_path: Path) -> None:
    """Ticks and heartbeats, for example: a frame may have 2 MiB of operations."""
    async with streaming(tmp_path) as (here, stream):
        one = here.one
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        taken: list[int] = []
        propose = one.replica.member.loop.propose

        def noted(batch: Any) -> int:
            taken.append(turns)
            return int(propose(batch))

        one.replica.member.loop.propose = noted
        counting = asyncio.create_task(count())
        many = content(*(delete_key(b"k") for _ in range(SLICE_OPERATIONS)))
        await stream.send(1, *[many] * 8)
        await stream.answers(8)
        counting.cancel()
        assert len(taken) == 8
        assert all(later > earlier for earlier, later in pairwise(taken))


async def test_of_a_frame_that_does_not_fit_the_first_ones_are_taken(tmp_path: Path) -> None:
    """Otherwise large frames would starve beside small ones."""
    async with streaming(tmp_path, replace(Limits(), proposals_queued_max=100)) as (_, stream):
        await stream.send(1, *(content(set_key(b"k%d" % n, b"v")) for n in range(250)))
        await stream.answers(250)
        assert len(stream.appended) >= 100
        assert sorted(stream.appended) == list(range(1, len(stream.appended) + 1))
        assert {e.reason for e in stream.refused.values()} == {types.REASON_OVERLOADED}


async def test_a_retry_of_a_frame_gets_the_first_answers(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (_, stream):
        proposals = [content(set_key(b"k%d" % n, b"v")) for n in range(10)]
        await stream.send(1, *proposals[:6], wait_applied=True)
        await stream.answers(6)
        first = dict(stream.appended)
        stream.appended.clear()
        await stream.send(1, *proposals, retry=True)
        await stream.answers(10)
        assert {s: stream.appended[s] for s in first} == first
        assert len({lsn for lsn, _, _ in stream.appended.values()}) == 10
