"""The manifest of a stored snapshot."""

from partition_snapshots.model import Manifest, ObjectName, RecordedConfiguration, Run


def manifest() -> Manifest:
    name = ObjectName("ab" * 32, 100, 3)
    return Manifest(
        snapshot_id="one",
        uid="u",
        partition="shop/orders",
        cluster_id="c",
        lsn=7,
        term=2,
        time_ms=1,
        clock_ms=1_000,
        configuration=RecordedConfiguration(("a1", "b2"), ("c3",)),
        keys=3,
        files=1,
        writer="test 1",
        created_at="2026-01-01T00:00:00+00:00",
        blob_count=1,
        blob_bytes=9,
        blob_lists=(name,),
        runs=(Run((name, name)), Run((name,))),
        digest="cd" * 32,
        size_bytes=409,
    )
