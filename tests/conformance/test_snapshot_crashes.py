"""A process that ends at any point of publishing, deleting or collecting: its successor finishes,
and after a collection nothing is left that no snapshot names. On both kinds of store."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots import failpoints
from partition_snapshots.collect import delete_snapshots
from partition_snapshots.destination import DirectoryDestination
from partition_snapshots.store import Store

from dev.cluster.layout import ROOT
from tests.support.object_store import (
    QUICK,
    Died,
    Mortal,
    Place,
)
from tests.support.snapshot_process import EXIT_CODE, OWNER
from tests.support.snapshot_steps import check_clean, do_delete, do_publish

PUBLISH = {
    "snapshot.upload.begun",
    "snapshot.object.before",
    "snapshot.object.after",
    "snapshot.segment.after",
    "snapshot.manifest.before",
    "snapshot.manifest.after",
    "snapshot.marker.removed",
    "snapshot.base.saved",
}
DELETE = {
    "snapshot.delete.before",
    "snapshot.delete.after",
    "snapshot.collect.before",
    "snapshot.collect.after",
}

Act = Callable[[Store, Path, int], Awaitable[None]]
CASES: dict[str, tuple[Act, int, int, set[str], dict[str, int]]] = {
    # name: (what, its step, snapshots before, failpoints it has, what is there in the end)
    "first": (do_publish, 0, 0, PUBLISH, {"s0": 0}),
    "incremental": (do_publish, 2, 2, PUBLISH, {"s0": 0, "s1": 1, "s2": 2}),
    "delete": (do_delete, 0, 2, DELETE, {"s1": 1}),
}


@pytest.mark.parametrize("case", CASES)
async def test_dying_at_every_point(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    act, step, before, points, after = CASES[case]

    async def prepare() -> None:
        store = place.open()
        for number in range(before):
            await do_publish(store, tmp_path, number)
        await store.close()

    await prepare()
    dry = Mortal(place.open())
    monkeypatch.setattr(failpoints, "hook", dry.hook)
    await act(dry, tmp_path, step)
    monkeypatch.undo()
    assert set(dry.reached) == points
    seen: Counter[str] = Counter()
    for point in dry.reached:
        seen[point] += 1
        await delete_snapshots(place.open(), ["s0", "s1", "s2"], QUICK, owner=OWNER)
        for path in (tmp_path / "base").glob("*"):
            path.unlink()
        await prepare()
        mortal = Mortal(place.open(), point, seen[point])
        monkeypatch.setattr(failpoints, "hook", mortal.hook)
        with pytest.raises(Died):
            await act(mortal, tmp_path, step)
        assert mortal.dead, f"{point} was not reached {seen[point]} times"
        monkeypatch.undo()
        store = place.open()
        await act(store, tmp_path, step)
        await store.close()
        await check_clean(place, tmp_path / "volume", after)


def run(place: Place, job: dict[str, Any]) -> tuple[int, list[str]]:
    if isinstance(place.destination, DirectoryDestination):
        fields: dict[str, Any] = {"path": str(place.destination.path)}
    else:
        fields = asdict(place.destination)
        del fields["ca_certificate"], fields["ca_file"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.snapshot_process"],
        input=json.dumps(job | {"destination": fields}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, EXIT_CODE), done.stderr
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize("point", sorted(PUBLISH))
async def test_a_killed_publisher(place: Place, tmp_path: Path, point: str) -> None:
    job = {
        "action": "take",
        "volume": str(tmp_path / "volume"),
        "base": str(tmp_path / "base"),
    }
    assert run(place, job | {"snapshot": "s0", "step": 0})[0] == 0
    second = job | {"snapshot": "s1", "step": 1}
    assert run(place, second | {"at": point})[0] == EXIT_CODE
    assert run(place, second)[0] == 0
    await check_clean(place, tmp_path / "volume", {"s0": 0, "s1": 1})


@pytest.mark.parametrize("point", sorted(DELETE))
async def test_a_killed_deletion(place: Place, tmp_path: Path, point: str) -> None:
    job = {"action": "take", "volume": str(tmp_path / "volume")}
    for number in range(2):
        assert run(place, job | {"snapshot": f"s{number}", "step": number})[0] == 0
    deletion = {"action": "delete", "snapshots": ["s0"]}
    assert run(place, deletion | {"at": point})[0] == EXIT_CODE
    # Whoever publishes next is not kept waiting by what the dead one left.
    assert run(place, job | {"snapshot": "s2", "step": 2})[0] == 0
    assert run(place, deletion)[0] == 0
    await check_clean(place, tmp_path / "volume", {"s1": 1, "s2": 2})


def test_every_failpoint_is_tried() -> None:
    assert PUBLISH | DELETE == failpoints.POINTS
