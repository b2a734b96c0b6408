"""PEM files are checked before gRPC gets them."""

import datetime as dt
import os
from pathlib import Path

import pytest
from partition_operator.resources.certificates import LIFETIMES, KeyPair, issue, make_authority
from partition_proto.connection import pem

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
AUTHORITY = make_authority(NOW)
PAIR = issue(AUTHORITY, "logstore://shop/cart/client", ["localhost"], NOW)
OTHER = issue(AUTHORITY, "logstore://shop/cart/client", [], NOW)
WHOLE = {"tls.crt": PAIR.certificate, "tls.key": PAIR.key, "ca.crt": AUTHORITY.certificate}


def write(folder: Path, **changes: bytes) -> pem.PemFiles:
    for name, content in (WHOLE | {k.replace("_", "."): v for k, v in changes.items()}).items():
        (folder / name).write_bytes(content)
    return pem.PemFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def test_whole_files_are_read(tmp_path: Path) -> None:
    found, stamp = pem.read(write(tmp_path))
    assert found == pem.Pem(PAIR.certificate, PAIR.key, AUTHORITY.certificate)
    assert stamp == write_again(tmp_path).stamp()


def write_again(folder: Path) -> pem.PemFiles:
    return pem.PemFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


@pytest.mark.parametrize("name", list(WHOLE))
@pytest.mark.parametrize("part", ["nothing", "half", "all but its end", "blanks", "words", "bytes"])
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, name: str, part: str) -> None:
    whole = WHOLE[name]
    content = {
        "nothing": b"",
        "half": whole[: len(whole) // 2],
        "all but its end": whole.rstrip()[:-10],
        "blanks": b" \n\n",
        "words": b"not a certificate",
        "bytes": b"\xff\x00" * 100,
    }[part]
    files = write(tmp_path, **{name.replace(".", "_"): content})
    with pytest.raises(pem.BadPem, match=str(tmp_path / name)):
        pem.read(files)


@pytest.mark.parametrize("name", list(WHOLE))
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    files = write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(pem.BadPem, match=str(tmp_path / name)):
        pem.read(files)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pem.BadPem, match=r"tls\.key is not the key of .*tls\.crt"):
        pem.read(write(tmp_path, tls_key=OTHER.key))


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(PAIR.key, None)
    locked = key.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(pem.BadPem, match=r"tls\.key"):
        pem.read(write(tmp_path, tls_key=locked))


def test_several_authorities_are_read(tmp_path: Path) -> None:
    both = AUTHORITY.certificate + make_authority(NOW).certificate
    assert pem.read(write(tmp_path, ca_crt=both))[0].authority == both
    with pytest.raises(pem.BadPem, match=r"ca\.crt is incomplete"):
        pem.read(write(tmp_path, ca_crt=both[:-100]))


def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path)
    read_bytes = Path.read_bytes
    swaps = [OTHER]

    def swap(path: Path) -> bytes:
        content = read_bytes(path)
        if path.name == "tls.crt" and swaps:
            new = swaps.pop()
            replace(tmp_path / "tls.crt", new.certificate)
            replace(tmp_path / "tls.key", new.key)
        return content

    monkeypatch.setattr(Path, "read_bytes", swap)
    found, _ = pem.read(files)
    assert KeyPair(found.certificate, found.key) == OTHER


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


def test_what_a_certificate_says(tmp_path: Path) -> None:
    for later in (dt.timedelta(), dt.timedelta(days=-800), dt.timedelta(days=800)):
        start = NOW + later
        pair = issue(make_authority(start), "logstore://shop/cart/client", [], start)
        leaf = pem.leaf(pem.Pem(pair.certificate, pair.key, AUTHORITY.certificate))
        assert leaf is not None
        assert leaf.not_after == start + LIFETIMES.certificate
        assert leaf.not_before == start - dt.timedelta(hours=1)
        assert leaf.uris == ("logstore://shop/cart/client",)
