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
from partition_client.waiting import Silent, within

STATUS_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 1.0
OTHER_LEADER_S = 0.05
"""How long another leader, of a later term, may take to answer once one has."""

Answer = api.GetStatusResponse | ClientError | None
"""An endpoint's status; None if it does not answer now, an error if it never will."""

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
        self.leader = ""
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
        self._channels.clear()
        await self._diagnosis.close()
        self.owner.closed()

    def heard(self, address: str, what: str) -> None:
        """Keeps what was last heard of a replica that didn't do what was wanted."""
        self._heard[address] = what

    def explain(self, address: str = "") -> str:
        """What was last heard of one replica, or of all endpoints if none leads."""
        if address:
            return f"{address}: {self._heard.get(address, 'no answer')}"
        heard = (f"{one}: {self._heard.get(one, 'no answer')}" for one in self.endpoints)
        return f"no replica says that it leads; {'; '.join(heard)}"

    def forget_leader(self) -> None:
        self.leader = ""

    def lost(self, address: str) -> None:
        """A call of this replica failed: if it was said to lead, who leads is asked again."""
        if self.leader == address:
            self.leader = ""

    def hint(self, leader: types.LeaderHint, *, told_by: str) -> None:
        """Takes the word of the replica at `told_by` for who leads."""
        if self._members.get(leader.member_id) == told_by:
            # The endpoint, of a Service perhaps, reaches another member than it did before.
            del self._members[leader.member_id]
        if leader.member_id in self._members:
            self.leader = self._members[leader.member_id]
        elif self._follow_hints and leader.address:
            self.leader = leader.address
        else:
            self.leader = ""

    async def find_leader(self, timeout_s: float = STATUS_TIMEOUT_S) -> str:
        """The leader's address; "" if nobody says that it leads. Raises ClientError if no replica
        answers and one never will."""
        if self.leader:
            return self.leader
        found = await self._ask_all(timeout_s)
        answered = {e: s for e, s in found.items() if isinstance(s, api.GetStatusResponse)}
        refused = [one for one in found.values() if isinstance(one, ClientError)]
        if refused and not answered:
            raise refused[0]
        # Behind a Service one endpoint reaches several members over time.
        self._members = {m: e for m, e in self._members.items() if e not in answered}
        best_term, best = 0, ""
        hint, told_by = types.LeaderHint(), ""
        for endpoint, status in answered.items():
            self._members[status.member_id] = endpoint
            if status.role == "leader" and status.term >= best_term:
                best_term, best = status.term, endpoint
            elif status.leader.member_id:
                hint, told_by = status.leader, endpoint
        if best:
            self.leader = best
        elif hint.member_id:
            self.hint(hint, told_by=told_by)
            if self.leader and self.leader not in self.endpoints:
                answer = await self._ask(self.leader, timeout_s)
                if isinstance(answer, TlsRefused):
                    self.leader = ""
                    raise answer
        return self.leader

    async def _ask_all(self, timeout_s: float) -> dict[str, Answer]:
        """What each endpoint says; without those that are slow, once one leads and serves."""
        tasks = {asyncio.create_task(self._ask(e, timeout_s)): e for e in self.endpoints}
        waiting = set(tasks)
        found: dict[str, Answer] = {}
        patience_s = None
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    found[tasks[task]] = answer = task.result()
                    if isinstance(answer, api.GetStatusResponse) and answer.serving:
                        patience_s = OTHER_LEADER_S
        finally:
            for task in waiting:
                task.cancel()
            # Those that are done, too: asyncio logs a failure that nobody takes.
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

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
            return response
        # A last try, cut short by the deadline, says less than the one before.
        if timeout_s >= STATUS_TIMEOUT_S or endpoint not in self._heard:
            self.heard(endpoint, f"no answer within {timeout_s:g} s")
        return None
