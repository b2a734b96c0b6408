"""Connections that move files without Python's lock: what they move, whom they refuse, and how they
end."""

import asyncio
import datetime as dt
import hashlib
import os
import threading
from pathlib import Path

import pytest
from partition_proto.connection import pem
from partition_tls import BadConfig, ClientConfig, Connection, ConnectionFailed, Sha256

from tests.support import tls_pairs
from tests.support.tls_pairs import certificates, client, connected, server

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> pem.Pem:
    folder = tmp_path_factory.mktemp("pki") / "one"
    return certificates(folder, tls_pairs.authority(), ["localhost"])


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("size", [0, 1, 16_384, 256 * 1024 + 1, 5_000_000])
async def test_a_file_is_moved(tmp_path: Path, found: pem.Pem, tls: bool, size: int) -> None:
    """A part of one, in two turns, to a place inside another; with the digest of what was moved."""
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(b"before" + content + b"behind")
    half, digest = size // 2, Sha256()
    async with connected(*((server(found), client(found)) if tls else (None, None))) as (to, by):
        with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
            target.write(b"kept")
            target.flush()

            def send() -> int:
                sent = by.send_content(source.fileno(), 6, half)
                return sent + by.send_content(source.fileno(), 6 + half, size - half)

            def receive() -> None:
                to.receive_content(target.fileno(), size, digest)

            sent, _ = await asyncio.gather(asyncio.to_thread(send), asyncio.to_thread(receive))
    assert sent == size
    assert (tmp_path / "target").read_bytes() == b"kept" + content
    assert digest.digest() == hashlib.sha256(content).digest()


async def test_names_of_the_other_side(found: pem.Pem) -> None:
    async with connected(server(found), client(found)) as (to, by):
        assert to.peer_names() == by.peer_names() == ["logstore://tests/group/replica"]
    async with connected(None, None) as (to, by):
        assert to.peer_names() == []


async def test_frames_go_both_ways(found: pem.Pem) -> None:
    async with connected(server(found), client(found)) as (to, by):
        for size in (0, 1, 1024 * 1024):
            data = os.urandom(size)
            for sender, receiver in ((to, by), (by, to)):
                _, got = await asyncio.gather(
                    asyncio.to_thread(sender.write, data), asyncio.to_thread(receiver.read, size)
                )
                assert got == data
        with pytest.raises(ConnectionFailed, match="1048577 bytes are to be read at once"):
            to.read(1024 * 1024 + 1)


@pytest.mark.parametrize(
    ("begin", "lifetime", "why"),
    [(-2 * HOUR, HOUR, "[Ee]xpired"), (2 * HOUR, HOUR, "NotValidYet|not valid yet")],
)
@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_certificate_of_another_time_is_refused(
    tmp_path: Path, who: str, begin: dt.timedelta, lifetime: dt.timedelta, why: str
) -> None:
    known = tls_pairs.authority()
    good = certificates(tmp_path / "good", known, ["localhost"])
    bad = certificates(tmp_path / "bad", known, ["localhost"], begin=begin, lifetime=lifetime)
    here, there = (bad, good) if who == "server" else (good, bad)
    with pytest.raises(ConnectionFailed, match=why if who == "server" else "."):
        await used(here, there)


@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path, who: str) -> None:
    good = certificates(tmp_path / "good", tls_pairs.authority(), ["localhost"])
    bad = certificates(tmp_path / "bad", tls_pairs.authority(), ["localhost"])
    # It trusts ours, so that the refusal is of its own certificate.
    bad = pem.Pem(certificate=bad.certificate, key=bad.key, authority=good.authority)
    here, there = (bad, good) if who == "server" else (good, bad)
    with pytest.raises(ConnectionFailed):
        await used(here, there)


async def test_a_server_of_another_name_is_refused(tmp_path: Path) -> None:
    found = certificates(tmp_path / "one", tls_pairs.authority(), ["elsewhere"])
    with pytest.raises(ConnectionFailed, match="not valid for name"):
        await used(found, found)


async def test_no_certificate_is_refused(found: pem.Pem) -> None:
    """A client that has none can't even be made; one that speaks no TLS is refused."""
    with pytest.raises(ConnectionFailed):
        await used(found, None)
    with pytest.raises(BadConfig, match="the certificate: no certificate is in the PEM text"):
        ClientConfig(found.authority, b"", found.key)


async def used(here: pem.Pem, there: pem.Pem | None) -> None:
    """With TLS 1.3 the side that connects learns of a refusal at its first read."""
    async with connected(server(here), client(there) if there else None, timeout_s=5.0) as (_, by):
        await asyncio.to_thread(by.read, 1)


def test_files_that_are_no_pem_are_named(found: pem.Pem) -> None:
    for name in ("authority", "certificate", "key"):
        parts = {"authority": found.authority, "certificate": found.certificate, "key": found.key}
        with pytest.raises(BadConfig, match=f"the {name}"):
            ClientConfig(**(parts | {name: b"-----BEGIN"}))


async def test_a_key_of_another_certificate_is_refused(tmp_path: Path, found: pem.Pem) -> None:
    other = certificates(tmp_path / "other", tls_pairs.authority(), ["localhost"])
    with pytest.raises(BadConfig, match="the certificate and its key"):
        ClientConfig(found.authority, found.certificate, other.key)


@pytest.mark.parametrize("tls", [False, True])
async def test_silence_ends_it(found: pem.Pem, tls: bool) -> None:
    async with connected(*((server(found), client(found)) if tls else (None, None))) as (to, _):
        to.set_timeout(0.05)
        with pytest.raises(ConnectionFailed, match="did nothing in time"):
            await asyncio.to_thread(to.read, 1)
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(to.write, b"no")


async def test_silence_in_a_handshake_ends_it(found: pem.Pem) -> None:
    accepted, opened = tls_pairs.sockets()
    with opened, pytest.raises(ConnectionFailed, match="did nothing in time"):
        await asyncio.to_thread(Connection.accept, accepted.detach(), server(found), 0.05)


async def test_the_other_sides_end_is_told(found: pem.Pem) -> None:
    async with connected(server(found), client(found)) as (to, by):
        by.shutdown()
        with pytest.raises(ConnectionFailed, match="the other side closed it"):
            await asyncio.to_thread(to.read, 1)


async def test_a_running_call_ends_by_shutdown(found: pem.Pem) -> None:
    async with connected(server(found), client(found)) as (to, _):
        begun = threading.Event()

        def read() -> bytes:
            begun.set()
            return to.read(1)

        reading = asyncio.create_task(asyncio.to_thread(read))
        await asyncio.to_thread(begun.wait)
        to.shutdown()
        with pytest.raises(ConnectionFailed):
            await reading


async def test_content_that_does_not_come_is_not_written(tmp_path: Path, found: pem.Pem) -> None:
    """Of a sender that ends in the middle of a block."""
    async with connected(server(found), client(found)) as (to, by):
        await asyncio.to_thread(by.write, bytes(256 * 1024 + 10))
        by.shutdown()
        with (tmp_path / "target").open("wb") as target, pytest.raises(ConnectionFailed):
            await asyncio.to_thread(to.receive_content, target.fileno(), 300_000, Sha256())
    assert (tmp_path / "target").stat().st_size in (0, 256 * 1024)


async def test_a_file_that_ends_before_is_told(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(10))
    async with connected(None, None) as (_, by):
        with (tmp_path / "source").open("rb") as source:
            assert await asyncio.to_thread(by.send_content, source.fileno(), 3, 100) == 7


async def test_a_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    """As an OSError, which the connection survives."""
    (tmp_path / "target").touch()
    async with connected(None, None) as (to, by):
        await asyncio.to_thread(by.write, bytes(10) + b"more")
        with (tmp_path / "target").open("rb") as target, pytest.raises(OSError, match="descriptor"):
            await asyncio.to_thread(to.receive_content, target.fileno(), 10, Sha256())
        assert await asyncio.to_thread(to.read, 4) == b"more"
