"""What a power failure leaves of a volume: at each moment of a replica's life, every state that the
disk could have kept opens, and holds what was promised (tests/support/power_loss.py has the rules).

POWER_LOSS_STATES (default 20) is how many states a moment are tried where there are more; the
sample's seed is POWER_LOSS_SEED, and a failure prints it.
"""

import gc
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from partition_replica.core.model import (
    LogBatch,
    Position,
    StateSwitch,
)
from partition_replica.ids import LSN, Term
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.environment import DATA_FILE
from partition_replica.storage.log.journal import JournalLimits

from tests.support.logs import SMALL_JOURNAL
from tests.support.power_loss import Recorder
from tests.support.proposals import link, remove, set_key
from tests.support.replica_life import (
    Killed,
    Life,
    Sent,
    Violated,
    a_snapshot_arrives,
    another_state,
    blobs_come_and_go,
    content,
    digest,
    replay,
    the_journal_fills,
)
from tests.support.replica_life import disk as disk  # a fixture
from tests.support.replica_life import live as live  # a fixture


def sent_by(folder: Path) -> Sent:
    """The state of that replica, sent."""
    source = another_state(folder)
    position = source.copy(folder / "copy")
    source.close()
    return Sent(position, (folder / "copy" / DATA_FILE).read_bytes())


def test_blobs_come_and_go(live: Callable[..., Life], disk: Path) -> None:
    life = live(blobs_come_and_go)
    found = replay(life, disk / "left")
    print(f"{found.moments} moments, {found.states} states")
    assert found.states > found.moments > 80


def test_the_journal_fills(live: Callable[..., Life], disk: Path) -> None:
    life = live(the_journal_fills, journal=SMALL_JOURNAL)
    kinds = [str(operation) for operation in life.recorder.operations]
    assert sum("overwrite log/journal" in kind for kind in kinds) > 8
    found = replay(life, disk / "left")
    print(f"{found.moments} moments, {found.states} states")
    assert found.states > found.moments > 60


@pytest.mark.parametrize(
    ("omitted", "what"),
    [
        ("sync log/journal", r"is gone|outside of the log"),
        ("sync_directory log", r"`journal` is missing"),
    ],
)
def test_a_journal_that_is_not_synced_is_found(
    live: Callable[..., Life], disk: Path, omitted: str, what: str
) -> None:
    with pytest.raises(Violated, match=what):
        replay(live(the_journal_fills, omitted, SMALL_JOURNAL), disk / "left")


def test_a_snapshot_arrives(live: Callable[..., Life], disk: Path) -> None:
    sent = sent_by(disk / "source")
    life = live(lambda life: a_snapshot_arrives(life, sent))
    found = replay(life, disk / "left")
    print(f"{found.moments} moments, {found.states} states")
    assert found.states > found.moments > 60


def the_state_forgets_a_blob(life: Life) -> None:
    """Its last name is the state's, and goes with an apply."""
    life.bootstrap()
    life.upload("a")
    life.commit(life.propose([link(b"a")], "a"), commit=True)
    life.apply()
    life.compact()
    life.commit(life.propose([remove(b"a")]), commit=True)
    life.apply()
    assert not life.volume.blobs.path(digest("a")).exists()


def test_a_blob_goes_behind_its_last_name_in_the_state(
    live: Callable[..., Life], disk: Path
) -> None:
    replay(live(the_state_forgets_a_blob), disk / "left")


@pytest.mark.parametrize("journal", [None, SMALL_JOURNAL])
def test_a_killed_process_leaves_nothing_that_the_next_one_trusts(
    disk: Path, monkeypatch: pytest.MonkeyPatch, journal: JournalLimits | None
) -> None:
    """The process is killed at each operation, which the kernel survives, and the next one's work
    is what the power failure meets: names and content that an earlier process did not sync are as
    good as none."""

    def start(life: Life) -> None:
        life.open()
        if not life.volume.log.identity.cluster_id:
            life.bootstrap()
        life.upload("a")
        life.commit(life.propose([link(b"a")], "a"), commit=True)
        life.commit(life.propose([set_key(b"k", b"v")]), commit=True)
        life.commit(life.propose([set_key(b"k", b"v")]), commit=True)
        life.apply()

    killed = 0
    for moment in itertools.count():
        root = disk / f"volume-{moment}"
        root.mkdir()
        recorder = Recorder(root)
        life = Life(root, recorder, journal)
        countdown = iter(range(moment))

        def before(countdown: Iterator[int] = countdown) -> None:
            if next(countdown, None) is None:
                raise Killed

        with monkeypatch.context() as patch:
            recorder.attach(patch)
            recorder.before = before
            if not ends_early(life, start):
                break
            killed += 1
            recorder.before = lambda: None
            start(life)
            life.close()
        end = len(recorder.operations)
        replay(life, disk / "left", range(end, end + 1))
        shutil.rmtree(root)
    assert killed > 25


def ends_early(life: Life, story: Callable[[Life], None]) -> bool:
    """Whether it was killed; then nothing of it is left in memory."""
    try:
        story(life)
        life.close()
    except Killed:
        life.recorder.close()
        life.lock.release()
    else:
        return False
    gc.collect()  # an environment that was being opened
    return True


# --- the checker can fail ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("omitted", "what"),
    [
        ("sync staging/blob-.*", "half-named"),
        ("sync_directory blobs/.*", "named and gone"),
        ("sync_directory blobs", "named and gone"),
        ("sync log.new/data.mdb", "log/data.mdb"),
        ("sync_directory log.new", "has no data file"),
        ("sync_directory state", "outside of the log"),
        ("sync state/1/data.mdb", "outside of the log"),
    ],
)
def test_an_fsync_left_out_is_found(
    live: Callable[..., Life], disk: Path, omitted: str, what: str
) -> None:
    with pytest.raises(Violated, match=what):
        replay(live(blobs_come_and_go, omitted), disk / "left")


@pytest.mark.parametrize(
    "omitted",
    ["sync staging/incoming/data.mdb", "sync_directory staging/incoming", "sync_directory state"],
)
def test_an_fsync_of_a_snapshot_left_out_is_found(
    live: Callable[..., Life], disk: Path, omitted: str
) -> None:
    sent = sent_by(disk / "source")
    life = live(lambda life: a_snapshot_arrives(life, sent), omitted)
    with pytest.raises(Violated, match=r"outside of the log|2/data.mdb"):
        replay(life, disk / "left")


@pytest.mark.parametrize(
    ("omitted", "what"),
    [("sync_file_system 1", "half-named"), ("sync_file_system 2", "named and gone")],
)
def test_a_sync_of_blobs_that_came_together_left_out_is_found(
    live: Callable[..., Life], disk: Path, omitted: str, what: str
) -> None:
    sent = sent_by(disk / "source")
    life = live(lambda life: a_snapshot_arrives(life, sent), omitted)
    with pytest.raises(Violated, match=what):
        replay(life, disk / "left")


def the_entry_comes_first(life: Life) -> None:
    life.bootstrap()
    life.commit(life.propose([link(b"a")], "a"), commit=True)
    life.upload("a")


def compaction_trusts_an_apply(life: Life) -> None:
    life.bootstrap()
    life.commit(life.propose([]), commit=True)
    life.apply()
    life.compact(sync=False)


def the_log_switches_first(life: Life) -> None:
    """To a state that is not in its place yet."""
    life.bootstrap()
    position = Position(LSN(9), Term(1))
    switch = StateSwitch(position, life.volume.log.configuration[1], 2)
    life.volume.log.commit(LogBatch(snapshot=switch))


@pytest.mark.parametrize(
    ("story", "what"),
    [
        (the_entry_comes_first, "named and gone"),
        (compaction_trusts_an_apply, "outside of the log"),
        (the_log_switches_first, "outside of the log"),
    ],
)
def test_a_wrong_order_is_found(
    live: Callable[..., Life], disk: Path, story: Callable[[Life], None], what: str
) -> None:
    with pytest.raises(Violated, match=what):
        replay(live(story), disk / "left")


@pytest.mark.parametrize("together", [False, True])
def test_a_blob_is_not_here_before_its_name_is_durable(
    disk: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Whoever asks between the rename and the fsync of the directory would trust it."""
    root = disk / "volume"
    root.mkdir()
    recorder = Recorder(root)
    recorder.attach(monkeypatch)
    store = BlobStore(root / "blobs", root / "staging", pins_max=1)
    seen: list[tuple[str, bool, bool]] = []

    def ask() -> None:
        if not store._lock.locked() and store.path(digest("a")).exists():
            seen.append((store.path(digest("a")).name, store.has(digest("a")), pinned()))

    def pinned() -> bool:
        return store.pin_present(digest("a"), 1.0)

    recorder.before = ask
    if together:
        group = store.group()
        group.add(digest("a"), len(content("a")), content("a"))
        group.finish()
    else:
        writer = store.writer(digest("a"), len(content("a")))
        writer.write(content("a"))
        writer.finish()
    assert seen == [(digest("a").hex(), False, False)]
    assert store.has(digest("a"))
    assert pinned()
