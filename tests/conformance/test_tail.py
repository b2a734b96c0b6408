"""A tail goes where the log goes on: from a replica that has lost its leader to one that leads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from partition_client import AsyncClient
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.stand_in_replica import StandInReplica


class Replica(StandInReplica):
    """Has entries up to `last`; then it says that it has no leader, or waits where it leads."""

    def __init__(self, member: int, last: int) -> None:
        super().__init__()
        self.member = member
        self.last = last
        self.leads = True
        self.asked: list[int] = []

    async def GetStatus(self, request: Any, context: Any) -> Any:
        role = "leader" if self.leads else "follower"
        return api.GetStatusResponse(member_id=self.member, role=role, term=self.member)

    async def Read(self, request: api.ReadRequest, context: Any) -> AsyncIterator[api.ReadResponse]:
        self.asked.append(request.from_lsn)
        for lsn in range(request.from_lsn, self.last + 1):
            yield api.ReadResponse(lsn=lsn, term=1)
        if self.leads and self.member == 2:
            await asyncio.Event().wait()
        self.leads = False
        error = types.ErrorDetail(reason=types.REASON_NO_LEADER, message="no leader")
        details = (("logstore-error-bin", error.SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no leader", details)


async def test_a_tail_moves_from_a_replica_that_has_lost_its_leader() -> None:
    cut_off, leading = Replica(1, 3), Replica(2, 5)
    leading.leads = False
    async with cut_off.serving() as first, leading.serving() as second:
        client = AsyncClient([first, second])
        found = []
        async with aclosing(client.tail(1, follow=True)) as tail:  # type: ignore[type-var]
            async for entry in tail:
                found.append(entry.lsn)
                leading.leads = entry.lsn >= 3
                if len(found) == 5:
                    break
        await client.close()
    assert found == [1, 2, 3, 4, 5]
    assert leading.asked == [4]
