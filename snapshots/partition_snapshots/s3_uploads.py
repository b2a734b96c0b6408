"""Lists and aborts unfinished multipart uploads.

Their parts use space, but no listing of objects contains them. obstore aborts an upload that fails.
An upload stays if its process or the store died. obstore can't list uploads, so this module signs
two requests itself (AWS Signature Version 4). This is best effort. If the store lacks these
requests or the credentials don't allow them, the bucket's lifecycle rule has to abort the uploads.
"""

import hashlib
import hmac
import html
import http.client
import ssl
import time
from urllib.parse import quote, urlsplit

from partition_snapshots.destination import S3Destination
from partition_snapshots.limits import SnapshotLimits

ROUNDS_MAX = 20
"""The most lists, of up to 1000 uploads each, that one sweep processes."""

ANSWER_BYTES_MAX = 8 << 20

_EMPTY = hashlib.sha256(b"").hexdigest()


def abort_uploads(destination: S3Destination, prefix: str, limits: SnapshotLimits) -> int:
    """Aborts the multipart uploads of keys that begin with `prefix`. Returns their number. Blocks.
    Never raises: the next call aborts the rest."""
    aborted = 0
    client: _Client | None = None
    try:
        client = _Client(destination, limits)
        for _ in range(ROUNDS_MAX):
            status, answer = client.ask("GET", "", {"prefix": prefix, "uploads": ""})
            found = parse_uploads(answer) if status == http.client.OK else []
            done = 0
            for key, upload_id in found:
                if key.startswith(prefix):
                    status, _ = client.ask("DELETE", key, {"uploadId": upload_id})
                    done += status == http.client.NO_CONTENT
            aborted += done
            if not done:
                break
    except (OSError, ValueError, http.client.HTTPException):
        pass
    finally:
        if client is not None:
            client.close()
    return aborted


def parse_uploads(answer: bytes) -> list[tuple[str, str]]:
    """Returns (key, upload ID) pairs of a ListMultipartUploads answer. Skips invalid elements."""
    found = []
    for upload in answer.split(b"<Upload>")[1:]:
        key, upload_id = _element(upload, b"Key"), _element(upload, b"UploadId")
        if key and upload_id:
            found.append((_text(key), _text(upload_id)))
    return found


def _element(data: bytes, name: bytes) -> bytes:
    """Returns an element's text, or b"" if it is absent. Takes linear time, unlike a regular
    expression."""
    _, begun, rest = data.partition(b"<" + name + b">")
    text, ended, _ = rest.partition(b"</" + name + b">")
    return text if begun and ended else b""


def _text(data: bytes) -> str:
    return html.unescape(data.decode(errors="replace"))


class _Client:
    """Sends signed requests to one bucket, one after the other."""

    def __init__(self, destination: S3Destination, limits: SnapshotLimits) -> None:
        self._destination = destination
        endpoint = destination.endpoint or f"https://s3.{destination.region}.amazonaws.com"
        url = urlsplit(endpoint)
        hosted = destination.virtual_hosted_style
        self._host = f"{destination.bucket}.{url.netloc}" if hosted else url.netloc
        self._path = url.path.rstrip("/") + ("" if hosted else f"/{destination.bucket}")
        timeout = limits.connect_timeout_s + limits.backoff_max_s
        self._connection: http.client.HTTPConnection
        if url.scheme == "http":
            self._connection = http.client.HTTPConnection(self._host, timeout=timeout)
        else:
            context = ssl.create_default_context()
            if destination.ca_certificate:
                context.load_verify_locations(cadata=destination.ca_certificate.decode())
            self._connection = http.client.HTTPSConnection(
                self._host, timeout=timeout, context=context
            )

    def ask(self, method: str, key: str, query: dict[str, str]) -> tuple[int, bytes]:
        """Returns (status, body). Raises OSError, HTTPException."""
        path = self._path + (f"/{quote(key, safe='/-_.~')}" if key else "/")
        canonical_query = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
            for name, value in sorted(query.items())
        )
        headers = self._signed(method, path, canonical_query)
        self._connection.request(method, f"{path}?{canonical_query}", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read(ANSWER_BYTES_MAX)
        if answer.read(1):
            self._connection.close()
        return answer.status, body

    def _signed(self, method: str, path: str, query: str) -> dict[str, str]:
        destination = self._destination
        at = time.gmtime()
        stamp, day = time.strftime("%Y%m%dT%H%M%SZ", at), time.strftime("%Y%m%d", at)
        headers = {"host": self._host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
        if destination.session_token:
            headers["x-amz-security-token"] = destination.session_token
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join([method, path, query, lines, names, _EMPTY])
        scope = f"{day}/{destination.region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])
        key = b"AWS4" + destination.secret_access_key.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={destination.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def close(self) -> None:
        self._connection.close()
