"""Applications: each writes keys and files of its own, one proposal after another, and knows what
it must find there.

A proposal is sent again under the same sequence until it is answered. A refusal is taken at its
word: if every try was refused, it had no effect. If its session is gone while a try is in doubt,
both are possible, until something is written over it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX
from partition_replica.core.model import Applied
from partition_replica.errors import (
    NotFound,
    OutcomeUnknown,
    PayloadMissing,
    PreconditionFailed,
    SequenceAcknowledged,
    SequenceReused,
    SessionExpired,
)
from partition_replica.runtime.replica import Replica

from tests.simulation.callers import AGAIN, Caller
from tests.simulation.loop import Process
from tests.simulation.network import Unreachable
from tests.simulation.node import Node
from tests.support import proposals

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

Item = tuple[str, bytes]
"""("key", key) or ("path", path)."""

SESSION_TTL_MS = 10_000
IDLE_S = (11.0, 16.0)
CONTENTS = 10
"""Different large contents, which all clients share: what one removes another writes again."""


def large_content(number: int) -> bytes:
    size = PAYLOAD_INLINE_BYTES_MAX + 1 + number
    return (b"content %d " % number * (size // 8))[:size]


_LARGE = [large_content(number) for number in range(CONTENTS)]
DIGESTS = {hashlib.sha256(content).digest(): content for content in _LARGE}


@dataclass
class Operation:
    """A proposal before it has a sequence. `effect`: what it leaves where."""

    kind: str
    operations: list[types.Operation]
    effect: dict[Item, bytes | None]
    payloads: list[types.Payload] = field(default_factory=list)
    preconditions: list[types.Precondition] = field(default_factory=list)
    holds: bool = True
    """Whether the preconditions hold."""


class Client(Caller):
    """One application."""

    def __init__(self, name: str, process: Process, cluster: "Cluster") -> None:
        super().__init__(name, process, cluster)
        self.expected: dict[Item, set[bytes | None]] = {}
        self.answers = 0
        self.counter = 0
        self._serial = 0
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
                await self._write(self._draw())
        await self._write(self._set_key())

    # --- what it writes -----------------------------------------------------------------------

    def _draw(self) -> Operation:
        choices = [
            (6, self._set_key),
            (2, self._delete_key),
            (3, self._count_up),
            (2, self._put_small),
            (6, self._put_large),
            (6, self._remove_file),
            (2, self._copy_file),
            (3, self._replace),
        ]
        weights = [weight for weight, _ in choices]
        return self.rng.choices([make for _, make in choices], weights)[0]()

    def _key(self) -> bytes:
        return b"%s/%d" % (self.name.encode(), self.rng.randrange(4))

    def _path(self) -> bytes:
        return b"%s-%d" % (self.name.encode(), self.rng.randrange(4))

    def _set_key(self) -> Operation:
        self._serial += 1
        key, value = self._key(), b"%d" % self._serial
        return Operation("set", [proposals.set_key(key, value)], {("key", key): value})

    def _delete_key(self) -> Operation:
        key = self._key()
        return Operation("delete", [proposals.delete_key(key)], {("key", key): None})

    @property
    def counter_key(self) -> bytes:
        return b"%s/counter" % self.name.encode()

    def _count_up(self) -> Operation:
        """Only where it is known what stands there: it must be found, whatever happened since."""
        key = self.counter_key
        known = self._known(("key", key))
        if known is None:
            return self._set_key()
        (now,) = known
        self.counter += 1
        value = b"%d" % self.counter
        precondition = (
            types.Precondition(key_absent=key)
            if now is None
            else types.Precondition(key_equals=types.KeyEquals(key=key, value=now))
        )
        return Operation(
            "count",
            [proposals.set_key(key, value)],
            {("key", key): value},
            preconditions=[precondition],
        )

    def _put(self, kind: str, content: bytes, path: bytes = b"") -> Operation:
        path = path or self._path()
        payload = proposals.payload(content)
        return Operation(
            kind,
            [proposals.remove(path), proposals.link(path)],
            {("path", path): payload.digest},
            payloads=[payload],
        )

    def _put_small(self) -> Operation:
        return self._put("small", b"small %d" % self.rng.randrange(CONTENTS))

    def _put_large(self) -> Operation:
        return self._put("large", self.rng.choice(_LARGE))

    @property
    def replaced_path(self) -> bytes:
        """A file that is written over and over, and never removed."""
        return b"%s-replaced" % self.name.encode()

    def _replace(self) -> Operation:
        content = self.rng.choice([b"small %d" % self.rng.randrange(CONTENTS), *_LARGE[:2]])
        return self._put("replace", content, self.replaced_path)

    def _remove_file(self) -> Operation:
        path = self._path()
        return Operation("remove", [proposals.remove(path)], {("path", path): None})

    def _copy_file(self) -> Operation:
        source, target = self._path(), self._path()
        known = self._known(("path", source))
        if known in (None, {None}) or source == target:
            return self._set_key()
        return Operation(
            "copy",
            [proposals.remove(target), proposals.copy(source, target)],
            {("path", target): next(iter(known or ()))},
        )

    def _known(self, item: Item) -> set[bytes | None] | None:
        """What stands there, where only one thing can."""
        found = self.expected.get(item, {None})
        return found if len(found) == 1 else None

    # --- writing ------------------------------------------------------------------------------

    async def _write_by_a_wrong_precondition(self) -> None:
        """It must have no effect, and be refused, whatever happens meanwhile."""
        key = self._key()
        wrong = types.Precondition(key_equals=types.KeyEquals(key=key, value=b"never"))
        operation = Operation(
            "nothing", [proposals.set_key(key, b"wrong")], {}, preconditions=[wrong], holds=False
        )
        await self._write(operation)

    async def _write(self, operation: Operation) -> None:
        if not self._session:
            await self._open_session()
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
            self._lost_session()
            self.trace.count("outcomes that nobody knows")
            for item, value in operation.effect.items():
                self.expected[item] = self.expected.get(item, {None}) | {value}
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
        self.trace.count("acknowledged writes")
        self.answers += 1
        if applied.kind == "duplicate":
            self.trace.count("retries that had taken effect")
        self.checks.acknowledge(lsn, term, (self.name, self._session, self._sequence))
        if self.rng.random() < 0.7:
            self._below = self._sequence + 1
        for item, value in operation.effect.items():
            self.expected[item] = {value}

    async def _misuse_a_sequence(self) -> None:
        """Sends another content under a sequence that was used: it must have no effect, and nobody
        may say that it had."""
        if not self._session or not self._sequence:
            return
        sequence = self.rng.randint(1, self._sequence)
        misuse = proposals.proposal(
            self._session, sequence, [proposals.set_key(self._key(), b"misuse")], below=sequence
        )
        retry, wait_applied = self.rng.random() < 0.5, self.rng.random() < 0.5
        try:
            applied = await self.ask(
                lambda node: _replica(node).append(misuse, retry=retry, wait_applied=wait_applied)
            )
        except (SequenceAcknowledged, SequenceReused):
            self.trace.count("misused sequences refused")
        except (SessionExpired, *AGAIN):
            return
        else:
            self.checks.violated(
                "client", f"{self.name} used {self._session}:{sequence} again and got {applied}"
            )

    async def _open_session(self) -> None:
        while True:
            self._active_at = self.process.loop.time()
            try:
                self._session, _ = await self.ask(
                    lambda node: _replica(node).open_session(SESSION_TTL_MS)
                )
            except AGAIN:
                await self.back_off()
                continue
            self._sequence, self._below = 0, 1
            self.trace.count("sessions opened")
            return

    async def _send(self, proposal: types.Proposal) -> Applied:
        doubts = 0
        sent_at = self.process.loop.time()  # a later try may be answered without a new entry
        while True:
            retry = doubts > 0
            wait_applied = self.rng.random() < 0.3

            async def serve(
                node: Node, retry: bool = retry, wait_applied: bool = wait_applied
            ) -> Applied:
                copy = types.Proposal.FromString(proposal.SerializeToString())
                return await _replica(node).append(copy, retry=retry, wait_applied=wait_applied)

            try:
                applied = await self.ask(serve)
                self._active_at = sent_at
                return applied
            except PayloadMissing as error:
                await self._upload(error.digests)
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

    async def _upload(self, digests: list[bytes]) -> None:
        for digest in digests:
            content = DIGESTS[digest]

            async def serve(
                node: Node, digest: bytes = digest, content: bytes = content
            ) -> list[int]:
                return await _replica(node).upload(digest, len(content), self._chunks(content))

            try:
                await self.ask(serve)
            except AGAIN:
                await self.back_off()
                return
            self.trace.count("uploads")

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        chunk_bytes = self.cluster.settings.limits.chunk_bytes
        for start in range(0, len(content), chunk_bytes):
            await asyncio.sleep(self.network.latency())
            yield content[start : start + chunk_bytes]

    # --- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Linearizably: of its own what it knows, of others' counters nothing older than what they
        knew when the read began."""
        other = self.rng.choice(self.cluster.clients)
        key = self.counter_key if other is self else other.counter_key
        known = other._known(("key", key))
        least = int(next(iter(known or {None})) or b"0")

        async def serve(node: Node) -> bytes | None:
            state = await _replica(node).read_point(linearizable=True)
            return state.get_value(key)[0]

        try:
            value = await self.ask(serve)
        except AGAIN:
            return
        self.trace.event(self.name, "reads", f"{key!r}: {value!r}")
        self.trace.count("linearizable reads")
        if int(value or b"0") < least:
            self.checks.violated("client", f"{self.name} reads {key!r}: {value!r}, after {least}")
        if other is self:
            if value not in self.expected.get(("key", key), {None}):
                self.checks.violated(
                    "client", f"{self.name} reads {key!r}: {value!r}, which is not it"
                )
            # What was unknown is known now: it must not change any more by itself.
            self.expected["key", key] = {value}

    async def _read_replaced(self) -> None:
        """The file that another client writes over all the time: once it was there, it is there at
        every moment, whole."""
        other = self.rng.choice(self.cluster.clients)
        known = other.expected.get(("path", other.replaced_path), {None})
        try:
            digest = await self._ask_for_file(other.replaced_path)
        except AGAIN:
            return
        self.trace.count("files read under replacement")
        if digest is None and None not in known:
            self.checks.violated("client", f"{self.name} does not find {other.replaced_path!r}")

    async def _read_file(self) -> None:
        """One of its own, linearizably, with its content."""
        path = self._path()
        possible = self.expected.get(("path", path), {None})
        try:
            digest = await self._ask_for_file(path)
        except AGAIN:
            return
        self.trace.event(self.name, "reads", f"{path!r}")
        self.trace.count("files read")
        if digest not in possible:
            self.checks.violated("client", f"{self.name} reads {path!r}: {digest!r} is not it")

    async def _ask_for_file(self, path: bytes) -> bytes | None:
        """The digest of a file whose content was read, or None if there is no file."""

        async def serve(node: Node) -> bytes | None:
            replica = _replica(node)
            try:
                opened = await replica.open_file(path, 0, linearizable=True)
            except NotFound:
                return None
            content = opened.content
            try:
                if isinstance(content, Path):
                    content = await asyncio.to_thread(content.read_bytes)
            finally:
                replica.close_file(opened)
            digest = opened.node.digest
            if hashlib.sha256(content).digest() != digest:
                self.checks.violated("client", f"the content of {path!r} at {node.name} is another")
            return digest

        return await self.ask(serve)

    async def _close_session(self) -> None:
        session, self._session = self._session, 0
        if session:
            with suppress(*AGAIN):
                await self.ask(lambda node: _replica(node).close_session(session))
                self.trace.count("sessions closed")


def _replica(node: Node) -> Replica:
    assert node.replica is not None, "a call reaches a replica that runs"
    return node.replica
