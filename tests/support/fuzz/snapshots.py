"""Objects of stored snapshots as anybody may have written them."""

import json
from typing import Any

from hypothesis import strategies as st
from partition_snapshots.digest import encode_rows
from partition_snapshots.manifests import (
    _checksum,
    encode_manifest,
)
from partition_snapshots.segments import (
    BLOB,
    BLOB_LIST_HEADER,
    SEGMENT_HEADER,
)

from tests.support.fuzz.inputs import EDGES
from tests.support.manifests import manifest

ROWS = st.lists(
    st.tuples(st.integers(0, 255), st.binary(max_size=20), st.binary(max_size=20)), max_size=20
)
SEGMENTS = st.one_of(
    ROWS.map(lambda rows: SEGMENT_HEADER + encode_rows(sorted(rows))),
    ROWS.map(lambda rows: SEGMENT_HEADER + encode_rows(rows)),
    st.binary(max_size=100).map(lambda data: SEGMENT_HEADER + data),
)
BLOB_LISTS = st.lists(
    st.builds(BLOB.pack, st.binary(min_size=32, max_size=32), st.integers(0, (1 << 64) - 1)),
    max_size=8,
).map(lambda entries: BLOB_LIST_HEADER + b"".join(sorted(entries)))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(EDGES),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.sampled_from(["../x", "ab" * 32, "AB" * 32, "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """A manifest with some fields replaced by anything, and a checksum that is right."""
    fields: dict[str, Any] = json.loads(encode_manifest(manifest()))
    for _ in range(draw(st.integers(1, 3))):
        at = fields
        inner = draw(st.sampled_from([None, "blobs", "state", "configuration"]))
        if inner is not None and isinstance(fields.get(inner), dict):
            at = fields[inner]
        if at:  # it may have become {}
            at[draw(st.sampled_from(sorted(at)))] = draw(VALUES)
    if draw(st.booleans()):
        fields["checksum"] = _checksum(fields)
    return json.dumps(fields).encode()
