"""What retention removes: its rules by name, and against a model on random lists."""

import datetime as dt
import random
from dataclasses import replace

import pytest
from partition_operator.api.snapshot import (
    GOOD,
    STORED,
    Snapshot,
    SnapshotRetention,
    parse_snapshot,
    parse_snapshots_spec,
)
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob, age_of
from partition_operator.reconcile.schedule.deletion import (
    POLL_S,
    WAIT_S,
    Attempt,
    blocked_by_damage,
    deprecated,
    enforced,
    marked,
    next_step,
    pause_s,
    removals,
)
from partition_operator.reconcile.schedule.retention import (
    FAILED_KEPT_MAX,
    expired,
    next_expiry,
)

from tests.support.snapshot_objects import (
    NOW,
    OBJECT_STORE,
    VOLUME,
    group,
    partition,
    snapshot,
    stored,
)

DAY = dt.timedelta(days=1)


def names(found: list[Snapshot]) -> list[str]:
    return [s.name for s in found]


def daily(count: int, **more: object) -> list[Snapshot]:
    """The newest is s0, a day old."""
    return [stored(f"s{n}", NOW - DAY * (n + 1), **more) for n in range(count)]  # type: ignore[arg-type]


def test_by_count_the_oldest_go() -> None:
    assert names(expired(daily(5), SnapshotRetention(count=2), NOW)) == ["s4", "s3", "s2"]


def test_by_age_but_never_below_the_least() -> None:
    old = daily(4)
    assert names(expired(old, SnapshotRetention(max_age=DAY * 2.5), NOW)) == ["s3", "s2"]
    assert names(expired(old, SnapshotRetention(max_age=DAY / 2), NOW)) == ["s3", "s2", "s1"]
    assert names(expired(old, SnapshotRetention(max_age=DAY / 2, min_successful=3), NOW)) == ["s3"]
    assert names(expired(old, SnapshotRetention(max_age=DAY / 2, min_successful=0), NOW)) == [
        "s3",
        "s2",
        "s1",
        "s0",
    ]
    assert names(expired(old, SnapshotRetention(count=1, min_successful=2), NOW)) == ["s3", "s2"]


def test_the_age_of_one_that_waited_counts_from_its_start() -> None:
    """Its object was made long before: its Partition could not be captured until then."""
    waited = stored("waited", NOW - DAY * 0.5)
    old = replace(waited, created=NOW - DAY * 9)
    assert names(expired([old, *daily(3)], SnapshotRetention(count=2), NOW)) == ["s2", "s1"]
    assert names(expired([old, *daily(3)], SnapshotRetention(max_age=DAY * 2.5), NOW)) == ["s2"]
    assert next_expiry([old], SnapshotRetention(max_age=DAY), NOW) == NOW + DAY * 0.5


def test_pinned_and_used_ones_stay_and_do_not_count() -> None:
    found = [*daily(3), stored("pinned", NOW - DAY * 90, pinned=True)]
    assert names(expired(found, SnapshotRetention(count=1), NOW)) == ["s2", "s1"]
    assert names(expired(found, SnapshotRetention(count=1), NOW, frozenset({"s2"}))) == ["s1"]


def test_damaged_ones_do_not_count_as_success() -> None:
    found = [stored("bad", NOW, state="VerifyFailed"), *daily(2)]
    assert names(expired(found, SnapshotRetention(count=1), NOW)) == ["s1"]
    lost = stored(
        "lost",
        NOW,
        more={"conditions": [{"type": "Available", "status": "False"}]},
    )
    assert names(expired([lost, *daily(2)], SnapshotRetention(count=1), NOW)) == ["s1"]


def test_of_failed_ones_the_newest_are_kept_for_reading() -> None:
    failed = [
        snapshot(f"f{n}", created=NOW - DAY * n, status={"state": "Failed"})
        for n in range(FAILED_KEPT_MAX + 2)
    ]
    assert names(expired(failed, SnapshotRetention(), NOW)) == ["f4", "f3"]


def test_what_is_under_way_stays() -> None:
    running = snapshot("r", created=NOW - DAY * 9, status={"state": "Running"})
    proving = stored(
        "v", NOW - DAY * 8, state="Succeeded", more={"verification": {"method": "Checksum"}}
    )
    assert names(expired([running, proving, *daily(2)], SnapshotRetention(count=1), NOW)) == ["s1"]


def test_what_is_being_proven_takes_no_proven_ones_place() -> None:
    proving = {"verification": {"method": "Checksum"}}
    new = stored("new", NOW, state="Succeeded", more=proving)
    old = stored("old", NOW - DAY)
    assert expired([old, new], SnapshotRetention(count=1), NOW) == []
    assert expired([old, new], SnapshotRetention(max_age=DAY / 2), NOW) == []
    assert names(expired([old, stored("new", NOW)], SnapshotRetention(count=1), NOW)) == ["old"]


def test_where_snapshots_are_verified_the_newest_proven_one_stays() -> None:
    found = [stored(f"s{n}", NOW - DAY * n, state="Succeeded") for n in range(3)]
    found += [stored("v3", NOW - DAY * 3), stored("v4", NOW - DAY * 4)]
    assert names(expired(found, SnapshotRetention(count=1), NOW, proven=True)) == ["v4", "s2", "s1"]
    assert names(expired(found, SnapshotRetention(count=1), NOW)) == ["v4", "v3", "s2", "s1"]


def test_a_removal_that_has_begun_is_finished() -> None:
    begun = stored("s", NOW - DAY, state="Removing", pinned=True)
    held = frozenset({"s"})
    assert names(expired([begun, *daily(1)], SnapshotRetention(), NOW, held)) == ["s"]
    other = stored("old", NOW - DAY * 9)
    assert expired([begun, other], SnapshotRetention(count=1), NOW) == [begun], "nor does it count"


def test_damage_that_blocks_a_store_is_not_kept_for_reading() -> None:
    found = [
        stored("bad", NOW, state="VerifyFailed"),
        stored("pinned", NOW, state="VerifyFailed", pinned=True),
        stored("there", NOW, state="VerifyFailed", destination=VOLUME),
        snapshot("f", status={"state": "Failed"}),
        stored("begun", NOW - DAY * 9, state="Removing"),
        *daily(1),
    ]
    assert names(expired(found, SnapshotRetention(), NOW)) == ["begun"]
    assert names(expired(found, SnapshotRetention(), NOW, damage=True)) == ["begun", "bad"]


@pytest.mark.parametrize("seed", range(200))
def test_against_a_model(seed: int) -> None:
    dice = random.Random(seed)
    print(f"seed {seed}")
    found = []
    for n in range(dice.randrange(30)):
        made = NOW - DAY * dice.uniform(0, 60)
        state = dice.choice(("Verified", "Succeeded", "VerifyFailed", "Failed", "Running"))
        found.append(stored(f"s{n:02}", made, state=state, pinned=dice.random() < 0.1))
    retention = SnapshotRetention(
        count=dice.choice((None, 1, 2, 5)),
        max_age=dice.choice((None, DAY, DAY * 20)),
        min_successful=dice.randrange(4),
    )
    gone = expired(found, retention, NOW)
    kept = [s for s in found if s not in gone]
    assert not [s for s in gone if s.pinned or s.state == "Running"]
    good = [s for s in found if s.state in GOOD and not s.pinned]
    left = [s for s in kept if s in good]
    assert len(left) >= min(len(good), retention.min_successful)
    newest = sorted(good, key=age_of, reverse=True)
    assert sorted(left, key=age_of, reverse=True) == newest[: len(left)], "the newest are kept"
    for rank, one in enumerate(newest):
        over = retention.count is not None and rank >= retention.count
        old = retention.max_age is not None and age_of(one)[0] < NOW - retention.max_age
        assert (one in gone) == ((over or old) and rank >= retention.min_successful)
    assert expired(kept, retention, NOW) == [], "once is enough"


def test_age_alone_is_looked_at_in_time() -> None:
    assert next_expiry(daily(3), SnapshotRetention(max_age=DAY * 2.5), NOW) == NOW + DAY / 2
    assert next_expiry(daily(3), SnapshotRetention(count=1), NOW) is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"maxAge": "720"}, "a duration above 0 such as 720h or 30d"),
        ({"maxAge": "0h"}, "a duration above 0"),
        ({"maxAge": "-1d"}, "a duration above 0"),
        ({"maxAge": "999999d"}, "at most 36500d"),
        ({"maxAge": "9999999h9999999h"}, "at most 36500d"),
        ({"count": 0}, "at least 1"),
        ({"minSuccessful": -1}, "at least 0"),
    ],
)
def test_wrong_retention_is_refused(body: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_snapshots_spec({"snapshots": {"retention": body}})


def test_durations() -> None:
    for text, hours in (("720h", 720), ("30d", 720), ("1h30m", 1.5), ("90m", 1.5)):
        spec = parse_snapshots_spec({"snapshots": {"retention": {"maxAge": text}}})
        assert spec is not None
        assert spec.retention.max_age == dt.timedelta(hours=hours)


# --- how they are removed ---------------------------------------------------------------------


def test_one_job_a_place_and_none_for_what_left_nothing() -> None:
    seen = group(partition({"destination": OBJECT_STORE}))
    on_volume = {"volume": {"claim": "data-part-1", "claimUID": "u"}}
    found = [
        stored("a", NOW),
        stored("b", NOW),
        stored("c", NOW, destination=on_volume, more={"triedPods": ["part-2", "part-9"]}),
        snapshot("never", status={"state": "Failed"}),
    ]
    wanted = removals(found, seen)
    assert [(r.pod, r.snapshot_ids) for r in wanted] == [
        ("", ("a", "b")),
        ("part-1", ("c",)),
        ("part-2", ("c",)),
    ]


@pytest.mark.parametrize(
    ("reason", "jobs"),
    [("SnapshotExists", 0), ("StoreRefused", 0), ("SourceUnreachable", 1)],
)
def test_of_a_failed_one_only_what_may_be_its_own_is_removed(reason: str, jobs: int) -> None:
    conditions = [{"type": "Failed", "status": "True", "reason": reason}]
    seen = group(partition({"destination": OBJECT_STORE}))
    for state in ("Failed", "Removing"):
        failed = stored("f", NOW, state=state, more={"conditions": conditions})
        assert len(removals([failed], seen)) == jobs


def test_a_removal_is_started_watched_and_retried() -> None:
    seen = group(partition({"destination": VOLUME}))
    (removal,) = removals([stored("a", NOW)], seen)
    first = next_step(removal, None, NoJob.NONE, seen, "part-2")
    assert first.start
    assert first.attempt is not None
    assert first.attempt.ordinal == 2, "where the newest was taken"
    assert next_step(removal, first.attempt, ObservedJob("Running"), seen).attempt == first.attempt
    done = ObservedJob("Succeeded", objects_deleted=3)
    ended = next_step(removal, first.attempt, done, seen)
    assert ended.done == done
    assert ended.attempt is not None
    assert not ended.attempt.running, "it is not looked at again"
    assert next_step(removal, ended.attempt, NoJob.NONE, seen).done == done
    failed = next_step(removal, first.attempt, ObservedJob("Failed", reason="StoreBusy"), seen)
    assert failed.problem is not None
    assert failed.problem[0] == "StoreBusy"
    waits = next_step(removal, failed.attempt, NoJob.NONE, seen)
    assert not waits.start, "it waits"
    assert waits.problem == failed.problem, "and says for what"
    assert failed.attempt is not None
    assert not failed.attempt.running
    assert pause_s([failed.attempt], NOW) == 10
    assert pause_s([failed.attempt], NOW + DAY) == WAIT_S, "it could not be started: no hurry"
    assert pause_s([failed.attempt, first.attempt], NOW) == POLL_S
    assert pause_s([], NOW) is None
    later = group(seen.partition, NOW + dt.timedelta(seconds=11))
    again = next_step(removal, failed.attempt, NoJob.NONE, later)
    assert again.start
    assert again.attempt is not None
    assert again.attempt.job_id != first.attempt.job_id, "a failed job stays failed"
    assert again.problem == failed.problem, "until it is done"
    assert (
        next_step(removal, again.attempt, ObservedJob("Running"), later).problem == failed.problem
    )
    gone = next_step(removal, Attempt("x", 1), NoJob.UNKNOWN, later)
    assert gone.start, "the replica was restarted"


def test_a_volume_is_pruned_by_its_own_replica_alone() -> None:
    seen = group(partition({"destination": VOLUME}), silent=(1,))
    on_volume = {"volume": {"claim": "data-part-1", "claimUID": "u"}}
    (removal,) = removals([stored("c", NOW, destination=on_volume)], seen)
    step = next_step(removal, None, NoJob.NONE, seen)
    assert not step.start
    assert step.problem is not None
    assert step.problem[0] == "WaitingForReplica"


def test_what_is_marked_is_good_for_nothing_any_more() -> None:
    found = stored("a", NOW)
    status = marked(found, NOW)
    assert status["state"] == "Removing"
    assert status["snapshotID"] == "a", "what the removal needs is kept"
    gone = parse_snapshot(found.body | {"status": status})
    assert gone.ended
    assert gone.state not in GOOD | STORED


def test_damage_is_remembered_over_a_restart_and_said() -> None:
    seen = group(partition({"destination": VOLUME}))
    (removal,) = removals([stored("a", NOW)], seen)
    attempt = Attempt("x", 1)
    bad = ObservedJob("Failed", reason="SnapshotDamaged", message="manifest b")
    step = next_step(removal, attempt, bad, seen)
    assert step.attempt is not None
    assert step.problem is not None
    assert "manifest b" in step.problem[1]
    assert "not pinned; delete others" in step.problem[1]
    assert blocked_by_damage(None, [step.attempt])
    assert not blocked_by_damage(None, [attempt])
    assert blocked_by_damage({"status": "False", "reason": "SnapshotDamaged"}, [])


def test_retention_stays_false_until_it_is_done() -> None:
    old = {"status": "False", "reason": "StoreBusy", "message": "m"}
    busy = enforced(None, under_way=True, old=old)
    assert (busy.status, busy.reason, busy.message) == (False, "StoreBusy", "m")
    assert enforced(None, under_way=False, old=old).status is True
    assert enforced(None, under_way=True, old=None).status is True, "nothing has failed"
    assert enforced(("A", "b"), under_way=True, old=old).reason == "A"


def test_the_condition_stands_under_its_earlier_name_too() -> None:
    for problem, reasons in ((None, ("Enforced", "Pruned")), (("A", "b"), ("A", "A"))):
        found = enforced(problem, under_way=False, old=None)
        earlier = deprecated(found)
        assert (found.type, earlier.type) == ("RetentionEnforced", "SnapshotsPruned")
        assert (found.reason, earlier.reason) == reasons
        assert (earlier.status, earlier.message) == (found.status, found.message)
