"""Encodes manifests and the format file as JSON, and decodes them from untrusted bytes."""

import hashlib
import json
import re
from typing import Any, NoReturn

from partition_snapshots.errors import SnapshotDamaged, UnsupportedFormat
from partition_snapshots.limits import RUNS_MAX, SEGMENT_BYTES_MAX
from partition_snapshots.model import (
    FORMAT_NAME,
    FORMAT_VERSION,
    FORMATS_READ,
    STORE_VERSION,
    Manifest,
    ObjectName,
    RecordedConfiguration,
    Run,
)

TEXT_MAX = 1024
MEMBERS_MAX = 1000
NUMBER_MAX = (1 << 63) - 1

_DIGEST = re.compile(r"[0-9a-f]{64}")


def encode_format(cluster_id: str) -> bytes:
    """Returns the content of format.json."""
    fields = {"format": FORMAT_NAME, "version": STORE_VERSION, "clusterID": cluster_id}
    return json.dumps(fields).encode() + b"\n"


def decode_format(data: bytes) -> str:
    """Returns the store's cluster ID. Raises SnapshotDamaged, UnsupportedFormat."""
    fields = _Fields(_object(data, "format.json"), "format.json")
    _check_version(fields, (STORE_VERSION,))
    return fields.text("clusterID")


def encode_manifest(manifest: Manifest) -> bytes:
    """Returns a manifest as JSON with its checksum. Equal manifests give equal bytes."""
    fields: dict[str, Any] = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        **_head(manifest),
        "configuration": {
            "voters": list(manifest.configuration.voters),
            "learners": list(manifest.configuration.learners),
        },
        "blobs": {
            "count": manifest.blob_count,
            "bytes": manifest.blob_bytes,
            "lists": [_named(name) for name in manifest.blob_lists],
        },
        "state": {
            "digest": manifest.digest,
            "runs": [[_named(name) for name in run.segments] for run in manifest.runs],
        },
    }
    fields["checksum"] = _checksum(fields)
    return json.dumps(fields, indent=1).encode() + b"\n"


def _head(manifest: Manifest) -> dict[str, Any]:
    return {
        "snapshotID": manifest.snapshot_id,
        "uid": manifest.uid,
        "partition": manifest.partition,
        "clusterID": manifest.cluster_id,
        "lsn": manifest.lsn,
        "term": manifest.term,
        "timeMs": manifest.time_ms,
        "clockMs": manifest.clock_ms,
        "keys": manifest.keys,
        "files": manifest.files,
        "sizeBytes": manifest.size_bytes,
        "createdAt": manifest.created_at,
        "writer": manifest.writer,
    }


def summary(manifest: Manifest) -> dict[str, Any]:
    """Returns the fields of a snapshot for reports and lists, named as in the manifest."""
    return _head(manifest) | {"incremental": manifest.incremental, "digest": manifest.digest}


def _named(name: ObjectName) -> dict[str, Any]:
    return {"digest": name.digest, "size": name.size, "rows": name.rows}


def _checksum(fields: dict[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def decode_manifest(data: bytes, snapshot_id: str) -> Manifest:
    """Returns the manifest of a snapshot. Raises SnapshotDamaged, UnsupportedFormat."""
    what = f"the manifest of snapshot {snapshot_id}"
    content = _object(data, what)
    fields = _Fields(content, what)
    _check_version(fields, FORMATS_READ)
    if fields.text("checksum") != _checksum(content):
        raise SnapshotDamaged(f"{what} fails its checksum")
    if fields.text("snapshotID") != snapshot_id:
        raise SnapshotDamaged(
            f"{what} belongs to another snapshot, {fields.text('snapshotID')[:80]!r}"
        )
    configuration = fields.inner("configuration")
    blobs, state = fields.inner("blobs"), fields.inner("state")
    runs = state.list("runs", RUNS_MAX)
    return Manifest(
        snapshot_id=snapshot_id,
        uid=fields.text("uid"),
        partition=fields.text("partition"),
        cluster_id=fields.text("clusterID"),
        lsn=fields.number("lsn"),
        term=fields.number("term"),
        time_ms=fields.number("timeMs"),
        # Version 1 has no clockMs: the time of entries was the session clock.
        clock_ms=fields.number("clockMs" if "clockMs" in content else "timeMs"),
        configuration=RecordedConfiguration(
            configuration.texts("voters"), configuration.texts("learners")
        ),
        keys=fields.number("keys"),
        files=fields.number("files"),
        writer=fields.text("writer"),
        created_at=fields.text("createdAt"),
        blob_count=blobs.number("count"),
        blob_bytes=blobs.number("bytes"),
        blob_lists=_names(blobs.list("lists", None), what),
        runs=tuple(Run(_names(run, what)) for run in runs),
        digest=_digest(state.text("digest"), what),
        size_bytes=fields.number("sizeBytes"),
    )


def _names(values: Any, what: str) -> tuple[ObjectName, ...]:
    if not isinstance(values, list):
        raise SnapshotDamaged(f"{what}: a list of objects is not a list")
    found = []
    for value in values:
        if not isinstance(value, dict):
            raise SnapshotDamaged(f"{what}: an object's name is not a JSON object")
        fields = _Fields(value, what)
        size = fields.number("size")
        if not 0 < size <= SEGMENT_BYTES_MAX:
            raise SnapshotDamaged(
                f"{what}: an object has {size} bytes; allowed are 1 to {SEGMENT_BYTES_MAX}"
            )
        found.append(ObjectName(_digest(fields.text("digest"), what), size, fields.number("rows")))
    return tuple(found)


def _digest(text: str, what: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise SnapshotDamaged(f"{what}: {text[:80]!r} is not a SHA-256")
    return text


def _check_version(fields: "_Fields", read: tuple[int, ...]) -> None:
    if fields.text("format") != FORMAT_NAME:
        raise UnsupportedFormat(f"{fields.what} does not have the format {FORMAT_NAME}")
    version = fields.number("version")
    if version not in read:
        raise UnsupportedFormat(
            f"{fields.what} has format version {version}; this program reads version "
            f"{' and '.join(map(str, read))}; use the program's version that wrote it, or a later "
            "one"
        )


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotDamaged(f"{what} is not JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise SnapshotDamaged(f"{what} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


class _Fields:
    """Typed access to a JSON object's fields. Raises SnapshotDamaged if a field is missing or has
    another type."""

    def __init__(self, content: dict[str, Any], what: str) -> None:
        self._content = content
        self.what = what

    def text(self, name: str) -> str:
        value = self._content.get(name)
        # Lone surrogates can't be encoded. We never write any.
        if not isinstance(value, str) or len(value) > TEXT_MAX or not _encodable(value):
            raise SnapshotDamaged(
                f"{self.what}: {name} is not a text of up to {TEXT_MAX} characters"
            )
        return value

    def number(self, name: str) -> int:
        value = self._content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= NUMBER_MAX:
            raise SnapshotDamaged(f"{self.what}: {name} is not a number from 0 to {NUMBER_MAX}")
        return value

    def list(self, name: str, most: int | None) -> list[Any]:
        value = self._content.get(name)
        if not isinstance(value, list) or (most is not None and len(value) > most):
            raise SnapshotDamaged(f"{self.what}: {name} is not a list, or is too long")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.list(name, MEMBERS_MAX)
        return tuple(_Fields({name: value}, self.what).text(name) for value in values)

    def inner(self, name: str) -> "_Fields":
        value = self._content.get(name)
        if not isinstance(value, dict):
            raise SnapshotDamaged(f"{self.what}: {name} is not a JSON object")
        return _Fields(value, self.what)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
