"""Payloads that one member pushes to another over connections of their own, on loopback."""

import asyncio
import errno
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import DiskFull, StorageFailed
from partition_replica.ids import Digest
from partition_replica.runtime.transfer import payloads
from partition_replica.runtime.transfer.arriving import ArrivingFile
from partition_replica.storage import files
from partition_replica.storage.blobs import BlobStore
from partition_replica.transport import payload_link
from partition_tls import Sha256

from tests.support.certificates import MountedCertificates
from tests.support.payload_receivers import Pair, StoringReplica, digest_of, pair
from tests.support.payload_receivers import patient as patient  # a fixture
from tests.support.power_loss import Model, Recorder, materialise
from tests.support.raft_receivers import OWN, until
from tests.support.raft_receivers import pki as pki  # a fixture
from tests.support.tls_pairs import connected

SIZES = [65_537, 256 * 1024, 1024**2 + 1, payloads.MOVED_AT_ONCE_BYTES + 3]
"""Around the blocks in which content is moved."""

FAMILY = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0][0]
"""Of the address that is tried first."""


@pytest.mark.parametrize("tls", [False, True])
async def test_payloads_arrive_whole(tmp_path: Path, pki: MountedCertificates, tls: bool) -> None:
    """One after the other and several at once; each is durable under its name, and pinned."""
    contents = [os.urandom(size) for size in [*SIZES, *SIZES]]
    async with pair(tmp_path, pki=pki if tls else None) as both:
        found = [await both.push(content) for content in contents[:4]]
        found += await asyncio.gather(*(both.push(content) for content in contents[4:]))
        assert [both.replica.content(digest) for digest in found] == contents
        assert both.sender.pushed == {"connection": len(contents)}
        assert both.replica.store.pinned == len(contents)
        assert both.replica.staged() == []
        assert both.receiver.listener._payloads.open_count in range(1, 5)


async def test_what_the_member_has_is_not_sent_again(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        await both.push(b"a" * 100_000)
        before = both.replica.received_bytes
        await both.push(b"a" * 100_000)
        assert (both.replica.offers, both.replica.received_bytes) == (2, before)


async def test_one_that_arrives_is_passed_on(tmp_path: Path, pki: MountedCertificates) -> None:
    """The member has the first part before the last one is here."""
    content = os.urandom(3_000_000)
    path = tmp_path / "arriving"
    path.write_bytes(content[:1_000_000])
    arriving = ArrivingFile(path, len(content), 1024**2)
    arriving.advance(1_000_000)
    async with pair(tmp_path, pki=pki) as both:
        pushing = asyncio.create_task(
            both.sender.peers.push_arriving(OWN, digest_of(content), len(content), arriving)
        )
        await until(lambda: staged_bytes(both) >= 3 * 256 * 1024, "the first blocks are there")
        with path.open("ab") as file:
            file.write(content[1_000_000:])
        arriving.advance(len(content))
        await pushing
        assert both.replica.content(digest_of(content)) == content
        assert both.sender.pushed == {"connection": 1}


def staged_bytes(both: Pair) -> int:
    return sum((both.replica.staging / name).stat().st_size for name in both.replica.staged())


@pytest.mark.parametrize("arrived", [0, 500_000])
async def test_one_that_is_given_up_is_kept_nowhere(tmp_path: Path, arrived: int) -> None:
    content = os.urandom(1_000_000)
    path = tmp_path / "arriving"
    path.write_bytes(content[:arrived])
    arriving = ArrivingFile(path, len(content), 1024**2)
    arriving.advance(arrived)
    async with pair(tmp_path) as both:
        pushing = asyncio.create_task(
            both.sender.peers.push_arriving(OWN, digest_of(content), len(content), arriving)
        )
        await until(lambda: both.replica.staged(), "the member wants it")
        arriving.end()
        with pytest.raises(PeerFailed, match="given up"):
            await pushing
        await until(lambda: not both.replica.staged(), "the member discards it")
        assert not both.replica.store.has(digest_of(content))
        await both.push(content)
        assert both.sender.pushed == {"connection": 1}


async def test_content_of_another_digest_is_refused(tmp_path: Path) -> None:
    """Also if a byte of the last part differs."""
    content = os.urandom(SIZES[-1])
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    async with pair(tmp_path) as both:
        file = both.file(wrong)
        with pytest.raises(PeerFailed, match="SHA-256"):
            await both.sender.peers.push_payload(OWN, digest_of(content), file, len(content))
        assert both.replica.staged() == []
        assert not both.replica.store.has(digest_of(content))
        assert not both.replica.store.has(digest_of(wrong))
        await both.push(content)


@pytest.mark.parametrize("missing", [False, True])
async def test_a_file_that_is_not_whole_fails_for_good(tmp_path: Path, missing: bool) -> None:
    async with pair(tmp_path) as both:
        file = both.file(b"a" * 100_000)
        if missing:
            file.unlink()
        with pytest.raises(PeerFailed, match="can't be sent") as failed:
            await both.sender.peers.push_payload(OWN, digest_of(b"a"), file, 200_000)
        assert failed.value.refused
        await until(lambda: not both.replica.staged(), "the member discards it")


async def test_a_full_volume_refuses_an_offer(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        both.replica.full = True
        with pytest.raises(PeerFailed, match="DISK_FULL"):
            await both.push(b"a" * 100_000)
        assert both.replica.received_bytes == 0
        both.replica.full = False
        await both.push(b"a" * 100_000)


async def test_a_declined_offer_leaves_the_connection(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        await both.push(b"a" * 100_000)
        link = both.sender.peers._connected(OWN).payloads
        first = link._idle[0][0]
        both.replica.full = True
        for _ in range(3):
            with pytest.raises(PeerFailed, match="DISK_FULL"):
                await both.push(b"b" * 100_000)
        assert [thread for thread, *_ in link._idle] == [first]


async def test_a_volume_that_fills_up_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "MOVED_AT_ONCE_BYTES", 100_000)
    content = os.urandom(64_000_000)
    async with pair(tmp_path) as both:
        check = both.replica.payloads._check_reserve

        def fills_up() -> None:
            both.replica.full = both.replica.received_bytes >= 300_000
            check()

        monkeypatch.setattr(both.replica.payloads, "_check_reserve", fills_up)
        with pytest.raises(PeerFailed):
            await both.push(content)
        assert both.replica.staged() == []
        assert both.replica.received_bytes == 300_000
        monkeypatch.setattr(both.replica.payloads, "_check_reserve", check)
        both.replica.full = False
        await both.push(content[:200_000])


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, DiskFull), (errno.EIO, StorageFailed)])
def test_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: type[Exception]
) -> None:
    """A full disk refuses the payload; a broken one ends the process."""
    store = BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=1)
    writer = store.writer(Digest(b"d" * 32), 10)
    with pytest.raises(reason):
        writer.move(Content(b"0123456789", fails=OSError(code, "no")), 10)
    assert writer.failed
    writer.abort()
    assert os.listdir(tmp_path / "staging") == []


def test_a_disk_without_room_for_a_name_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=1)

    def no_inode(_: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, "no inode is left", str(path))

    monkeypatch.setattr(files.Disk, "create", no_inode)
    with pytest.raises(DiskFull):
        store.writer(Digest(b"d" * 32), 10)


async def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    """By the number that the kernel gives, through the compiled module."""
    store = BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=1)
    async with connected(None, None) as (to, by):
        await asyncio.to_thread(by.write, bytes(10))
        writer = store.writer(Digest(b"d" * 32), 10)
        writer._file.close()
        writer._file = open("/dev/full", "wb", buffering=0)  # the writer closes it
        content = Content(b"")
        moving = partial(to.receive_content, digest=Sha256())
        content.move = moving  # type: ignore[method-assign]
        with pytest.raises(DiskFull):
            await asyncio.to_thread(writer.move, content, 10)
        writer.abort()


async def test_a_slow_receiver_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for one that is silent on a Raft connection: its kernel answers."""
    monkeypatch.setattr(payloads, "MOVED_AT_ONCE_BYTES", 1024**2)
    limits = replace(Limits(), raft_silence_s=1.0)
    content = os.urandom(40_000_000)
    async with pair(tmp_path, limits) as both:
        move = payloads._move
        looks: list[float] = []

        def slow(*arguments: Any) -> None:
            if not looks:
                looks.append(time.monotonic())
                while time.monotonic() < looks[0] + 3.0:  # a disk that others keep busy
                    time.sleep(0.1)
            move(*arguments)

        monkeypatch.setattr(payloads, "_move", slow)
        assert both.replica.content(await both.push(content)) == content
        assert both.sender.pushed == {"connection": 1}


async def test_a_port_that_says_nothing_holds_no_push_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several pushes at a time go over gRPC, and count as one failure."""
    monkeypatch.setattr(payload_link, "OPEN_WAIT_S", 0.1)
    async with pair(tmp_path) as both:
        link = both.sender.peers._connected(OWN).payloads
        with socket.create_server(("localhost", 0), family=FAMILY) as silent:
            link.listens_at(silent.getsockname()[1])
            contents = [os.urandom(70_000) for _ in range(6)]
            began = time.monotonic()
            await asyncio.gather(*(both.push(content) for content in contents))
            assert time.monotonic() - began < both.receiver.limits.raft_hello_s
            assert both.sender.pushed == {"stream": 6}
            await until(lambda: link._failures, "the tries have failed", 30.0)
            assert link._failures == 1


async def test_a_member_that_was_restarted_is_pushed_to_again(tmp_path: Path) -> None:
    """The connections that it closed are found out before anything is lost."""
    async with pair(tmp_path) as both:
        await both.push(b"a" * 100_000)
        await both.receiver.listener._payloads.close()
        await both.push(b"b" * 100_000)
        assert both.sender.pushed == {"connection": 2}


async def test_more_than_the_limit_go_over_grpc(tmp_path: Path) -> None:
    limits = replace(Limits(), payload_connections_max=1)
    content = os.urandom(100_000)
    path = tmp_path / "arriving"
    path.write_bytes(b"")
    arriving = ArrivingFile(path, 70_000, 1024**2)
    async with pair(tmp_path, limits) as both:
        holding = asyncio.create_task(
            both.sender.peers.push_arriving(OWN, Digest(b"h" * 32), 70_000, arriving)
        )
        await until(lambda: both.replica.staged(), "the only connection is in use")
        await both.push(content)
        assert both.sender.pushed == {"stream": 1}
        arriving.end()
        with pytest.raises(PeerFailed):
            await holding


async def test_an_earlier_version_is_pushed_to_over_grpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as both:
        both.sender.peers._connected(OWN).payloads.listens_at(0)  # as its hello says
        await both.push(b"a" * 100_000)
        assert both.sender.pushed == {"stream": 1}


async def test_idle_connections_are_closed(tmp_path: Path) -> None:
    limits = replace(Limits(), payload_connection_idle_s=0.05)
    async with pair(tmp_path, limits) as both:
        await both.push(b"a" * 100_000)
        await until(lambda: not both.receiver.listener._payloads.open_count, "it is closed")
        await both.push(b"b" * 100_000)
        assert both.sender.pushed == {"connection": 2}


async def test_renewed_certificates_are_used(tmp_path: Path, pki: MountedCertificates) -> None:
    """A connection that was opened with the earlier ones is not used again."""
    async with pair(tmp_path, pki=pki) as both:
        await both.push(b"a" * 100_000)
        link = both.sender.peers._connected(OWN).payloads
        first = link._idle[0][0]
        pki.renew()
        await both.push(b"b" * 100_000)
        assert first.over
        assert both.sender.pushed == {"connection": 2}


@pytest.mark.parametrize("side", ["receiver", "sender"])
async def test_an_end_does_not_wait_for_a_transfer(tmp_path: Path, side: str) -> None:
    """Of a sender that has stopped in the middle."""
    path = tmp_path / "arriving"
    path.write_bytes(b"a" * 10)
    arriving = ArrivingFile(path, 70_000, 1024**2)
    arriving.advance(10)
    async with pair(tmp_path) as both:
        pushing = asyncio.create_task(
            both.sender.peers.push_arriving(OWN, Digest(b"h" * 32), 70_000, arriving)
        )
        await until(lambda: staged_bytes(both) == 0 and both.replica.staged(), "it is wanted")
        if side == "receiver":
            await both.receiver.listener.close()
        else:
            pushing.cancel()
            await asyncio.wait([pushing])
        await until(lambda: not both.replica.staged(), "nothing is kept")
        arriving.end()
        await asyncio.wait([pushing])


class Content:
    """Content that was received."""

    def __init__(self, content: bytes, fails: OSError | None = None) -> None:
        self._content = content
        self._fails = fails

    async def run(self, body: Callable[[], Any]) -> Any:
        raise NotImplementedError

    def accept(self) -> None: ...

    def move(self, descriptor: int, count: int) -> None:
        if self._fails:
            raise self._fails
        os.write(descriptor, self._content[:count])

    def digest(self) -> bytes:
        return digest_of(self._content)


@pytest.mark.parametrize("omit", ["", "sync staging/.*"])
def test_the_power_fails_while_one_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, omit: str
) -> None:
    """A name never has other content, and what was stored is there. Without the fsync of the
    content, the check finds it."""
    content = random.Random(5).randbytes(20_000)
    digest = digest_of(content)
    root = tmp_path / "volume"
    root.mkdir()
    recorder = Recorder(root, omit)
    monkeypatch.setattr(files, "disk", recorder)
    store = BlobStore(root / "blobs", root / "staging", pins_max=1)
    writer = store.writer(digest, len(content))
    writer.move(Content(content), len(content))
    writer.finish()
    name = store.path(digest).relative_to(root)
    wrong = 0
    for point in range(len(recorder.operations) + 1):
        last = point == len(recorder.operations)
        for tree in Model(recorder.operations[:point]).survivors(random.Random(point), 20):
            materialise(tree, tmp_path / "left")
            left = tmp_path / "left" / name
            found = left.read_bytes() if left.exists() else None
            wrong += found != content if last else found not in (None, content)
    assert (wrong > 0) == bool(omit)


async def test_the_digest_is_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MOVED_AT_ONCE_BYTES", 70_001)
    content = os.urandom(1_000_000)
    async with pair(tmp_path) as both:
        assert both.replica.content(await both.push(content)) == content
        assert isinstance(both.replica, StoringReplica)
