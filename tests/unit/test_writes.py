"""What the plan does about objects of somebody else, and about writes that fail or are undone."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse, parse_spec
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed import last_write
from partition_operator.reconcile.observed.last_write import (
    AT_ONCE_MAX,
    CALM,
    held,
    pause_s,
    refused,
    taken,
)
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedPartition,
    ObservedPod,
)
from partition_operator.reconcile.partition import membership, objects
from partition_operator.reconcile.partition.actions import (
    AddLearner,
    AnnotateClaim,
    Apply,
    Bootstrap,
    IssueCertificate,
    Join,
    PromoteLearner,
    RepairLabels,
)
from partition_operator.reconcile.partition.plan import Plan, plan
from partition_operator.reconcile.partition.writes import target
from partition_operator.resources.common import (
    covers,
    difference,
    fingerprint,
    is_foreign,
    is_leaving,
    metadata,
)

from tests.support.running_groups import applied, conditions, new, running
from tests.support.snapshot_objects import CLUSTER, NOW, partition

WORDS = "exceeded quota: q"

# --- whose it is ------------------------------------------------------------------------------

MINE = {
    "apiVersion": names.API_VERSION,
    "kind": names.KIND,
    "name": "part",
    "uid": "p-uid",
    "controller": True,
}
ALL_MARKS = names.labels("part")


@pytest.mark.parametrize(
    ("owners", "labels", "foreign", "leaving"),
    [
        ([MINE], {}, False, False),
        ([MINE], {"app": "other"}, False, False),
        ([MINE | {"uid": "earlier"}], ALL_MARKS, False, True),
        ([MINE | {"apiVersion": f"{names.GROUP}/v1", "uid": "earlier"}], ALL_MARKS, False, True),
        ([MINE | {"apiVersion": "kafka.example/v1", "uid": "k"}], ALL_MARKS, True, True),
        ([MINE | {"name": "other", "uid": "o"}], ALL_MARKS, True, True),
        ([MINE | {"kind": "Deployment", "uid": "d"}], ALL_MARKS, True, True),
        ([], ALL_MARKS, False, False),
        ([], {names.LABEL_PARTITION: "part"}, True, False),
        ([], {}, True, False),
        ([MINE | {"controller": False}], {}, True, False),
        ([{"uid": "x", "kind": "Team", "name": "t"}, MINE], {}, False, False),
    ],
)
def test_the_owner_decides_and_then_all_of_our_marks(
    owners: list[dict[str, Any]], labels: dict[str, str], *, foreign: bool, leaving: bool
) -> None:
    live = {"metadata": {"name": "part", "labels": labels, "ownerReferences": owners}}
    assert is_foreign(live, partition()) == foreign
    assert is_leaving(live, partition()) == leaving


@pytest.mark.parametrize("name", ["part-replica-tls", "part-client-tls"])
def test_no_certificate_is_written_into_a_secret_of_somebody_else(name: str) -> None:
    live = {"kind": "Secret", "metadata": {"name": name, "uid": "x", "labels": {"app": "shop"}}}
    fresh = partition(status={"bootstrapped": False})
    observed = ObservedPartition(fresh, NOW, {("Secret", name): live}, (), (), ())
    step = plan(observed, "image:1")
    assert step.action is None
    assert conditions(step)["Accepted"]["reason"] == "Conflict"
    assert name in conditions(step)["Accepted"]["message"]
    # A group that runs is looked after all the same, and the Secret stays as it is.
    kept = running()
    step = plan(replace(kept, objects=kept.objects | {("Secret", name): live}), "image:1")
    assert isinstance(step.action, PromoteLearner)
    assert (step.status["state"], conditions(step)["Ready"]["status"]) == ("Conflict", "False")
    bad = replace(kept, objects={**kept.objects, ("Secret", name): live}, certificates_good={})
    other = plan(bad, "image:1").action
    assert isinstance(other, IssueCertificate)
    assert other.secret != name


def test_labels_are_put_back_by_uid() -> None:
    observed = running()
    unlabelled = tuple(
        replace(p, labelled=p.ordinal != 1, uid=f"p{p.ordinal}") for p in observed.pods
    )
    step = plan(replace(observed, pods=unlabelled), "image:1")
    assert step.action == RepairLabels("Pod", "part-1", "p1", names.labels("part"))
    claims = tuple(replace(c, labelled=c.ordinal != 2) for c in observed.claims)
    step = plan(replace(observed, claims=claims), "image:1")
    selector = names.selector("part")
    assert step.action == RepairLabels("PersistentVolumeClaim", "data-part-2", "c2", selector)
    secret = {"kind": "Secret", "metadata": metadata(partition(), "part-client-tls", "client")}
    secret["metadata"] |= {"uid": "s", "labels": {}}
    step = plan(replace(observed, objects=observed.objects | {key(secret): secret}), "image:1")
    marks = names.labels("part", "client")
    assert step.action == RepairLabels("Secret", "part-client-tls", "s", marks)
    orphan = {
        "kind": "Secret",
        "metadata": {"name": "part-client-tls", "uid": "s", "labels": marks},
    }
    step = plan(replace(observed, objects=observed.objects | {key(orphan): orphan}), "image:1")
    assert step.action == RepairLabels("Secret", "part-client-tls", "s", marks, owned=True)


@pytest.mark.parametrize("other", [{"blockOwnerDeletion": True}, {"apiVersion": "logstore.dev/v1"}])
def test_an_owner_reference_of_ours_is_left_as_it_is(other: dict[str, Any]) -> None:
    """Nothing that RepairLabels writes would change it."""
    observed = running()
    secret = {"kind": "Secret", "metadata": metadata(partition(), "part-client-tls", "client")}
    owner = secret["metadata"]["ownerReferences"][0] | other
    secret["metadata"] |= {"uid": "s", "ownerReferences": [owner]}
    step = plan(replace(observed, objects=observed.objects | {key(secret): secret}), "image:1")
    assert isinstance(step.action, PromoteLearner)
    assert conditions(step)["ObjectsApplied"]["reason"] == "Applied"


def test_objects_that_are_being_deleted_are_named_and_waited_for() -> None:
    observed = running()
    found = dict(observed.objects)
    for one in (("StatefulSet", "part"), ("Service", "part")):
        meta = found[one]["metadata"] | {"deletionTimestamp": "2026-01-02T00:00:00Z"}
        found[one] = found[one] | {"metadata": meta}
    step = plan(replace(observed, objects=found), "image:1")
    assert step.action is None
    assert not step.settled
    said = conditions(step)["Progressing"]
    assert (said["status"], said["reason"]) == ("True", "ObjectsLeaving")
    assert "are deleted: Service part, StatefulSet part;" in said["message"]
    assert "metadata.finalizers" in said["message"]
    # As one of an earlier Partition, which is not deleted yet.
    owner = {**found["Service", "part"]["metadata"]["ownerReferences"][0], "uid": "earlier"}
    live = observed.objects["Service", "part"]
    meta = live["metadata"] | {"ownerReferences": [owner]}
    old = observed.objects | {("Service", "part"): live | {"metadata": meta}}
    step = plan(replace(observed, objects=old), "image:1")
    assert "are deleted: Service part;" in conditions(step)["Progressing"]["message"]
    assert not step.settled


def key(body: dict[str, Any]) -> tuple[str, str]:
    return body["kind"], body["metadata"]["name"]


def test_a_group_does_not_grow_over_a_claim_of_somebody_else() -> None:
    observed = running({"replicas": 5})
    unknown = ObservedClaim(3, "2026-01-02T00:00:00Z", "", "x", labelled=False)
    found = applied(replace(observed, objects={}, claims=(*observed.claims, unknown)))
    assert found.objects["StatefulSet", "part"]["spec"]["replicas"] == 3
    step = plan(found, "image:1")
    assert isinstance(step.action, PromoteLearner)
    assert "PersistentVolumeClaim data-part-3" in conditions(step)["Accepted"]["message"]
    # Its volume says that it is ours, or the user does.
    ours = replace(observed.replicas[1], ordinal=3, member_id=103)
    found = replace(found, replicas=(*found.replicas, ours))
    assert objects.unknown_claims(found) == []
    adopted = partition(spec={"bootstrap": {"adopt": True}})
    assert objects.unknown_claims(replace(found, partition=adopted, replicas=())) == []


# --- what is refused --------------------------------------------------------------------------


def refuse(observed: ObservedPartition, step: Plan, at: dt.datetime = NOW) -> ObservedPartition:
    """As if the API server had refused the step's action."""
    assert step.action is not None
    found = target(step.action, "part")
    assert found is not None
    record = refused(observed.writes.get(found[0]), found[1], WORDS, at)
    return replace(observed, writes=observed.writes | {found[0]: record})


def test_repair_goes_on_while_an_object_is_refused() -> None:
    observed = replace(running(), objects={})
    refusals = []
    for _ in range(10):
        step = plan(observed, "image:1")
        if not isinstance(step.action, Apply):
            break
        refusals.append(step.action.body["kind"])
        observed = refuse(observed, step)
    assert refusals == [
        "ServiceAccount",
        "Service",
        "Service",
        "StatefulSet",
        "PodDisruptionBudget",
    ]
    assert isinstance(step.action, PromoteLearner)
    found = conditions(step)
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "ObjectRefused")
    assert found["ObjectsApplied"]["message"].count(WORDS) == 5
    assert step.retry_s == 2
    assert [e.reason for e in step.events].count("ObjectRefused") == 1
    # Said once; when it is due it is tried again, and said until it is taken.
    observed = replace(observed, partition=parse(observed.partition.body | {"status": step.status}))
    assert plan(observed, "image:1").events == []
    later = replace(observed, now=NOW + dt.timedelta(seconds=3))
    step = plan(later, "image:1")
    assert isinstance(step.action, Apply)
    assert conditions(step)["ObjectsApplied"]["status"] == "False"
    healed = replace(applied(replace(later, writes={})), writes={})
    step = plan(healed, "image:1")
    assert conditions(step)["ObjectsApplied"]["status"] == "True"
    assert "ObjectsApplied" in [e.reason for e in step.events]


def test_another_content_is_tried_at_once() -> None:
    observed = running()
    changed = {"replicas": 3, "storage": {"size": "1Gi"}, "affinity": {"bad": {}}}
    asked = parse(observed.partition.body | {"spec": changed})
    observed = refuse(
        replace(observed, partition=asked), plan(replace(observed, partition=asked), "i")
    )
    assert isinstance(plan(observed, "i").action, PromoteLearner)
    again = parse(asked.body | {"spec": changed | {"affinity": {"good": {}}}})
    step = plan(replace(observed, partition=again), "i")
    assert isinstance(step.action, Apply)


def test_a_volume_is_not_touched_while_its_mark_is_refused() -> None:
    fresh = partition(status={"bootstrapped": False})
    pods = tuple(ObservedPod(n, f"10.0.0.{n}", True, False) for n in range(3))
    claims = tuple(
        ObservedClaim(n, "2026-01-02T00:00:00Z", "" if n == 0 else CLUSTER) for n in range(3)
    )
    base = ObservedPartition(fresh, NOW, {}, pods, claims, (new(0), new(1)))
    observed = applied(base)
    step = plan(observed, "image:1")
    assert step.action == AnnotateClaim(0, CLUSTER)
    step = plan(refuse(observed, step), "image:1")
    assert step.action is None
    assert "PersistentVolumeClaim data-part-0" in conditions(step)["ObjectsApplied"]["message"]
    marked = replace(observed, claims=tuple(replace(c, cluster_id=CLUSTER) for c in claims))
    assert plan(marked, "image:1").action == Bootstrap(0, CLUSTER)
    # Of a group that exists the others go on.
    kept = running()
    claims = (*kept.claims[:2], replace(kept.claims[2], cluster_id=""))
    joining = replace(kept, claims=claims, replicas=(*kept.replicas[:2], new(2)))
    step = plan(joining, "image:1")
    assert step.action == AnnotateClaim(2, CLUSTER)
    held_back = refuse(joining, step)
    assert not isinstance(plan(held_back, "image:1").action, Join | AddLearner)
    assert membership.next_change(held_back, CLUSTER, 3) == Join(2, CLUSTER)


def test_the_words_are_bounded() -> None:
    record = refused(None, "h", "x" * 100_000, NOW)
    assert len(record.refusal) < 1100


# --- what is undone ---------------------------------------------------------------------------


def test_the_same_content_is_written_with_growing_pauses() -> None:
    record, now, pauses = None, NOW, []
    for _ in range(10):
        record = taken(record, "h", "f", now)
        pauses.append(pause_s(record, now))
        assert held(record, "h", now) == (pauses[-1] is not None)
        assert (record.retry_at is None) == (pauses[-1] is None)
        assert not held(record, "other", now)
        now = record.retry_at or now
    assert pauses == [None, None, None, 10, 30, 60, 300, 300, 300, 300]
    assert record is not None
    assert taken(record, "h", "f", now + CALM).tries == 1
    assert taken(record, "other", "f", now).tries == 1
    assert taken(refused(record, "h", WORDS, now), "h", "f", now).tries == 1


def test_a_clock_that_is_set_back_holds_nothing() -> None:
    before = NOW - dt.timedelta(hours=1)
    undone = last_write.Write("h", NOW, AT_ONCE_MAX + 1, NOW + dt.timedelta(seconds=10), "f")
    for record in (taken(None, "h", "f", NOW), undone, refused(None, "h", WORDS, NOW)):
        assert not held(record, "h", before)
        assert pause_s(record, before) is None
    # The plan writes the object at once, too, and waits for nothing.
    observed = replace(running(), objects={})
    waiting = refuse(observed, plan(observed, "image:1"))
    step = plan(replace(waiting, now=before), "image:1")
    assert step.action == plan(observed, "image:1").action
    assert step.retry_s is None


def test_a_refusal_is_tried_again_with_growing_pauses_for_ever() -> None:
    record, pauses = None, []
    for _ in range(6):
        record = refused(record, "h", WORDS, NOW)
        assert record.retry_at is not None
        pauses.append((record.retry_at - NOW).total_seconds())
    assert pauses == [2, 5, 15, 60, 60, 60]
    assert refused(record, "other", WORDS, NOW).tries == 1


def test_what_is_undone_is_said_until_it_stands() -> None:
    observed = running()
    record = last_write.Write("h", NOW, AT_ONCE_MAX + 1, NOW + dt.timedelta(seconds=10), "f")
    step = plan(replace(observed, writes={("Service", "part"): record}), "image:1")
    applied_condition = conditions(step)["ObjectsApplied"]
    assert (applied_condition["status"], applied_condition["reason"]) == (
        "False",
        "ChangedByOthers",
    )
    assert "Service part" in applied_condition["message"]
    assert "ChangedByOthers" in [e.reason for e in step.events]
    later = replace(observed, writes={("Service", "part"): record}, now=NOW + CALM)
    assert conditions(plan(later, "image:1"))["ObjectsApplied"]["status"] == "True"


# --- how a live object is compared ------------------------------------------------------------


def test_what_others_put_into_lists_of_names_does_not_matter() -> None:
    wanted = {"containers": [{"name": "replica", "image": "a"}], "args": ["x"]}
    sidecar = {"name": "istio-proxy", "image": "b"}
    live = {"containers": [sidecar, {"name": "replica", "image": "a", "tty": True}], "args": ["x"]}
    assert covers(live, wanted)
    assert not covers(live | {"args": ["x", "y"]}, wanted)
    changed = live | {"containers": [sidecar, {"name": "replica", "image": "mirror/a"}]}
    assert difference(changed, wanted) == "containers[replica].image"
    assert difference(live | {"containers": [sidecar]}, wanted) == "containers[replica]"
    assert difference({"args": ["z"]}, {"args": ["x"]}) == "args[0]"


TOLERATION = {"key": "a", "operator": "Exists"}
MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a limit": (
        {"resources": {"limits": {"cpu": "500m", "memory": "512Mi"}}},
        {"resources": {"limits": {"memory": "512Mi"}}},
    ),
    "resources": ({"resources": {"limits": {"memory": "1Gi", "cpu": "1"}}}, {}),
    "tolerations": ({"tolerations": [TOLERATION]}, {}),
    "a toleration's effect": (
        {"tolerations": [TOLERATION | {"effect": "NoSchedule"}]},
        {"tolerations": [TOLERATION]},
    ),
    "affinity": ({"affinity": {"nodeAffinity": {"x": 1}}}, {}),
    "one affinity of two": (
        {"affinity": {"nodeAffinity": {"x": 1}, "podAntiAffinity": {"y": 1}}},
        {"affinity": {"nodeAffinity": {"x": 1}}},
    ),
    "annotations": ({"podTemplate": {"metadata": {"annotations": {"a": "b"}}}}, {}),
    "a label": ({"podTemplate": {"metadata": {"labels": {"a": "b"}}}}, {}),
}


@pytest.mark.parametrize("case", MORE)
def test_an_object_with_more_than_is_wanted_is_applied(case: str) -> None:
    more, less = MORE[case]
    observed = running(more)
    assert isinstance(plan(observed, "image:1").action, PromoteLearner), "all is as it should be"
    step = plan(replace(observed, partition=partition(spec=less)), "image:1")
    assert isinstance(step.action, Apply)
    assert step.action.body["kind"] == "StatefulSet"


def test_a_fingerprint_knows_content_and_not_what_changes_by_itself() -> None:
    live: dict[str, Any] = {"metadata": {"name": "x", "resourceVersion": "1"}, "spec": {"a": 1}}
    later = live | {"metadata": {"name": "x", "resourceVersion": "2"}, "status": {"ready": 1}}
    assert fingerprint(live) == fingerprint(later)
    assert fingerprint(live) != fingerprint(live | {"spec": {"a": 2}})
    assert fingerprint(live) != fingerprint(
        live | {"metadata": {"name": "x", "labels": {"a": "b"}}}
    )


# --- labels and annotations of pods -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "entry", "why"),
    [
        ("labels", {names.LABEL_PARTITION: "x"}, "use another key"),
        ("labels", {"app.kubernetes.io/component": "x"}, "use another key"),
        ("labels", {"statefulset.kubernetes.io/pod-name": "x"}, "use another key"),
        ("annotations", {names.ANNOTATION_ATTEMPT: "1"}, "use another key"),
        ("annotations", {"a": 1}, "not text"),
    ],
)
def test_marks_by_which_pods_are_found_are_refused(
    kind: str, entry: dict[str, Any], why: str
) -> None:
    spec = {"storage": {"size": "1Gi"}, "podTemplate": {"metadata": {kind: entry}}}
    with pytest.raises(InvalidSpec, match=why):
        parse_spec("a", spec)
