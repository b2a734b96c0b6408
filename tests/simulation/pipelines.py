"""Applications that have several appends under way: the product's client (`AppendStream`) on the
product's service, over the simulated network.

Each slot writes keys and a file of its own, one append after another, and knows what it must find
there; all of them share one session and one stream. So appends of one session are answered in any
order, and what has no answer when a stream breaks is sent again, some of it behind later ones.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from partition_client.appends import AppendStream, ClientSession
from partition_client.calls import Calls
from partition_client.errors import (
    ClientError,
    HistoryChanged,
    OutcomeUnknown,
    PreconditionFailed,
)
from partition_client.gets import Gets
from partition_client.pending_append import PendingAppend
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import ReplicaError

from tests.simulation.callers import AGAIN, Caller, make_process
from tests.simulation.checks import Checks
from tests.simulation.clients import IDLE_S, SESSION_TTL_MS
from tests.simulation.network import Unreachable
from tests.simulation.node import Node
from tests.simulation.wire import Stub
from tests.simulation.workload import Expected, Item, Operation, Workload
from tests.support import proposals

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

SLOTS = 4
THINKS = 4
"""How much faster a slot is than an application that does one thing at a time."""

STATUS_S = 1.0
GET_S = 5.0
NEVER = 1e12
"""A deadline: what was given up may take effect much later, and nothing could be checked."""


class Routing:
    """Stands in for the client's, which asks all endpoints at once, in an order that is no function
    of the seed: it asks one node after another who leads."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline
        self.leader = ""

    async def find_leader(self, timeout_s: float = STATUS_S) -> str:
        if not self.leader:
            await self._look(timeout_s)
        return self.leader

    async def _look(self, timeout_s: float) -> None:
        pipeline = self._pipeline
        node = pipeline.rng.choice(pipeline.reachable())
        call = pipeline.network.call((pipeline.name, pipeline.process), node, _who_leads)
        try:
            self.leader = await asyncio.wait_for(call, timeout_s)
        except (Unreachable, TimeoutError, ReplicaError):
            self.leader = ""

    def stub(self, address: str) -> Stub:
        return Stub(self._pipeline, self._pipeline.network.nodes.get(address))

    def hint(self, leader: types.LeaderHint, *, told_by: str) -> None:
        self.leader = leader.address

    def forget_leader(self) -> None:
        self.leader = ""

    def lost(self, address: str) -> None:
        if self.leader == address:
            self.leader = ""

    def heard(self, address: str, what: str) -> None:
        """Nobody is told."""

    def check_open(self) -> None:
        """It is never closed."""

    async def refusal(self, address: str, error: Any, within_s: float) -> None:
        """There is no TLS."""

    def explain(self, address: str = "") -> str:
        return f"no replica says that it leads {address}"


async def _read_key(node: Node, key: bytes) -> tuple[bytes | None, Checks]:
    assert node.replica is not None
    state = await node.replica.applications.read_point(linearizable=True)
    return state.get_value(key)[0], node.checks


async def _who_leads(node: Node) -> str:
    assert node.replica is not None
    status = node.replica.status()
    return node.address if status.serving else status.leader[1]


class Pipeline(Caller):
    """One application. On its session up to SLOTS appends are under way."""

    def __init__(self, name: str, cluster: "Cluster") -> None:
        super().__init__(name, make_process(cluster, name), cluster, names_histories=True)
        self.slots = [Slot(self, number) for number in range(SLOTS)]
        self.routing = Routing(self)
        routing: Any = self.routing
        self._stream = AppendStream(routing, self._open_session)
        self._gets = Gets(routing, Calls(routing), GET_S)
        self._reads = 0
        self._sessions: dict[int, Checks] = {}
        """The history that each was opened in."""
        self._first = cluster.checks
        self._under_way = 0
        self._answered: dict[int, int] = {}
        """Of each session: the highest sequence that was answered."""

    @property
    def known_history(self) -> str:
        return self._stream._history

    @property
    def line(self) -> Checks:
        """The history that it knows."""
        history = self.known_history
        return self.cluster.history_of(history) if history else self._first

    async def run(self) -> None:
        await asyncio.gather(*(asyncio.ensure_future(self._work(slot)) for slot in self.slots))
        self.trace.event(self.name, "is done")

    async def _work(self, slot: "Slot") -> None:
        while not self.cluster.quiescing:
            await asyncio.sleep(self.rng.expovariate(THINKS / self.cluster.settings.think_s))
            if self.rng.random() < 0.002:
                await asyncio.sleep(self.rng.uniform(*IDLE_S))
            if self.rng.random() < 0.1:
                await self._read(slot)
            else:
                await self._write(slot, slot.draw())
        await self._write(slot, slot.workload.set_key())

    async def _open_session(self, address: str, history: str) -> ClientSession:
        request = api.OpenSessionRequest(time_to_live_ms=SESSION_TTL_MS, history_id=history)
        response = await self.routing.stub(address).OpenSession(request, timeout=STATUS_S * 3)
        session = ClientSession(int(response.session_id), response.history_id)
        line = self._sessions[session.id] = self.cluster.history_of(session.history)
        self.trace.event(self.name, "opens", f"{session.id} of history {line.number}")
        self.trace.count("sessions opened for several appends at once")
        return session

    async def _write(self, slot: "Slot", operation: Operation) -> None:
        line = self.line
        proposal = types.Proposal(
            preconditions=operation.preconditions,
            payloads=operation.payloads,
            operations=operation.operations,
        )
        pending = PendingAppend(proposal, self.rng.random() < 0.3, NEVER, self.upload)
        self._under_way += 1
        self.trace.count(f"appends sent as one of {self._under_way} under way")
        try:
            response = await self._stream.append(pending)
        except PreconditionFailed:
            if operation.holds:
                self.checks.violated(
                    "client", f"{self.name}'s precondition of {_name(proposal)} did not hold"
                )
            return
        except (HistoryChanged, OutcomeUnknown) as error:
            self._not_answered(error, self._sessions.get(proposal.session_id, line), proposal)
            if isinstance(error, OutcomeUnknown):
                opened = self._sessions.get(proposal.session_id, line)
                slot.expected.unknown(opened, operation.effect)
            return
        except ClientError as error:
            self.checks.violated("client", f"{self.name}'s {_name(proposal)}: {error!r}", error)
            return
        finally:
            self._under_way -= 1
        if not operation.holds:
            self.checks.violated(
                "client", f"{self.name}'s {_name(proposal)} was written by a wrong precondition"
            )
        opened = self._sessions[proposal.session_id]
        self._acknowledged(opened, proposal, response)
        slot.expected.written(opened, operation.effect)

    def _acknowledged(
        self, opened: Checks, proposal: types.Proposal, response: api.AppendResponse
    ) -> None:
        session, sequence = proposal.session_id, proposal.sequence
        self.trace.event(self.name, "answered", f"{_name(proposal)} at {response.lsn}")
        self.trace.count("acknowledged writes of several under way")
        if sequence < self._answered.get(session, 0):
            self.trace.count("answers out of order")
        self._answered[session] = max(sequence, self._answered.get(session, 0))
        opened.acknowledge(response.lsn, response.term, (self.name, session, sequence))

    def _not_answered(
        self, error: HistoryChanged | OutcomeUnknown, opened: Checks, proposal: types.Proposal
    ) -> None:
        """opened: the history that it was sent in, or would have been."""
        if not error.history:
            self.trace.event(self.name, "does not know", _name(proposal))
            self.trace.count("outcomes that nobody knows, of several under way")
            return
        new = self.cluster.history_of(error.history)
        if new.number <= opened.number:
            self.checks.violated(
                "history", f"{self.name} is told of history {new.number} and knew {opened.number}"
            )
        self.trace.event(self.name, "learns of", f"history {new.number}")
        doubt = "in doubt" if isinstance(error, OutcomeUnknown) else "refused"
        self.trace.count(f"appends of several {doubt} by a restore")

    async def _read(self, slot: "Slot") -> None:
        """What the slot wrote last, linearizably."""
        item = ("key", slot.workload.counter_key)
        least = self.line
        self._reads += 1
        try:
            # Without a history its frames name none.
            if self._reads % 2 or not self.known_history:
                value, line = await self.ask(partial(_read_key, key=item[1]))
            else:
                value, line = await self._get(item[1])
        except AGAIN:
            return
        self.trace.event(self.name, "reads", f"{item[1]!r}: {value!r}")
        self.trace.count("linearizable reads beside several appends")
        if line.number < least.number:
            self.checks.violated(
                "history", f"{self.name} knows history {least.number}, reads {line.number}"
            )
        if value not in slot.expected.at(line, item):
            self.checks.violated(
                "client", f"{self.name} reads {item[1]!r}: {value!r}, which is not it"
            )
        slot.expected.written(line, {item: value})

    async def _get(self, key: bytes) -> tuple[bytes | None, Checks]:
        """By the product's gets, on one stream with those of other slots. Raises Unreachable."""
        line = self.line
        try:
            value = await self._gets.get(key)
        except ClientError as error:
            raise Unreachable(str(error)) from error
        if self.line is not line:
            raise Unreachable("which history the frame named is not known")
        self.trace.count("linearizable reads by frames beside several appends")
        return value, line


class Slot:
    """One append at a time, of keys and files that no other slot writes."""

    def __init__(self, pipeline: Pipeline, number: int) -> None:
        self._pipeline = pipeline
        self.name = f"{pipeline.name}.{number}"
        self.expected = Expected(self.name)
        self.workload = Workload(self.name, pipeline.rng, self._known)

    def _known(self, item: Item) -> set[bytes | None] | None:
        return self.expected.known(self._pipeline.line, item)

    def draw(self) -> Operation:
        if self._pipeline.rng.random() < 0.03:
            key = self.workload.key()
            wrong = types.Precondition(key_equals=types.KeyEquals(key=key, value=b"never"))
            operations = [proposals.set_key(key, b"wrong")]
            return Operation("nothing", operations, {}, preconditions=[wrong], holds=False)
        return self.workload.draw()


def _name(proposal: types.Proposal) -> str:
    return f"{proposal.session_id}:{proposal.sequence}"
