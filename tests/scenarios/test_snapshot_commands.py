"""`partitionctl snapshot`: on both kinds of store, without a cluster; what it prints and its exit
codes."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from partition_snapshots.manifests import encode_manifest
from partition_snapshots.read import load, manifest_name
from partition_snapshots.store import object_name
from partition_snapshots.take import take_snapshot

from dev.cluster.layout import ROOT
from tests.support.object_store import QUICK, Partition, Place
from tests.support.store_places import directory_place, place, s3_place, s3_server

__all__ = ["directory_place", "place", "s3_place", "s3_server"]  # fixtures


def partitionctl(
    place: Place, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    flags, secrets = place.destination.to_arguments()
    return subprocess.run(
        [sys.executable, "-m", "partition_client", "snapshot", *arguments, *flags],
        env=os.environ | secrets | (environ or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture
def published(place: Place, tmp_path: Path) -> Partition:
    """Two snapshots, the second incremental."""
    partition = Partition.random(tmp_path / "volume", 8)

    async def put(name: str) -> None:
        store = place.open()
        await take_snapshot(
            store,
            partition.source(name),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            limits=QUICK,
        )
        await store.close()

    asyncio.run(put("nightly-1"))
    partition.keys[b"key-000001"] = b"x"
    partition.lsn = 9
    asyncio.run(put("nightly-2"))
    return partition


def test_ls_and_verify(place: Place, published: Partition) -> None:
    listed = partitionctl(place, "ls")
    assert listed.returncode == 0, listed.stderr
    header, first, second = listed.stdout.splitlines()
    assert header.split() == "ID LSN TERM TIME KEYS FILES SIZE KIND STATE".split()
    assert first.split()[:4] == ["nightly-1", "1", "3", "2023-11-14T22:13:20Z"]
    assert first.split()[-2:] == ["FULL", "Stored"]
    assert second.split()[:2] == ["nightly-2", "9"]
    assert second.split()[-2:] == ["INCREMENTAL", "Stored"]
    rows = [json.loads(line) for line in partitionctl(place, "ls", "--json").stdout.splitlines()]
    assert [(row["snapshotID"], row["lsn"], row["incremental"]) for row in rows] == [
        ("nightly-1", 1, False),
        ("nightly-2", 9, True),
    ]
    latest = partitionctl(place, "verify", "--json")
    assert latest.returncode == 0, latest.stderr
    assert json.loads(latest.stdout) == rows[1] | {"state": "Verified"}
    one = partitionctl(place, "verify", "nightly-1")
    assert one.returncode == 0
    assert one.stdout.startswith("nightly-1: verified; LSN 1, 60 keys, 25 files")


def test_damage_is_named(place: Place, published: Partition) -> None:
    digest = published.blobs()[0][0].hex()
    place.file(object_name(digest)).unlink()
    place.file(manifest_name("nightly-1")).write_bytes(b"[red]x[/red]")
    found = partitionctl(place, "verify", "nightly-2", "--json")
    assert found.returncode == 65
    report = json.loads(found.stdout)
    assert (report["state"], report["reason"]) == ("failed", "SnapshotDamaged")
    assert digest in report["message"]
    assert digest in found.stderr
    listed = partitionctl(place, "ls")
    assert listed.returncode == 65
    assert "Damaged: the manifest of snapshot nightly-1 is not JSON" in " ".join(
        listed.stdout.split()
    )
    assert "nightly-2" in listed.stdout


def test_another_version(place: Place, published: Partition) -> None:
    path = place.file(manifest_name("nightly-1"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    found = partitionctl(place, "verify", "nightly-1")
    assert found.returncode == 65
    assert "version 9" in found.stderr


def test_an_empty_store_and_a_snapshot_that_is_none(place: Place) -> None:
    listed = partitionctl(place, "ls")
    assert listed.returncode == 0
    assert listed.stdout.startswith("no snapshots in ")
    assert partitionctl(place, "verify").returncode == 78
    assert partitionctl(place, "verify", "A/B").returncode == 78


def test_another_clusters_manifest(place: Place, published: Partition) -> None:
    one = asyncio.run(load(place.open(), "nightly-1"))
    moved = replace(one, cluster_id="another")
    place.file(manifest_name("nightly-1")).write_bytes(encode_manifest(moved))
    assert partitionctl(place, "verify", "nightly-1").returncode == 78


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, 78, "SignatureDoesNotMatch"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, 78, "AWS_SECRET_ACCESS_KEY is empty"),
    ],
)
def test_wrong_credentials(s3_place: Place, changes: dict[str, str], code: int, says: str) -> None:
    found = partitionctl(s3_place, "ls", environ=changes)
    assert (found.returncode, found.stdout) == (code, "")
    assert says in found.stderr
    assert "wrong-secret" not in found.stderr


def test_no_destination() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "partition_client", "snapshot", "ls"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 78
    assert "give --directory DIR or --s3-bucket BUCKET" in done.stderr


def test_a_store_that_is_away(s3_place: Place) -> None:
    flags, secrets = s3_place.destination.to_arguments()
    flags[flags.index("--s3-endpoint") + 1] = "http://127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-m", "partition_client", "--deadline", "0.3", "snapshot", "ls", *flags],
        env=os.environ | secrets,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 69
    assert "no answer" in done.stderr


def test_the_exit_code_is_not_lost(s3_place: Place) -> None:
    """obstore's threads may abort an interpreter that is being taken down."""
    assert {partitionctl(s3_place, "verify").returncode for _ in range(12)} == {78}
