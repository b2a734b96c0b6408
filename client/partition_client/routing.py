"""Which replica to ask: the leader as last heard of, found again where it is lost.

Endpoints are where the replicas are dialled. A replica's hint names the leader by member ID and its
own address; with port-forwards only the endpoints can be reached, so the member ID decides.
"""

import asyncio

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_client.channels import Tls, open_channel

STATUS_TIMEOUT_S = 1.0


class Routing:
    """Channels by address, and the leader's address."""

    def __init__(self, endpoints: list[str], tls: Tls | None, *, follow_hints: bool) -> None:
        """follow_hints: dial addresses that replicas name, too; else the endpoints alone."""
        if not endpoints:
            raise ValueError("endpoints is empty: name at least one replica as host:port")
        self.endpoints = list(dict.fromkeys(endpoints))
        self._tls = tls
        self._follow_hints = follow_hints
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._members: dict[int, str] = {}
        self.leader = ""

    def stub(self, address: str) -> log_store_pb2_grpc.LogStoreStub:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address, self._tls)
        return log_store_pb2_grpc.LogStoreStub(channel)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        self._channels.clear()

    def forget_leader(self) -> None:
        self.leader = ""

    def hint(self, leader: types.LeaderHint) -> None:
        """Takes a replica's word for who leads."""
        if leader.member_id in self._members:
            self.leader = self._members[leader.member_id]
        elif self._follow_hints and leader.address:
            self.leader = leader.address
        else:
            self.leader = ""

    async def find_leader(self) -> str:
        """The leader's address; "" where nobody says that it leads."""
        if self.leader:
            return self.leader
        statuses = await asyncio.gather(*(self.status(e) for e in self.endpoints))
        best_term, best = 0, ""
        hint = types.LeaderHint()
        for endpoint, status in zip(self.endpoints, statuses, strict=True):
            if status is None:
                continue
            self._members[status.member_id] = endpoint
            if status.role == "leader" and status.term >= best_term:
                best_term, best = status.term, endpoint
            elif status.leader.member_id:
                hint = status.leader
        if best:
            self.leader = best
        elif hint.member_id:
            self.hint(hint)
        return self.leader

    async def status(self, endpoint: str) -> api.GetStatusResponse | None:
        """A replica's status; None where it does not answer."""
        try:
            response: api.GetStatusResponse = await self.stub(endpoint).GetStatus(
                api.GetStatusRequest(), timeout=STATUS_TIMEOUT_S
            )
            return response
        except grpc.aio.AioRpcError:
            return None
