"""Certificate, key and authority as PEM: read together, and checked before gRPC gets them.

gRPC ends the process when it gets an empty certificate, and says nothing at all about half of one.
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
"""How often files that change while they are read are read again."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for."""

_BLOCKS = {
    "certificate": "-----BEGIN CERTIFICATE-----",
    "key": "PRIVATE KEY-----",
    "authority": "-----BEGIN CERTIFICATE-----",
}


class BadPem(Exception):
    """A file is missing, empty or cut short, or is not the partner of the others. The message names
    the file."""


@dataclass(frozen=True, slots=True)
class PemFiles:
    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever a file does. Raises OSError."""
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
    """A party's own certificate."""

    not_before: datetime
    not_after: datetime
    uris: tuple[str, ...]


def read(files: PemFiles) -> tuple[Pem, tuple[int, ...]]:
    """The checked content of the files, with their stamp. Raises BadPem.

    The kubelet exchanges all files of a Secret at once, so three reads may see two versions: they
    are repeated until nothing changed meanwhile.
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
                f"{error.filename}: {error.strerror}; tls.crt, tls.key and ca.crt of one Secret "
                "are needed"
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
        f"{files.certificate}: changed at each of {READS_MAX} reads; write it once, by a rename"
    )


def check(pem: Pem, files: PemFiles | None = None) -> None:
    """Raises BadPem unless each part is whole PEM, and the key is the certificate's."""
    for part, block in _BLOCKS.items():
        content: bytes = getattr(pem, part)
        name = str(getattr(files, part)) if files else part
        if block.encode() not in content:
            what = "is empty" if not content.strip() else f"holds no {_WORDS[part]} in PEM"
            raise BadPem(f"{name} {what}; write the Secret's content anew")
    _load_authority(pem.authority, str(files.authority) if files else "authority")
    names = (str(files.certificate), str(files.key)) if files else ("certificate", "key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_chain(context, pem)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadPem(
                f"{names[1]} is not the key of {names[0]}; write both from one Secret"
            ) from error
        culprit = names[0] if _certificate_is_broken(pem.certificate) else names[1]
        raise BadPem(
            f"{culprit} is cut short or damaged ({error.reason or error}); write the Secret's "
            "content anew"
        ) from error


def load_chain(context: ssl.SSLContext, pem: Pem) -> None:
    """Gives a context our certificate and key, which Python's ssl takes as files only. Raises
    ssl.SSLError."""
    with _file(pem.certificate) as certificate, _file(pem.key) as key:
        # An encrypted key would be asked for at the terminal.
        context.load_cert_chain(certificate, key, password="")


def leaf(pem: Pem) -> Leaf | None:
    """What our own certificate says; None if Python's ssl can't show it.

    Python reads a certificate's fields in a handshake only, so this is one with ourselves, in
    memory, that trusts the certificate itself whatever the time.
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
        raise BadPem(f"{name} is cut short or damaged; write the Secret's content anew") from error
    if content.count(b"-----BEGIN CERTIFICATE-----") != content.count(b"-----END CERTIFICATE-----"):
        raise BadPem(f"{name} is cut short; write the Secret's content anew")


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
    """A path that shows `content`: in memory if possible, so that no key gets onto a disk."""
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
    """The server's certificate as its client sees it, after a handshake in memory."""
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
