"""Whom the client asks, if one endpoint reaches several replicas over time, as a Service does."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient
from partition_client.calls import Calls, Deadline
from partition_client.diagnosis import Diagnosis
from partition_client.errors import ClientError
from partition_client.routing import Routing
from partition_client.status_calls import KEPT_S, OTHERS_S, Answer, StatusCalls
from partition_proto.connection import handshake
from partition_proto.connection.channel import Insecure
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import NotLeader
from partition_replica.transport.failures import unary

from tests.simulation.loop import VirtualLoop, run
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


# --- the search for the leader ----------------------------------------------------------------

LATE_S = 0.3
"""Longer than a round waits, much shorter than a status may take."""

Ask = Callable[[], Awaitable[Answer]]


class Group:
    """Replicas at a, b and c. Each answers by a function, and notes that it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **replicas: Ask) -> None:
        self.replicas = replicas
        self.asked: list[str] = []
        self.routing = Routing([f"{name}:1" for name in "abc"], None, follow_hints=True)
        monkeypatch.setattr(self.routing, "_ask", self._ask)

    async def _ask(self, address: str, timeout_s: float) -> Answer:
        name = address.removesuffix(":1")
        self.asked.append(name)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.replicas[name]()
        except TimeoutError:
            return None

    async def find(self) -> tuple[str, float]:
        """The leader that one round finds, and the seconds that it took."""
        now = asyncio.get_running_loop().time
        began = now()
        return await self.routing.find_leader(), now() - began


def says(role: str, term: int, leader: int = 0, *, after_s: float = 0.0, member: int = 9) -> Ask:
    async def answer() -> Answer:
        await asyncio.sleep(after_s)
        hint = types.LeaderHint(member_id=leader, address=f"{'?abcd'[leader]}:1" if leader else "")
        return api.GetStatusResponse(
            member_id=member, role=role, term=term, serving=role == "leader", leader=hint
        )

    return answer


async def refuses() -> Answer:
    """As a port on which nobody listens."""
    return None


async def black_hole() -> Answer:
    await asyncio.Event().wait()
    return None


def on_virtual_time(body: Coroutine[Any, Any, None]) -> None:
    run(VirtualLoop(), body)


def test_the_first_that_leads_and_serves_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        group = Group(
            monkeypatch, a=black_hole, b=says("leader", 2, after_s=0.01), c=says("follower", 1)
        )
        leader, took_s = await group.find()
        assert leader == "b:1"
        assert took_s == pytest.approx(0.01)
        await group.routing.close()

    on_virtual_time(body())


def test_the_leader_that_a_follower_names_is_asked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although no endpoint is its address, and another endpoint is a black hole."""

    async def body() -> None:
        group = Group(
            monkeypatch,
            a=black_hole,
            b=says("follower", 2, leader=4),
            c=black_hole,
            d=says("leader", 2, after_s=0.01),
        )
        leader, took_s = await group.find()
        assert leader == "d:1"
        assert took_s == pytest.approx(0.01)
        await group.routing.close()

    on_virtual_time(body())


def test_a_black_hole_costs_a_search_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader's node is lost, and for a while nobody leads."""

    async def body() -> None:
        waiting = says("follower", 1)
        group = Group(monkeypatch, a=black_hole, b=waiting, c=waiting)
        leader, took_s = await group.find()
        assert leader == ""
        assert took_s == pytest.approx(OTHERS_S)
        for _ in range(5):
            await asyncio.sleep(0.05)
            leader, took_s = await group.find()
            assert leader == ""
            assert took_s == 0
        assert group.asked.count("a") == 1, "its call goes on"
        group.replicas["c"] = says("leader", 2)
        assert await group.find() == ("c:1", 0)
        await group.routing.close()

    on_virtual_time(body())


def test_a_leader_that_is_far_away_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later than a round waits for it, because two that are near do not know it."""

    async def body() -> None:
        near = says("follower", 1)
        group = Group(monkeypatch, a=says("leader", 2, after_s=LATE_S), b=near, c=near)
        now = asyncio.get_running_loop().time
        began = now()
        while not (await group.find())[0]:
            await asyncio.sleep(0.05)
        assert group.routing.leader == "a:1"
        assert now() - began < LATE_S + 0.1
        await group.routing.close()

    on_virtual_time(body())


def test_a_lost_leader_that_says_it_leads_has_the_others_heard_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be cut off from the others, and not know yet that it leads no more."""

    async def body() -> None:
        group = Group(
            monkeypatch,
            a=says("leader", 1),
            b=says("follower", 1, leader=1),
            c=says("follower", 1, leader=1),
        )
        assert (await group.find())[0] == "a:1"
        group.routing.lost("a:1")
        group.replicas["c"] = says("leader", 2, after_s=0.02)
        assert (await group.find())[0] == "c:1"

        # If no other one leads, it is taken again: its connection may have broken.
        group.routing.lost("c:1")
        group.replicas["a"] = says("follower", 2, leader=3)
        group.replicas["b"] = black_hole
        assert (await group.find())[0] == "c:1"
        await group.routing.close()

    on_virtual_time(body())


def test_followers_that_still_name_the_lost_leader_do_not_lead_into_a_black_hole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        group = Group(
            monkeypatch,
            a=says("leader", 1, member=1),
            b=says("follower", 1, leader=1, member=2, after_s=0.001),
            c=says("follower", 1, leader=1, member=3, after_s=0.001),
        )
        await group.find()
        group.replicas["a"] = black_hole
        group.routing.lost("a:1")
        assert await group.find() == ("", pytest.approx(OTHERS_S + 0.001))
        assert await group.find() == ("", pytest.approx(0.001))
        group.replicas["b"] = says("follower", 2, leader=3, member=2)
        group.replicas["c"] = says("leader", 2, member=3, after_s=0.01)
        assert await group.find() == ("c:1", pytest.approx(0.01))
        await group.routing.close()

    on_virtual_time(body())


def test_searches_at_the_same_time_share_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        group = Group(
            monkeypatch, a=refuses, b=says("leader", 2, after_s=0.01), c=says("follower", 1)
        )
        found = await asyncio.gather(*(group.find() for _ in range(100)))
        assert {leader for leader, _ in found} == {"b:1"}
        assert sorted(group.asked) == ["a", "b", "c"]
        await group.routing.close()

    on_virtual_time(body())


def test_an_answer_from_before_the_leader_was_lost_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        group = Group(
            monkeypatch,
            a=says("leader", 1),
            b=says("follower", 1, leader=1, after_s=0.01),
            c=says("follower", 1, leader=1, after_s=0.01),
        )
        await group.find()
        await asyncio.sleep(0.1)
        group.replicas["a"] = refuses
        group.replicas["b"] = says("leader", 2)
        group.routing.lost("a:1")
        assert await group.find() == ("b:1", 0)
        await group.routing.close()

    on_virtual_time(body())


def test_an_old_answer_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        late = says("leader", 5, after_s=LATE_S)
        group = Group(monkeypatch, a=late, b=says("follower", 1), c=refuses)
        assert (await group.find())[0] == ""
        await asyncio.sleep(KEPT_S)
        group.replicas["a"] = says("follower", 1)
        assert (await group.find())[0] == ""
        assert group.asked.count("a") == 2
        await group.routing.close()

    on_virtual_time(body())


def test_a_search_of_a_client_that_closes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        group = Group(monkeypatch, a=black_hole, b=black_hole, c=black_hole)
        finding = asyncio.ensure_future(group.find())
        await asyncio.sleep(0.01)
        await group.routing.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await finding

    on_virtual_time(body())


async def test_a_slow_refusal_of_a_named_leader_is_heard_in_the_next_round() -> None:
    """It takes longer than a round, because TLS is tried once more to find out what is wrong."""
    refusal: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    follower = api.GetStatusResponse(role="follower")

    async def ask(address: str, _: float) -> Any:
        return await refusal if address == "leader" else follower

    calls = StatusCalls(ask)

    async def one_round() -> dict[str, Any]:
        return await calls.round(["other"], 1.0, lambda *_: False, lambda *_: "leader")

    assert await one_round() == {"other": follower}
    refusal.set_result(error := ClientError("refused"))
    assert await one_round() == {"other": follower, "leader": error}
    await calls.close()
