"""Which replica to ask: the leader as last heard of, found again where it is lost.

Endpoints are where the replicas are dialled. A replica's hint names the leader by member ID and its
own address; with port-forwards only the endpoints can be reached, so the member ID decides.
"""

import asyncio
from contextlib import suppress

import grpc
from partition_proto.connection.pem import BadPem
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_client.channels import Tls, credentials, open_channel
from partition_client.diagnosis import Diagnosis
from partition_client.endpoints import check_endpoints
from partition_client.errors import (
    ClientError,
    RequestRefused,
    TlsFilesInvalid,
    TlsRefused,
    client_closed,
)
from partition_client.processes import Owner
from partition_client.status_calls import Answer, StatusCalls
from partition_client.waiting import Silent, within

STATUS_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 1.0

PERMANENT_CODES = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What a status can't be refused with by a replica that may lead later."""


class Routing:
    """Channels by address, and the leader's address."""

    def __init__(
        self, endpoints: list[str], tls: Tls | None, *, follow_hints: bool, use_proxy: bool = False
    ) -> None:
        """follow_hints: dial addresses that replicas name, too; else the endpoints alone.
        use_proxy: go through the proxy that the environment names."""
        self.owner = Owner()
        self.endpoints = check_endpoints(endpoints)
        self._tls = tls
        self._use_proxy = use_proxy
        self._credentials = credentials(tls)
        self._diagnosis = Diagnosis(
            self._credentials, tls.server_name if tls else "", direct=not use_proxy
        )
        self._follow_hints = follow_hints
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._members: dict[int, str] = {}
        self._heard: dict[str, str] = {}
        self._status_calls = StatusCalls(lambda address, timeout_s: self._ask(address, timeout_s))
        self.leader = ""
        self._term = 0
        """The highest term that a replica named since a leader was found last."""
        self._lost = ""
        """The leader that was lost last, at or before `_lost_term`."""
        self._lost_term = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def check_open(self) -> None:
        """Raises ClientError once the client is closed."""
        if self._closed:
            raise client_closed()

    def stub(self, address: str) -> log_store_pb2_grpc.LogStoreStub:
        """Raises ClientError once the client is closed, TlsFilesInvalid."""
        self.check_open()
        channel = self._channels.get(address)
        if channel is None:
            try:
                channel = open_channel(
                    address, self._tls, use_proxy=self._use_proxy, shared=self._credentials
                )
            except BadPem as error:
                raise TlsFilesInvalid(str(error)) from error
            self.owner.opened()
            self._channels[address] = channel
        return log_store_pb2_grpc.LogStoreStub(channel)

    async def close(self) -> None:
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._status_calls.close()
        self._channels.clear()
        await self._diagnosis.close()
        self.owner.closed()

    def heard(self, address: str, what: str, *, last: bool = False) -> None:
        """Keeps what was last heard of a replica that didn't do what was wanted. last: of a try
        that the deadline cut short; it counts only if nothing else was heard."""
        if not last or address not in self._heard:
            self._heard[address] = what

    def explain(self, address: str = "") -> str:
        """What was last heard of one replica, or of all endpoints if none leads."""
        if address:
            return f"{address}: {self._heard.get(address, 'no answer')}"
        heard = (f"{one}: {self._heard.get(one, 'no answer')}" for one in self.endpoints)
        return f"no replica says that it leads; {'; '.join(heard)}"

    def forget_leader(self) -> None:
        if self.leader:
            self._lost, self._lost_term = self.leader, self._term
            self._status_calls.forget_answers()
        self.leader = ""

    def lost(self, address: str) -> None:
        """A call of this replica failed: if it was said to lead, who leads is asked again."""
        if self.leader == address:
            self.forget_leader()

    def hint(self, leader: types.LeaderHint, *, told_by: str) -> None:
        """Takes the word of the replica at `told_by` for who leads."""
        if self._members.get(leader.member_id) == told_by:
            # The endpoint, of a Service perhaps, reaches another member than it did before.
            del self._members[leader.member_id]
        self.leader = self._address_of(leader)

    def _address_of(self, leader: types.LeaderHint) -> str:
        """Where to reach a leader that a replica named; "" if that is not known."""
        if leader.member_id in self._members:
            return self._members[leader.member_id]
        return leader.address if self._follow_hints else ""

    async def find_leader(self, timeout_s: float = STATUS_TIMEOUT_S) -> str:
        """The leader's address; "" if nobody says that it leads. Raises ClientError if no replica
        answers and one never will.

        The first replica that says that it leads and serves is taken. A follower's hint has the
        leader asked at once. A replica that does not answer is not waited for if others do."""
        if self.leader:
            return self.leader
        found = await self._status_calls.round(
            self.endpoints, timeout_s, self._suffices, self._hinted
        )
        answered = {e: s for e, s in found.items() if isinstance(s, api.GetStatusResponse)}
        refused = [one for one in found.values() if isinstance(one, ClientError)]
        if refused and not answered:
            raise refused[0]
        self._learn_members(answered)
        leading = {e: s for e, s in answered.items() if s.role == "leader"}
        if leading:
            self.leader = max(leading, key=lambda e: leading[e].term)
            self._term = leading[self.leader].term
        else:
            self._follow_hint(answered, found)
        return self.leader

    def _learn_members(self, answered: dict[str, api.GetStatusResponse]) -> None:
        # Behind a Service one endpoint reaches several members over time.
        self._members = {m: e for m, e in self._members.items() if e not in answered}
        for endpoint in self.endpoints:
            if endpoint in answered:
                self._members[answered[endpoint].member_id] = endpoint

    def _follow_hint(
        self, answered: dict[str, api.GetStatusResponse], found: dict[str, Answer]
    ) -> None:
        """Takes a follower's word for who leads, of the highest term. Raises TlsRefused if that
        leader can't be used."""
        hints = {e: s for e, s in answered.items() if s.leader.member_id}
        if not hints:
            return
        told_by = max(hints, key=lambda e: hints[e].term)
        self.hint(hints[told_by].leader, told_by=told_by)
        answer = found.get(self.leader)
        if isinstance(answer, TlsRefused) and self.leader not in self.endpoints:
            self.leader = ""
            raise answer
        if self._is_lost(self.leader, hints[told_by].term) and self.leader not in found:
            # The followers have not noticed yet. It may be a black hole: wait for its answer.
            self.leader = ""

    def _suffices(self, endpoint: str, status: api.GetStatusResponse) -> bool:
        """Whether a status says for sure where to go. A leader that was just lost, or is of an
        earlier term than another one that was heard of, may not know that it leads no more."""
        leads = status.role == "leader" and status.serving
        return leads and status.term >= self._term and not self._is_lost(endpoint, status.term)

    def _hinted(self, endpoint: str, status: api.GetStatusResponse) -> str:
        """The address of the leader that a follower names."""
        if status.role == "leader" or not status.leader.member_id:
            return ""
        found = self._address_of(status.leader)
        if found == endpoint:  # the endpoint reaches another member than it did before
            return status.leader.address if self._follow_hints else ""
        return found

    def _is_lost(self, address: str, term: int) -> bool:
        return bool(address) and address == self._lost and term <= self._lost_term

    async def status(
        self, endpoint: str, timeout_s: float = STATUS_TIMEOUT_S
    ) -> api.GetStatusResponse | None:
        """A replica's status; None if it does not answer."""
        found = await self._ask(endpoint, timeout_s)
        return found if isinstance(found, api.GetStatusResponse) else None

    async def statuses(self, timeout_s: float) -> dict[str, api.GetStatusResponse | None]:
        """Each endpoint's status, None if it does not answer. Raises TlsRefused if none answers and
        one never will."""
        found = await asyncio.gather(*(self._ask(e, timeout_s) for e in self.endpoints))
        statuses = [one if isinstance(one, api.GetStatusResponse) else None for one in found]
        refused = [one for one in found if isinstance(one, TlsRefused)]
        if refused and not any(statuses):
            raise refused[0]
        return dict(zip(self.endpoints, statuses, strict=True))

    async def refusal(
        self, address: str, error: grpc.aio.AioRpcError, within_s: float
    ) -> TlsRefused | None:
        """What made a call fail if TLS did and no retry mends it; None if it is something else, or
        not known within `within_s`."""
        return await self._diagnosis.of(address, error, within_s)

    async def _ask(self, endpoint: str, timeout_s: float) -> Answer:
        """A replica's status; None if it does not answer now, an error if it never will. Raises
        ClientError if the client is closed."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        try:
            response: api.GetStatusResponse = await within(
                self.stub(endpoint).GetStatus(api.GetStatusRequest(), timeout=timeout_s), timeout_s
            )
        except grpc.aio.AioRpcError as error:
            left_s = max(0.0, ends - loop.time())
            if (refused := await self.refusal(endpoint, error, left_s)) is not None:
                self.heard(endpoint, str(refused))
                return refused
            if error.code() in PERMANENT_CODES:
                self.heard(endpoint, f"{error.code().name}: {error.details()}")
                return RequestRefused(f"{endpoint}: {error.details()}", error.code().name)
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                self.heard(endpoint, f"{error.code().name}: {error.details()}")
                return None
        except Silent:
            self.check_open()
        else:
            self.heard(endpoint, f"it is {response.role}")
            self._term = max(self._term, response.term)
            return response
        # A last try, cut short by the deadline, says less than the one before.
        if timeout_s >= STATUS_TIMEOUT_S or endpoint not in self._heard:
            self.heard(endpoint, f"no answer within {timeout_s:g} s")
        return None
