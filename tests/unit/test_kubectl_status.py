"""`kubectl partition status`: its view of a Partition, and the text."""

from typing import Any

import pytest
from partition_kubectl import pods, status

from tests.support.kubectl_objects import NOW, condition, partition, pod


def text(found: dict[str, Any]) -> str:
    return status.text(found, NOW)


def claim(number: int, **found: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"data-part-{number}"},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}},
        "status": found,
    }


def test_the_members_are_shown_with_their_roles_and_volumes() -> None:
    body = partition(quorumCriticalPods=["part-1"])
    body["status"]["members"][2]["role"] = "learner"
    rows = status.members(
        body,
        [pod(0), pod(1), pod(3)],
        [
            claim(0, capacity={"storage": "12Gi"}),
            claim(1),
            claim(3, capacity={"storage": "536870912"}),
        ],
    )
    assert [(r["pod"], r["role"], r["ready"]) for r in rows] == [
        ("part-0", "leader", True),
        ("part-1", "voter", True),
        ("part-2", "learner", False),
        ("part-3", "not a member", True),
    ]
    assert [r["volume"] for r in rows] == ["12Gi fast", "10Gi asked fast", "", "512.0 MiB fast"]
    assert [r["quorumCritical"] for r in rows] == [False, True, False, False]
    assert rows[2]["trouble"] == "does not exist"


def test_pods_are_in_the_order_of_their_numbers() -> None:
    rows = status.members(partition(members=[]), [pod(10), pod(9), pod(0)], [])
    assert [r["pod"] for r in rows] == ["part-0", "part-9", "part-10"]


def test_a_pod_behind_the_newest_template_is_marked() -> None:
    old = pod(1)
    old["metadata"]["labels"]["controller-revision-hash"] = "part-000"
    rows = status.members(partition(), [pod(0), old], [])
    assert [r["revision"] for r in rows] == ["current", "behind", ""]


def test_the_page_of_a_healthy_partition() -> None:
    certificates = condition("CertificatesReady", "True", "Issued", "certificates are issued")
    found = status.view(partition(certificates), [pod(n) for n in range(3)], [], [])
    lines = text(found).splitlines()
    assert lines[:7] == [
        "Partition:    ns/part, 60m old",
        "Status:       Ready: every replica serves",
        "Pods:         3/3 ready, mode Raft",
        "Leader:       part-0, term 4",
        "Lag:          0, in entries, of the slowest member",
        "Image:        registry.example/partition:1.2",
        "Certificates: Issued: certificates are issued",
    ]
    assert lines[8].split() == [
        *("POD", "ROLE", "READY", "RESTARTS", "VERSION", "TEMPLATE", "NODE", "VOLUME")
    ]
    assert lines[9].split() == ["part-0", "leader", "yes", "0", "1.2", "current", "node-0", "-"]
    assert lines[-1] == "Nothing needs attention."


def test_what_is_missing_or_in_progress_is_said() -> None:
    body = partition(
        condition("Progressing", "True", "Changing", "adding members"),
        condition("Paused", "False", "Followed", "the operator follows the spec"),
        condition("Fenced", "False", "None", "no replica is fenced"),
        condition("Hibernated", "False", "Stopping", "waiting for part-0 to end"),
        condition("Replicated", "False", "Incomplete", "2 of 3 voters are active"),
        condition("SnapshotsPruned", "False", "Failed", "repeats RetentionEnforced"),
        condition("BackfillComplete", "False", "NotRequested", "not asked for"),
        generation=3,
    )
    assert status.missing(body) == [
        "the operator, which has not seen the newest spec yet",
        "Progressing: adding members",
        "Hibernated: waiting for part-0 to end",
        "Replicated: 2 of 3 voters are active",
    ]


def test_a_new_partition_without_status_is_shown() -> None:
    body = partition()
    del body["status"]
    shown = text(status.view(body, [], [], []))
    assert "Status:    none yet" in shown
    assert "No pods and no members yet." in shown


def test_pause_hibernation_and_fences_are_shown() -> None:
    body = partition(
        spec={"paused": True, "hibernated": True},
        annotations={"logstore.dev/fence": "part-2, part-1,"},
    )
    shown = text(status.view(body, [], [], []))
    assert "kubectl partition resume" in shown
    assert "kubectl partition wake" in shown
    assert "Fenced:     part-1, part-2" in shown
    assert "paused,hibernated,fenced" in status.overview([body], namespaces=False, now=NOW)


def test_pods_that_may_not_be_seen_are_not_said_to_be_absent() -> None:
    found = status.view(partition(), None, [], [])
    assert [(r["ready"], r["trouble"]) for r in found["members"]] == [(None, "")] * 3
    assert "does not exist" not in text(found)


def test_the_newest_snapshots_come_first_and_few_are_shown() -> None:
    made = [
        {
            "metadata": {"name": f"s-{n}", "creationTimestamp": f"2026-01-02T0{n}:00:00Z"},
            "status": {"state": "Verified", "lsn": str(n), "sizeBytes": 2048},
        }
        for n in range(8)
    ]
    schedule = {"schedule": "0 3 * * * Etc/UTC", "nextScheduleTime": "2026-01-03T03:00:00Z"}
    found = status.view(partition(snapshots=schedule), [], [], made)
    assert [s["name"] for s in found["snapshots"]] == ["s-7", "s-6", "s-5", "s-4", "s-3"]
    shown = text(found)
    assert "Snapshots: 0 3 * * * Etc/UTC; the next one at 2026-01-03T03:00:00Z." in shown
    assert "s-7    Verified   7     2.0 KiB   5h" in shown


def test_the_list_of_all_namespaces_names_them() -> None:
    shown = status.overview([partition()], namespaces=True, now=NOW).splitlines()
    assert shown[0].split()[0] == "NAMESPACE"
    assert shown[1].split() == [*("ns", "part", "Ready", "3/3", "Raft", "part-0", "0", "-", "60m")]
    assert "no Partitions" in status.overview([], namespaces=True, now=NOW)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (pod(0), ""),
        (pod(0, ready=False), "runs and is not ready"),
        (pod(0, ready=False, placed=False), "has no node: 0/3 nodes fit"),
        (
            pod(0, ready=False, state={"waiting": {"reason": "ImagePullBackOff", "message": "no"}}),
            "waits with ImagePullBackOff: no",
        ),
        (
            pod(0, ready=False, state={"waiting": {"reason": "ContainerCreating"}}),
            "has not started yet",
        ),
        (
            pod(
                0,
                ready=False,
                restartCount=4,
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"exitCode": 70}},
            ),
            "has ended with exit code 70 (a failed write or fsync, or damage: keep the volume), "
            "restarted 4 times",
        ),
    ],
)
def test_a_pods_trouble_is_said(found: dict[str, Any], said: str) -> None:
    assert pods.trouble(found).startswith(said)
    assert bool(pods.trouble(found)) == bool(said)


def test_a_pod_that_is_being_deleted_is_said() -> None:
    leaving = pod(0)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T11:59:00Z"
    assert pods.trouble(leaving) == "is being deleted since 2026-01-02T11:59:00Z"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("host:5000/a/b:1.2", "1.2"),
        ("host:5000/a/b", "host:5000/a/b"),
        ("a/b@sha256:0123456789abcdef", "sha256:0123456789ab"),
        ("a/b:1.2@sha256:0123456789abcdef", "1.2"),
    ],
)
def test_the_version_is_the_images_tag(image: str, version: str) -> None:
    assert pods.version(image) == version
