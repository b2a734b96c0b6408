"""A member that stores payloads which come over loopback, and one that pushes them."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration
from partition_replica.core.payloads import MovedContent
from partition_replica.core.validation import check_digest
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.storage.blobs import BlobStore
from partition_replica.transport import payload_link

from tests.support.certificates import MountedCertificates
from tests.support.raft_receivers import OWN, Receiver, Replica, Sender


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a handshake may take longer than a push waits for it."""
    monkeypatch.setattr(payload_link, "OPEN_WAIT_S", 30.0)


def digest_of(content: bytes) -> Digest:
    return Digest(hashlib.sha256(content).digest())


class StoringReplica(Replica):
    """Stores what is pushed, as a replica does. `full`: its volume is below its reserve."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        super().__init__()
        folder.mkdir()
        self.staging = folder / "staging"
        self.store = BlobStore(folder / "blobs", self.staging, pins_max=1000)
        self.metrics = Metrics()
        self.full = False
        self.offers = 0
        self.payloads = Payloads(
            self.store,
            cast("Any", None),
            limits,
            self.metrics,
            own_member=OWN,
            configuration=Configuration,
            disk_full=lambda: self.full,
            disk_low=lambda: self.full,
            deliver=lambda *_: None,
            failed=lambda _: None,
        )

    def check_peer(self, cluster: str, to: int, sender: int = 0, last_index: int = 9) -> None:
        # The RPCs of payloads name no receiver.
        super().check_peer(cluster, to or OWN, sender, last_index or 9)

    async def take_payload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> bool:
        return await self.payloads.receive(Digest(digest), size, chunks)

    async def take_moved(self, digest: bytes, size: int, content: MovedContent) -> bool:
        self.offers += 1
        check_digest(digest, "the payload")
        return await self.payloads.receive_moved(Digest(digest), size, content)

    @property
    def received_bytes(self) -> float:
        return self.metrics.payload_bytes.labels("in")._value.get()

    def content(self, digest: Digest) -> bytes:
        return self.store.path(digest).read_bytes()

    def staged(self) -> list[str]:
        return os.listdir(self.staging)


class Pair:
    """The member that stores, and the one that pushes."""

    def __init__(self, folder: Path, receiver: Receiver, sender: Sender) -> None:
        self._folder = folder
        self.receiver = receiver
        self.sender = sender

    @property
    def replica(self) -> StoringReplica:
        return cast("StoringReplica", self.receiver.replica)

    def file(self, content: bytes) -> Path:
        path = self._folder / digest_of(content).hex()
        path.write_bytes(content)
        return path

    async def push(self, content: bytes) -> Digest:
        digest = digest_of(content)
        await self.sender.peers.push_payload(OWN, digest, self.file(content), len(content))
        return digest


@asynccontextmanager
async def pair(
    folder: Path, limits: Limits | None = None, pki: MountedCertificates | None = None
) -> AsyncIterator[Pair]:
    """Both, connected; with mutual TLS if `pki` is given."""
    limits = limits or Limits()
    here, there = (pki.folders["replica-0"], pki.folders["replica-1"]) if pki else (None, None)
    replica = StoringReplica(folder / "replica", limits)
    async with Receiver(limits, here, replica).serving() as receiver:
        receiver.listen()
        async with Sender(receiver.address, limits, there) as sender:
            await sender.connected()
            sent = folder / "sent"
            sent.mkdir()
            yield Pair(sent, receiver, sender)
    await replica.payloads.close()
