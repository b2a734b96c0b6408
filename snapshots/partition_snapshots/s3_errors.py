"""Translates the errors of an S3 store. Messages contain only the error code of an answer, because
its body may contain keys."""

import re

from partition_snapshots.errors import (
    SnapshotError,
    SnapshotNotFound,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_CERTIFICATE = re.compile(r"UnknownIssuer|InvalidCertificate|BadSignature|certificate", re.I)

_HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct its name",
    "InvalidBucketName": "the store does not allow this bucket name; correct it",
    "AccessDenied": "these credentials lack a permission; they need get, put, delete and list for "
    "the bucket's objects",
    "InvalidAccessKeyId": "the store does not know the access key ID; correct the credentials",
    "SignatureDoesNotMatch": "the secret access key is wrong; correct the credentials",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "InvalidToken": "the session token is wrong; correct the credentials",
    "AuthorizationHeaderMalformed": "the region is wrong; set the bucket's region",
    "PermanentRedirect": "the bucket is in another region; set its region or endpoint",
    "RequestTimeTooSkewed": "this machine's clock is wrong; synchronize it",
}
_FULL_CODES = {
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "InsufficientStorage",
    "NoSpaceLeft",
}
_LATER_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
    "NoSuchUpload",
}
_LATER_STATUS = {"408", "409", "425", "429"}


def code_of(error: Exception) -> str:
    """Returns the store's error code, or the HTTP status if it sent no code, or ""."""
    text = str(error)
    found = _CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""


def translated(  # noqa: PLR0911  # one return for each kind of answer
    error: Exception, what: str, store: str
) -> SnapshotError:
    """Returns the SnapshotError for an error of obstore."""
    text = str(error)
    code = code_of(error)
    status = found[1] if (found := _STATUS.search(text)) else ""
    where = f"{store}: {what}"
    if code in _HINTS:
        return StoreRefused(f"{where}: {code}: {_HINTS[code]}")
    if code in _FULL_CODES or status == "507":
        return StoreFull(f"{where}: {code}: the store is full, or a quota is reached; free space")
    if code in _LATER_CODES or status in _LATER_STATUS or status.startswith("5"):
        return StoreUnavailable(f"{where}: the store answered {code}")
    if isinstance(error, FileNotFoundError):
        return SnapshotNotFound(f"{store}: {what.partition(' ')[2]} does not exist")
    if status in ("401", "403"):
        return StoreRefused(
            f"{where}: the store answered {code}; correct the credentials or their permissions"
        )
    if status:
        return StoreRefused(f"{where}: the store answered {code}; correct the destination")
    if _CERTIFICATE.search(text):
        return StoreRefused(
            f"{where}: the store's TLS certificate is not trusted; give the CA that issued it"
        )
    return StoreUnavailable(f"{where}: no answer; check that the endpoint is correct and running")
