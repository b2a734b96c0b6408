"""Certificate, key and certificate authority (CA) as PEM: read together, and checked before gRPC
gets them.

gRPC ends the process if a certificate is empty, and reports nothing if a certificate is incomplete.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

READS_MAX = 5
"""The number of times that files are read again if they change while they are read."""

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl module does not define."""

_BLOCKS = {
    "certificate": "-----BEGIN CERTIFICATE-----",
    "key": "PRIVATE KEY-----",
    "authority": "-----BEGIN CERTIFICATE-----",
}


class BadPem(Exception):
    """A file is missing, empty or incomplete, or does not match the others. The message names the
    file."""


@dataclass(frozen=True, slots=True)
class PemFiles:
    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> tuple[int, ...]:
        """Returns inode, size and modification time of each file: different if a file changed.
        Raises OSError."""
        found: list[int] = []
        for path in (self.certificate, self.key, self.authority):
            stat = path.stat()
            found += (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Pem:
    """The content of the files. authority: one certificate or several, each of them trusted."""

    certificate: bytes
    key: bytes
    authority: bytes


@dataclass(frozen=True, slots=True)
class Leaf:
    """The fields of our own certificate: its validity and its URI names."""

    not_before: datetime
    not_after: datetime
    uris: tuple[str, ...]


def read(files: PemFiles) -> tuple[Pem, tuple[int, ...]]:
    """Returns the checked content of the files, with their stamp. Raises BadPem.

    The kubelet replaces all files of a Secret at once, so three reads may see two versions. They
    are repeated until no file changed between the first and the last read.
    """
    problem: BadPem | None = None
    for _ in range(READS_MAX):
        try:
            before = files.stamp()
            pem = Pem(
                files.certificate.read_bytes(),
                files.key.read_bytes(),
                files.authority.read_bytes(),
            )
            unchanged = files.stamp() == before
        except OSError as error:
            raise BadPem(
                f"{error.filename}: {error.strerror}; provide tls.crt, tls.key and ca.crt of one "
                "Secret"
            ) from error
        try:
            check(pem, files)
        except BadPem as error:
            problem = error
            if unchanged:
                raise
        else:
            if unchanged:
                return pem, before
    raise problem or BadPem(
        f"{files.certificate} changed during each of {READS_MAX} reads; replace it by one rename"
    )


def check(pem: Pem, files: PemFiles | None = None) -> None:
    """Raises BadPem unless each part is complete PEM and the key matches the certificate."""
    for part, block in _BLOCKS.items():
        content: bytes = getattr(pem, part)
        name = str(getattr(files, part)) if files else part
        if block.encode() not in content:
            what = "is empty" if not content.strip() else f"contains no {_WORDS[part]} in PEM"
            raise BadPem(f"{name} {what}; write the Secret's content again")
    _load_authority(pem.authority, str(files.authority) if files else "authority")
    names = (str(files.certificate), str(files.key)) if files else ("certificate", "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_chain(context, pem)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadPem(
                f"{names[1]} is not the key of {names[0]}; copy both from one Secret"
            ) from error
        culprit = names[0] if _certificate_is_broken(pem.certificate) else names[1]
        raise BadPem(
            f"{culprit} is incomplete or damaged ({error.reason or error}); write the Secret's "
            "content again"
        ) from error


def load_chain(context: ssl.SSLContext, pem: Pem) -> None:
    """Loads our certificate and key into a context. Python's ssl module reads them only from files.
    Raises ssl.SSLError."""
    with _file(pem.certificate) as certificate, _file(pem.key) as key:
        # Without a password, OpenSSL would prompt for that of an encrypted key at the terminal.
        context.load_cert_chain(certificate, key, password="")


def leaf(pem: Pem) -> Leaf | None:
    """Returns the fields of our own certificate, or None if Python's ssl module can't show them.

    Python shows a certificate's fields only after a handshake. So this makes a handshake with
    itself, in memory, which trusts the certificate at any time.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        load_chain(server, pem)
        client.load_verify_locations(cadata=pem.certificate.decode("ascii"))
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
        shown = _shown(server, client)
    except (ssl.SSLError, UnicodeDecodeError):
        return None
    uris = tuple(value for kind, value in shown.get("subjectAltName", ()) if kind == "URI")
    return Leaf(_time(shown["notBefore"]), _time(shown["notAfter"]), uris)


_WORDS = {"certificate": "certificate", "key": "private key", "authority": "certificate"}


def _load_authority(content: bytes, name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise BadPem(
            f"{name} is incomplete or damaged; write the Secret's content again"
        ) from error
    if content.count(b"-----BEGIN CERTIFICATE-----") != content.count(b"-----END CERTIFICATE-----"):
        raise BadPem(f"{name} is incomplete; write the Secret's content again")


def _certificate_is_broken(content: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii")
        )
    except (ssl.SSLError, UnicodeDecodeError):
        return True
    return False


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Yields a path with `content`: in memory if possible, so that no key is written to a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name


def _shown(server: ssl.SSLContext, client: ssl.SSLContext) -> Any:
    """Returns the server's certificate as its client sees it, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours.getpeercert() or {}


def _time(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)
