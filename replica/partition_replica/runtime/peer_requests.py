"""Handles requests of the other members: Raft messages, payloads, state transfers."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

from partition_proto.v1 import peer_pb2 as peer

from partition_replica.core.model import ReplicaStatus
from partition_replica.core.payloads import CompletePayloads, MovedContent
from partition_replica.core.ports import LogView, PeerTransport
from partition_replica.core.validation import check_digest
from partition_replica.engine.port import InvalidMessage, Message
from partition_replica.errors import NotBootstrapped, NotFound, WrongCluster
from partition_replica.ids import Digest
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.status import Status
from partition_replica.storage.blobs import BlobStore

logger = logging.getLogger(__name__)


class PeerRequests:
    """Implements core.services.PeerRequestService. On the event loop."""

    def __init__(
        self,
        log: LogView,
        blobs: BlobStore,
        transport: PeerTransport,
        metrics: Metrics,
        current: CurrentMember,
        status: Status,
    ) -> None:
        self._log = log
        self._blobs = blobs
        self._transport = transport
        self._metrics = metrics
        self._current = current
        self._status = status

    def status(self) -> ReplicaStatus:
        return self._status.read()

    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        identity = self._log.identity
        if not identity.cluster_id:
            raise NotBootstrapped(
                "this volume belongs to no cluster yet: retry after the operator bootstraps it"
            )
        self._current.check_cluster(cluster)
        if to_member and to_member != identity.member_id:
            raise WrongCluster(
                f"the request is for member {to_member:x}, but this is member "
                f"{identity.member_id:x}: the address belongs to another volume now"
            )
        self._check_not_rolled_back(sender, last_index)

    def _check_not_rolled_back(self, sender: int, last_index: int) -> None:
        """Raises WrongCluster if the sender's log ends below an entry that it acknowledged to this
        leader. It then lost durable entries: its volume was rolled back or is a clone."""
        member = self._current.member
        if member is None or not sender or member.loop.role != "leader":
            return
        for progress in member.loop.status().progress:
            if progress.id == sender and progress.matched > last_index:
                raise WrongCluster(
                    f"the log of member {sender:x} ends at {last_index}, but the member "
                    f"acknowledged {progress.matched} before: its volume was rolled back. Delete "
                    "the volume, so that the operator replaces the member"
                )

    def greet(self, member: int, address: str) -> None:
        self._transport.learn_address(member, address)
        if self._current.member is not None:
            self._current.member.loop.peer_connected(member)

    def disconnected(self, member: int) -> None:
        if self._current.member is not None:
            self._current.member.loop.peer_disconnected(member)

    def unreachable(self, member_id: int) -> None:
        """The stream to a member failed: the engine sends it no entries until it answers."""
        member = self._current.member
        if member is not None:
            member.loop.report_unreachable(member_id)

    def receive(self, message: bytes, sender: int) -> None:
        # Also while the replica stops: a leadership transfer needs the answers of the others.
        member = self._current.member
        if member is None:
            return
        try:
            decoded = Message.decode(message)
        except InvalidMessage as error:
            logger.warning("a message of member %x is refused: %s", sender, error)
            self._metrics.messages_dropped.labels("invalid").inc()
            return
        if decoded.sender != sender or decoded.snapshot is not None:
            # A snapshot message is only valid together with its data (InstallSnapshot).
            self._metrics.messages_dropped.labels("invalid").inc()
            return
        member.payloads.admit(decoded, len(message))

    async def take_payload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> bool:
        check_digest(digest, "the payload")
        return await self._current.running().payloads.receive(Digest(digest), size, chunks)

    async def take_moved(self, digest: bytes, size: int, content: MovedContent) -> bool:
        check_digest(digest, "the payload")
        return await self._current.running().payloads.receive_moved(Digest(digest), size, content)

    async def take_payloads(self, groups: AsyncIterator[CompletePayloads]) -> None:
        await self._current.running().payloads.receive_together(groups)

    def payload_file(self, digest: bytes) -> tuple[Path, int]:
        check_digest(digest, "the payload")
        size = self._blobs.size(Digest(digest))
        if size is None:
            raise NotFound(f"payload {digest.hex()} is not on this volume")
        return self._blobs.path(Digest(digest)), size

    async def receive_state(self, header: peer.TransferHeader, chunks: AsyncIterator[bytes]) -> int:
        self.check_peer(header.cluster_id, header.receiver)
        return await self._current.running().receiver.install(header, chunks)

    def transfer_offset(self, header: peer.TransferHeader) -> int:
        self.check_peer(header.cluster_id, header.receiver)
        return self._current.running().receiver.offset(header)
