"""A volume that an import or a restore makes is new, or whole, whenever the power fails."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX
from partition_replica.core.model import Configuration
from partition_replica.core.payloads import blob_digests
from partition_replica.offline.new_volume import BLOBS, GENERATION, LOG, STATE, NewVolume
from partition_replica.storage import files
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState

from tests.support.power_loss import Model, Recorder
from tests.support.replica_life import (
    CLUSTER,
    SEED,
    Life,
    Violated,
    another_state,
    content,
    digest,
    replay,
)
from tests.support.replica_life import disk as disk  # a fixture
from tests.support.seed_logs import LARGE, Member, kv_state, put_entry, put_snap, s_set, take

NAMES = ("theirs", "theirs too")


def stage(volume: NewVolume, state: LmdbState) -> None:
    """A log, a state and its blobs, as a restore writes them: synced together at the end."""
    volume.stage()
    file_system = files.open_file_system(volume.staged)
    for name in NAMES:
        path = blob_path(volume.staged / BLOBS, digest(name))
        files.create_directory(path.parent)
        with files.create_file(path) as file:
            files.write_file(file, content(name), "a blob")
    files.sync_file_system(file_system, "a volume")
    file_system.close()
    position = state.copy(volume.staged / STATE / GENERATION)
    files.sync_directory(volume.staged / STATE)
    log = LmdbLog(volume.staged / LOG, volume.member, blob_digests)
    log.bootstrap(CLUSTER, Configuration((volume.member,)), position)
    log.close()
    files.sync_directory(volume.staged)


@pytest.fixture
def made(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Life]]:
    """`made(taken, omit)`: the record of a volume being made. taken: it was in use, or a move into
    it was cut off, so that there is a directory for blobs already."""

    def run(taken: bool, omit: str = "") -> Life:
        root = disk / "volume"
        root.mkdir()
        state = another_state(disk / "source")
        recorder = Recorder(root, omit)
        with monkeypatch.context() as patch:
            recorder.attach(patch)
            if taken:
                blobs = root / "blobs"
                files.make_directory(blobs)
                for name in NAMES:
                    files.make_directory(blob_path(blobs, digest(name)).parent)
            with NewVolume(root) as volume:
                stage(volume, state)
                volume.move_into_place()
        state.close()
        return Life(root, recorder)

    yield run


@pytest.mark.parametrize("taken", [False, True])
def test_it_is_new_or_whole(made: Callable[..., Life], disk: Path, taken: bool) -> None:
    life = made(taken)
    found = replay(life, disk / "left")
    print(f"{found.moments} moments, {found.states} states")
    assert found.states > found.moments > 40
    # Once it is said to be made it is.
    for tree in Model(life.recorder.operations).survivors(random.Random(SEED), 50):
        assert "log/data.mdb" in tree


@pytest.mark.parametrize(
    ("taken", "omitted", "what"),
    [
        (False, "sync_directory blobs", "named and gone"),
        (True, "sync_directory blobs/.*", "named and gone"),
        (False, "sync_file_system 1", "named and gone|other content|half-named"),
        (False, "sync_directory state", "outside of the log"),
    ],
)
def test_a_sync_left_out_is_found(
    made: Callable[..., Life], disk: Path, taken: bool, omitted: str, what: str
) -> None:
    life = made(taken, omitted)
    with pytest.raises(Violated, match=what):
        replay(life, disk / "left")


@pytest.mark.parametrize(
    ("omitted", "what"),
    [
        ("", ""),
        ("sync staging/import/uploads/.*", "half-named|other content|named and gone"),
        ("sync_directory state", "outside of the log"),
    ],
)
def test_an_import_with_a_base_is_new_or_whole(
    disk: Path, monkeypatch: pytest.MonkeyPatch, omitted: str, what: str
) -> None:
    """The state is made of an archive; its file is a blob."""
    log, root = disk / "log", disk / "volume"
    put_entry(log, 6, [s_set(b"k", b"w")])
    large = Member(b"fs/large", LARGE[: PAYLOAD_INLINE_BYTES_MAX + 1])
    members = [kv_state((b"k", b"v")), Member(b"fs", kind=b"5"), large]
    base = put_snap(disk, 5, members)
    root.mkdir()
    recorder = Recorder(root, omitted)
    with monkeypatch.context() as patch:
        recorder.attach(patch)
        take(log, root, base=base)
    life = Life(root, recorder)
    if omitted:
        with pytest.raises(Violated, match=what):
            replay(life, disk / "left")
        return
    found = replay(life, disk / "left")
    print(f"{found.moments} moments, {found.states} states")
    assert found.states > found.moments > 40
    for tree in Model(recorder.operations).survivors(random.Random(SEED), 50):
        assert "log/data.mdb" in tree
