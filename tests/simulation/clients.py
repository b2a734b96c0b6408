"""Applications: each writes keys and files of its own, one proposal after another, and knows what
it must find there.

A proposal is sent again under the same sequence until it is answered. A refusal is taken at its
word: if every try was refused, it had no effect. If its session is gone while a try is in doubt,
both are possible, until something is written over it.

Most name the history that they know with each append. A restore ends their session, they are told,
and from then on they expect what the restored state holds. Some name none, as clients of an earlier
version: they must find their session gone.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import Applied
from partition_replica.errors import (
    NotFound,
    OutcomeUnknown,
    PayloadMissing,
    PreconditionFailed,
    SequenceAcknowledged,
    SequenceReused,
    SessionExpired,
    WrongHistory,
)
from partition_replica.runtime.replica import Replica

from tests.simulation.callers import AGAIN, Caller
from tests.simulation.checks import Checks
from tests.simulation.loop import Process
from tests.simulation.network import Unreachable
from tests.simulation.node import Node
from tests.simulation.wire import get_frame
from tests.simulation.workload import Expected, Item, Operation, Workload, restored
from tests.support import proposals

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

T = TypeVar("T")

SESSION_TTL_MS = 10_000
IDLE_S = (11.0, 16.0)


class HistoryLeft(Exception):
    """An append was refused because the group has another history. `unknown`: an earlier try of it
    may have taken effect in the old one."""

    def __init__(self, unknown: bool) -> None:
        super().__init__()
        self.unknown = unknown


class Client(Caller):
    """One application. names_histories: it names the history that it knows."""

    def __init__(
        self, name: str, process: Process, cluster: "Cluster", *, names_histories: bool = False
    ) -> None:
        super().__init__(name, process, cluster, names_histories=names_histories)
        self.expected = Expected(name)
        self.workload = Workload(name, process.rng, self._known)
        self.answers = 0
        self._reads = 0
        self._line = cluster.checks
        """The history that its session, or its last one, belongs to."""
        self._asked = self._line
        """The history of the replica that was asked last."""
        self._history = ""
        """What it names; "" is any."""
        self._left: list[str] = []
        self._session = 0
        self._sequence = 0
        self._below = 1
        self._active_at = 0.0
        """When the last append that is acknowledged was sent: the session lives on from there."""

    async def run(self) -> None:
        while not self.cluster.quiescing:
            await asyncio.sleep(self.rng.expovariate(1 / self.cluster.settings.think_s))
            if self.rng.random() < 0.01:
                self.trace.count("long pauses of clients")
                await asyncio.sleep(self.rng.uniform(*IDLE_S))
            kind = self.rng.random()
            if kind < 0.08:
                await self._read()
            elif kind < 0.16:
                await self._read_file()
            elif kind < 0.17:
                await self._close_session()
            elif kind < 0.20:
                await self._misuse_a_sequence()
            elif kind < 0.22:
                await self._write_by_a_wrong_precondition()
            elif kind < 0.25:
                await self._read_replaced()
            else:
                await self._write(self.workload.draw())
        await self._write(self.workload.set_key())

    def _known(self, item: Item) -> set[bytes | None] | None:
        return self.expected.known(self._line, item)

    # --- histories ----------------------------------------------------------------------------

    def _check_history(self, node: Node) -> None:
        """As the service does first of all. Raises WrongHistory."""
        self._asked = node.checks
        if self._history:
            _replica(node).applications.check_history(self._history, leading=True)

    def _learn(self, error: WrongHistory) -> bool:
        """False where a replica that was left behind tells of a history that is over."""
        if error.history in self._left:
            self.trace.count("histories told of that are over")
            self.target = None
            return False
        self._left.append(self._history)
        self._history, self._session = error.history, 0
        self._line = self.cluster.history_of(error.history)
        self.trace.event(self.name, "learns of", f"history {self._line.number}")
        self.trace.count("clients told of a new history")
        return True

    def _check_served(self, what: str, lsn: int = 0) -> None:
        """Served by another history than the session's: only what both have, the result of an entry
        up to `lsn`, and only for who names none."""
        if self._asked is self._line or (not self._history and 0 < lsn <= self._asked.start):
            return
        self.checks.violated(
            "history",
            f"{self.name} {what} by history {self._asked.number}, and not told of it: its session "
            f"{self._session} is of history {self._line.number}",
        )

    # --- writing ------------------------------------------------------------------------------

    async def _write_by_a_wrong_precondition(self) -> None:
        """It must have no effect, and be refused, whatever happens meanwhile."""
        key = self.workload.key()
        wrong = types.Precondition(key_equals=types.KeyEquals(key=key, value=b"never"))
        operation = Operation(
            "nothing", [proposals.set_key(key, b"wrong")], {}, preconditions=[wrong], holds=False
        )
        await self._write(operation)

    async def _write(self, operation: Operation) -> None:
        line = self._line
        if not self._session:
            await self._open_session()
        if self._line is not line:
            return  # what it drew may rely on what the old history held
        self._sequence += 1
        session, sequence = self._session, self._sequence
        proposal = proposals.proposal(
            session,
            sequence,
            operation.operations,
            operation.payloads,
            below=self._below,
            preconditions=operation.preconditions,
        )
        self.trace.event(self.name, "writes", f"{operation.kind} {session}:{sequence}")
        try:
            applied = await self._send(proposal)
        except SessionExpired:
            self._lost_session()  # every try was refused: it had no effect
            return
        except OutcomeUnknown:
            self.trace.count("outcomes that nobody knows")
            self.expected.unknown(self._line, operation.effect)
            self._lost_session()
            return
        except HistoryLeft as left:
            self.trace.count(f"appends {'in doubt' if left.unknown else 'refused'} by a restore")
            return
        except PreconditionFailed:
            if operation.holds:
                self.checks.violated(
                    "client", f"{self.name}'s precondition of {session}:{sequence} did not hold"
                )
            self.trace.count("preconditions that did not hold")
            return
        if not operation.holds:
            self.checks.violated(
                "client", f"{self.name}'s {session}:{sequence} was written by a wrong precondition"
            )
        self._answered(operation, applied)

    def _lost_session(self) -> None:
        self.trace.event(self.name, "lost its session", f"{self._session}")
        self.trace.count("sessions lost")
        self._session = 0
        if self._asked is not self._line:
            if self._history:
                self._check_served("is refused")
            self.trace.count("sessions that a restore ended")
            return
        idle_s = self.process.loop.time() - self._active_at
        if idle_s * 1000 < SESSION_TTL_MS:
            self.checks.violated(
                "client", f"{self.name}'s session ended {idle_s:.3f} s after its last append"
            )

    def _answered(self, operation: Operation, applied: Applied) -> None:
        lsn, term = applied.index, applied.term
        if applied.result is not None:
            lsn, term = applied.result.lsn, applied.result.term
        self.trace.event(self.name, "answered", f"{self._session}:{self._sequence} at {lsn}")
        self._check_served("is acknowledged", lsn)
        self.trace.count("acknowledged writes")
        self.answers += 1
        if applied.kind == "duplicate":
            self.trace.count("retries that had taken effect")
        self._line.acknowledge(lsn, term, (self.name, self._session, self._sequence))
        if self.rng.random() < 0.7:
            self._below = self._sequence + 1
        self.expected.written(self._line, operation.effect)

    async def _misuse_a_sequence(self) -> None:
        """Sends another content under a sequence that was used: it must have no effect, and nobody
        may say that it had."""
        if not self._session or not self._sequence:
            return
        sequence = self.rng.randint(1, self._sequence)
        misuse = proposals.proposal(
            self._session,
            sequence,
            [proposals.set_key(self.workload.key(), b"misuse")],
            below=sequence,
        )
        retry, wait_applied = self.rng.random() < 0.5, self.rng.random() < 0.5

        async def serve(node: Node) -> Applied:
            self._check_history(node)
            return await _replica(node).applications.append(
                misuse, retry=retry, wait_applied=wait_applied
            )

        try:
            applied = await self.ask(serve)
        except WrongHistory as error:
            self._learn(error)
        except (SequenceAcknowledged, SequenceReused):
            self.trace.count("misused sequences refused")
        except (SessionExpired, *AGAIN):
            return
        else:
            self.checks.violated(
                "client", f"{self.name} used {self._session}:{sequence} again and got {applied}"
            )

    async def _open_session(self) -> None:
        async def serve(node: Node) -> tuple[int, str]:
            self._check_history(node)
            session, _ = await _replica(node).applications.open_session(SESSION_TTL_MS)
            return session, _replica(node).applications.history()

        while True:
            self._active_at = self.process.loop.time()
            try:
                self._session, history = await self.ask(serve)
            except WrongHistory as error:
                self._learn(error)
                await self.back_off()
                continue
            except AGAIN:
                await self.back_off()
                continue
            if self._history:
                self._check_served("is given a session")
            self._line = self.cluster.history_of(history)
            if self.names_histories:
                self._history = history
            self._sequence, self._below = 0, 1
            self.trace.count("sessions opened")
            return

    async def _send(self, proposal: types.Proposal) -> Applied:  # noqa: C901  # one branch for each answer
        doubts = 0
        sent_at = self.process.loop.time()  # a later try may be answered without a new entry
        while True:
            retry = doubts > 0
            wait_applied = self.rng.random() < 0.3

            async def serve(
                node: Node, retry: bool = retry, wait_applied: bool = wait_applied
            ) -> Applied:
                self._check_history(node)
                copy = types.Proposal.FromString(proposal.SerializeToString())
                return await _replica(node).applications.append(
                    copy, retry=retry, wait_applied=wait_applied
                )

            try:
                applied = await self.ask(serve)
                self._active_at = sent_at
                return applied
            except PayloadMissing as error:
                await self.upload(error.digests)
            except WrongHistory as error:
                if self._learn(error):
                    raise HistoryLeft(doubts > 0) from error
                await self.back_off()
            except SessionExpired as error:
                if retry:
                    self.checks.violated("client", f"{self.name}'s retry was refused by {error!r}")
                raise
            except OutcomeUnknown as error:
                doubts += 1
                if error.cause == SessionExpired.reason:
                    raise
                await self.back_off()
            except Unreachable:
                doubts += 1
                await self.back_off()
            except AGAIN:
                await self.back_off()
            self.trace.count("retries")

    # --- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Linearizably: of its own what it knows, of others' counters nothing older than what they
        knew when the read began."""
        other = self.rng.choice(self.cluster.clients)
        item = ("key", other.workload.counter_key)
        view = View(other, item)
        self._reads += 1
        # Not drawn: the seeds then give the runs that they gave before there were frames.
        framed, at_follower = self._reads % 2 == 0, self._reads % 4 in (0, 3)

        async def serve(node: Node) -> tuple[bytes | None, Checks]:
            if framed:
                frame = api.GetFrame(frame_id=1, keys=[b"absent", item[1]])
                frame.at_follower = at_follower
                absent, value = await get_frame(node, frame)
                assert absent is None
                return value, node.checks
            state = await _replica(node).applications.read_point(
                linearizable=True, at_follower=at_follower
            )
            return state.get_value(item[1])[0], node.checks

        nodes = self.reachable()
        node = nodes[self._reads % len(nodes)] if at_follower else None
        try:
            value, line = await self._ask_latest(serve, node)
        except AGAIN:
            return
        if node is not None and node.running is not None and node.running.loop.role != "leader":
            self.trace.count("linearizable reads at followers")
        self.trace.event(self.name, "reads", f"{item[1]!r}: {value!r}")
        self.trace.count(f"linearizable reads{' in frames' if framed else ''}")
        known = view.of(line)
        least = int(next(iter(known)) or b"0") if len(known) == 1 else 0
        if int(value or b"0") < least:
            self.checks.violated(
                "client", f"{self.name} reads {item[1]!r}: {value!r}, after {least}"
            )
        if other is self:
            if value not in self.expected.at(line, item):
                self.checks.violated(
                    "client", f"{self.name} reads {item[1]!r}: {value!r}, which is not it"
                )
            # What was unknown is known now: it must not change any more by itself.
            self.expected.written(line, {item: value})

    async def _ask_latest(
        self,
        serve: Callable[[Node], Coroutine[Any, Any, tuple[T, Checks]]],
        node: Node | None = None,
    ) -> tuple[T, Checks]:
        """Of the leader, or of `node`. Reads name no history. But nothing is read from one that was
        over before the client learnt of the group's history."""
        least = self._line
        found, line = await (self.ask(serve) if node is None else self.ask_at(node, serve))
        if line.number < least.number:
            self.checks.violated(
                "history",
                f"{self.name} knows history {least.number} and reads from {line.number}",
            )
        return found, line

    async def _read_replaced(self) -> None:
        """The file that another client writes over all the time: once it was there, it is there at
        every moment, whole."""
        other = self.rng.choice(self.cluster.clients)
        path = other.workload.replaced_path
        view = View(other, ("path", path))
        try:
            digest, line = await self._ask_for_file(path)
        except AGAIN:
            return
        self.trace.count("files read under replacement")
        if digest is None and None not in view.of(line):
            self.checks.violated("client", f"{self.name} does not find {path!r}")

    async def _read_file(self) -> None:
        """One of its own, linearizably, with its content."""
        path = self.workload.path()
        try:
            digest, line = await self._ask_for_file(path)
        except AGAIN:
            return
        self.trace.event(self.name, "reads", f"{path!r}")
        self.trace.count("files read")
        if digest not in self.expected.at(line, ("path", path)):
            self.checks.violated("client", f"{self.name} reads {path!r}: {digest!r} is not it")

    async def _ask_for_file(self, path: bytes) -> tuple[bytes | None, Checks]:
        """The digest of a file whose content was read, or None if there is no file."""

        async def serve(node: Node) -> tuple[bytes | None, Checks]:
            replica = _replica(node)
            try:
                opened = await replica.applications.open_file(path, 0, linearizable=True)
            except NotFound:
                return None, node.checks
            content = opened.content
            try:
                if isinstance(content, Path):
                    content = await asyncio.to_thread(content.read_bytes)
            finally:
                replica.applications.close_file(opened)
            digest = opened.node.digest
            if hashlib.sha256(content).digest() != digest:
                self.checks.violated("client", f"the content of {path!r} at {node.name} is another")
            return digest, node.checks

        return await self._ask_latest(serve)

    async def _close_session(self) -> None:
        session, self._session = self._session, 0

        async def serve(node: Node) -> None:
            self._check_history(node)
            await _replica(node).applications.close_session(session)

        if session:
            try:
                await self.ask(serve)
            except WrongHistory as error:
                self._learn(error)
            except AGAIN:
                return
            self.trace.count("sessions closed")


class View:
    """What may stand at another client's item when a read of it begins."""

    def __init__(self, other: Client, item: Item) -> None:
        self._other = other
        self._item = item
        self._found = {
            line.number: other.expected.at(line, item) for line in other.cluster.histories
        }

    def of(self, line: Checks) -> set[bytes | None]:
        """In a history that began meanwhile: what was restored."""
        found = self._found.get(line.number)
        return found or restored(line, self._other.name).get(self._item, {None})


def _replica(node: Node) -> Replica:
    assert node.replica is not None, "a call reaches a replica that runs"
    return node.replica
