"""A large payload travels to the other members while it arrives at the leader."""

import asyncio
import hashlib
from contextlib import suppress

import grpc
import pytest

from tests.support.half_way_uploads import CONTENT, DIGEST, HalfWay, Upload, blob, staged_bytes
from tests.support.half_way_uploads import half_way as half_way  # a fixture
from tests.support.local_group import eventually

PASSED_ON = "logstore_payloads_passed_on_total"


async def test_followers_have_the_half_that_the_leader_has(half_way: HalfWay) -> None:
    half_way.upload.go_on.set()
    assert len(await half_way.running) >= 2

    async def passed_on() -> bool:
        return half_way.leader.metric(PASSED_ON) == 2

    await eventually(passed_on, "both followers took it while it arrived")
    replicas = half_way.group.replicas
    assert {hashlib.sha256(blob(one).read_bytes()).digest() for one in replicas} == {DIGEST}
    for one in half_way.followers:
        assert one.metric("logstore_payload_bytes_total", direction="in") == len(CONTENT)


@pytest.mark.parametrize("who", ["the client", "the leader"])
async def test_what_is_cut_off_leaves_nothing(half_way: HalfWay, who: str) -> None:
    """And the payload arrives by a second upload, to whoever leads then."""
    if who == "the leader":
        half_way.leader.kill()
    else:
        half_way.running.cancel()
    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await half_way.running
    left = [one for one in half_way.group.replicas if one.running]

    async def clean() -> bool:
        return not any(staged_bytes(one) or blob(one).exists() for one in left)

    await eventually(clean, "no part of the payload is left")
    again = Upload(half_way.group, await half_way.group.leader())
    again.go_on.set()
    assert len(await again.run()) >= 2


async def test_a_follower_that_is_lost_half_way_is_no_hindrance(half_way: HalfWay) -> None:
    half_way.followers[0].kill()
    half_way.upload.go_on.set()
    assert len(await half_way.running) == 2
    assert blob(half_way.followers[1]).exists()
