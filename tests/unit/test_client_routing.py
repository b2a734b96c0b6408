"""Whom the client asks, if one endpoint reaches several replicas over time, as a Service does."""

import asyncio
import threading
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient
from partition_client.calls import Calls, Deadline
from partition_client.diagnosis import Diagnosis
from partition_client.routing import Answer, Routing
from partition_proto.connection import handshake
from partition_proto.connection.channel import Insecure
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import NotLeader
from partition_replica.transport.failures import unary

from tests.support.append_streams import ONE_LEADS, call_error, refusal
from tests.support.stand_in_replica import MEMBER, StandInReplica

WITHIN_S = 20.0
ONE = api.GetStatusResponse(member_id=1, role="leader", term=1, serving=True)
TWO = api.GetStatusResponse(member_id=2, role="follower", term=1, leader=ONE_LEADS)


def routing(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Answer], *, follow_hints: bool = True
) -> Routing:
    """Its replicas answer what is in `answers`."""
    found = Routing(["svc:1", "other:1"], None, follow_hints=follow_hints)

    async def ask(endpoint: str, timeout_s: float) -> Answer:
        return answers.get(endpoint)

    monkeypatch.setattr(found, "_ask", ask)
    return found


async def test_an_endpoint_that_answers_as_another_member_is_no_longer_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, Answer] = {"svc:1": ONE}
    found = routing(monkeypatch, answers)
    assert await found.find_leader() == "svc:1"
    answers["svc:1"] = TWO
    found.forget_leader()
    assert await found.find_leader() == "one:1"


async def test_a_third_replica_does_not_lead_back_to_an_endpoint_that_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, Answer] = {"svc:1": ONE}
    found = routing(monkeypatch, answers)
    assert await found.find_leader() == "svc:1"
    answers["svc:1"] = api.GetStatusResponse(member_id=2, role="follower", term=1)
    answers["other:1"] = api.GetStatusResponse(
        member_id=3, role="follower", term=1, leader=ONE_LEADS
    )
    found.forget_leader()
    assert await found.find_leader() == "one:1"


async def test_a_mapping_is_kept_while_its_endpoint_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With port-forwards the addresses that replicas name can't be reached."""
    answers: dict[str, Answer] = {"svc:1": ONE, "other:1": TWO}
    found = routing(monkeypatch, answers)
    assert await found.find_leader() == "svc:1"
    answers["svc:1"] = None
    found.forget_leader()
    assert await found.find_leader() == "svc:1"


@pytest.mark.parametrize(
    ("told_by", "follow_hints", "leader"),
    [
        ("svc:1", True, "one:1"),
        ("svc:1", False, ""),
        ("other:1", True, "svc:1"),
        ("other:1", False, "svc:1"),
    ],
)
async def test_a_hint_does_not_lead_back_to_the_address_that_gave_it(
    monkeypatch: pytest.MonkeyPatch, told_by: str, follow_hints: bool, leader: str
) -> None:
    found = routing(monkeypatch, {"svc:1": ONE}, follow_hints=follow_hints)
    await found.find_leader()
    detail = refusal(types.REASON_NOT_LEADER, leader=ONE_LEADS)
    error = call_error(grpc.StatusCode.UNAVAILABLE, detail)
    await Calls(found).failed(told_by, error, Deadline(1.0), fixed=False)
    assert found.leader == leader


class Service(StandInReplica):
    """Reaches the leader at first, and then a follower that knows the leader's own address."""

    def __init__(self, leader: str) -> None:
        super().__init__()
        self._leader = leader
        self.moved = False

    def status(self) -> api.GetStatusResponse:
        found = super().status()
        if self.moved:
            found.member_id, found.role, found.serving = MEMBER + 1, "follower", False
            found.leader.member_id, found.leader.address = MEMBER, self._leader
        return found

    def _check(self) -> None:
        if self.moved:
            raise NotLeader("another one leads", (MEMBER, self._leader))

    def append(self, item: api.AppendRequest, response: api.AppendResponse) -> None:
        self._check()
        super().append(item, response)

    @unary
    async def GetKey(self, request: api.GetKeyRequest, context: Any) -> Any:
        self._check()
        return api.GetKeyResponse(found=True, value=b"v")


async def test_reads_and_appends_leave_an_endpoint_that_reaches_a_follower() -> None:
    leader = StandInReplica()
    async with leader.serving() as address:
        service = Service(address)
        async with service.serving() as endpoint:
            for use in (lambda c: c.get_key(b"k"), lambda c: c.set_key(b"k", b"v")):
                service.moved = False
                async with AsyncClient([endpoint], deadline_s=WITHIN_S) as client:
                    await use(client)
                    service.moved = True
                    async with asyncio.timeout(WITHIN_S / 2):
                        await use(client)
    assert leader.view.get_value(b"k") == b"v"


# --- trials -----------------------------------------------------------------------------------


async def test_the_result_of_a_slow_trial_is_found_by_the_next_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    time, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + later)
    monkeypatch.setattr("partition_client.diagnosis.KEPT_S", WITHIN_S)
    trials, go_on = [], threading.Event()

    def tls_refusal(address: str, *_: object) -> handshake.TlsRefusal:
        trials.append(address)
        go_on.wait(WITHIN_S)
        return handshake.TlsRefusal("TLS_PORT", "it speaks TLS")

    monkeypatch.setattr(handshake, "refusal", tls_refusal)
    diagnosis = Diagnosis(Insecure(), "", direct=True)
    error = call_error(grpc.StatusCode.UNAVAILABLE)
    assert await diagnosis.of("a:1", error, 0.01) is None
    later = 2 * WITHIN_S
    go_on.set()
    await diagnosis.close()
    found = await diagnosis.of("a:1", error, WITHIN_S)
    assert found is not None
    assert found.reason == "TLS_PORT"
    assert trials == ["a:1"]
    later = 4 * WITHIN_S
    await diagnosis.of("a:1", error, WITHIN_S)
    assert trials == ["a:1", "a:1"], "a result is not kept for ever"
