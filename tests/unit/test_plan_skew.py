"""Versions that are too far apart do not get into one group: by the image's tag, or by what the
first replaced replica reports."""

from dataclasses import replace

import pytest
from partition_operator.clients.replica import _replica
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.skew import Version, of_image, parse
from partition_proto.v1 import log_store_pb2 as api

from tests.support.partition_views import by_type, look, reasons, with_status
from tests.support.rollouts import NEW, of, rolling, told

FORMER = "registry/replica:1"


def running(
    versions: list[str], image: str, *, updated: tuple[int, ...] = (), former: str = FORMER
) -> ObservedPartition:
    """A group whose replicas report these versions, and whose template has `image`. updated: the
    pods that are made of it. former: the image that all had before."""
    found = rolling(len(versions), image=image)
    replicas = tuple(replace(r, version=versions[r.ordinal]) for r in found.replicas)
    found = with_status(replace(found, replicas=replicas), image=former)
    for ordinal in updated:
        found = of(found, ordinal, revision=NEW)
    return found


def message(found: ObservedPartition) -> str:
    return str(by_type(look(found))["RolledOut"]["message"])


@pytest.mark.parametrize("version", ["0.2.0", "0.3.7", "v0.4.0", "0.4.1-rc.1", "latest", "1"])
def test_neighbours_and_unknown_tags_are_rolled(version: str) -> None:
    found = running(["0.3.0"] * 3, f"registry:5000/replica:{version}")
    assert look(found).action == actions.EvictPod(2, "u2")


@pytest.mark.parametrize("version", ["0.1.9", "0.5.0", "v0.5.0", "2.0.0", "1.1.0"])
def test_a_tag_of_a_version_too_far_touches_no_pod(version: str) -> None:
    found = running(["0.3.0"] * 3, f"registry/replica:{version}@sha256:{'0' * 64}")
    assert look(found).action is None
    assert told(look(found)) == ("False", "Stalled")
    text = message(found)
    assert f"has version {version.removeprefix('v')}, and part-0 version 0.3.0" in text
    assert "only versions 0.2 to 0.4 may run" in text
    assert f"or back to {FORMER}" in text


def test_the_first_pod_of_an_image_without_a_version_tells() -> None:
    versions = ["0.3.0", "0.3.0", "0.3.0"]
    assert look(running(versions, "replica:new")).action == actions.EvictPod(2, "u2")
    versions[2] = "0.5.0"
    found = running(versions, "replica:new", updated=(2,))
    step = look(found)
    assert (step.action, told(step)) == (None, ("False", "Stalled"))
    assert "part-2 runs version 0.5.0, and part-0 version 0.3.0" in message(found)
    versions[2] = "0.4.0"
    found = running(versions, "replica:new", updated=(2,))
    assert look(found).action == actions.EvictPod(1, "u1")


def test_it_is_told_by_an_event() -> None:
    begun = running(["0.3.0"] * 3, "replica:new")
    far = running(["0.3.0", "0.3.0", "0.5.0"], "replica:new", updated=(2,))
    assert "RolloutStalled" in reasons(look(far))
    assert "RolloutStalled" not in reasons(look(begun))


@pytest.mark.parametrize("image", [FORMER, "replica:0.3.0", "replica:other"])
def test_the_way_back_is_open(image: str) -> None:
    """Also by another tag of that version, and if more of the template has changed."""
    updated = (0, 1) if image == "replica:other" else ()
    found = running(["0.3.0", "0.3.0", "0.5.0"], image, updated=updated)
    assert look(found).action == actions.EvictPod(2, "u2")


def test_of_two_halves_the_one_that_worked_last_is_the_group() -> None:
    versions = ["0.3.0", "", "0.5.0"]
    assert look(running(versions, FORMER, updated=(0, 1))).action is not None
    assert look(running(versions, "replica:new", updated=(2,))).action is None


def test_the_image_that_worked_last_is_never_refused() -> None:
    """Pods that were lost meanwhile have got the far one."""
    versions = ["0.3.0", "0.5.0", "0.5.0"]
    back = running(versions, "replica:0.3.0", updated=(0,), former="replica:0.3.0")
    assert look(back).action == actions.EvictPod(2, "u2")


def test_a_single_replica_may_skip_versions_and_not_go_back_far() -> None:
    assert look(running(["0.3.0"], "replica:0.9.0")).action == actions.EvictPod(0, "u0")
    back = running(["0.3.0"], "replica:0.1.0")
    assert look(back).action is None
    assert told(look(back)) == ("False", "Stalled")


def test_a_replica_that_refuses_its_volume_stalls_the_rollout_at_once() -> None:
    """Such as one of an earlier version, after the format was raised."""
    why = "CrashLoopBackOff: FATAL: Damaged: the state has format 2; this version reads 1 to 1"
    found = running(["0.3.0", "0.3.0", ""], "replica:0.2.0", updated=(2,))
    found = of(found, 2, ready=False, broken=why)
    step = look(found)
    assert (step.action, told(step)) == (None, ("False", "Stalled"))
    assert "the state has format 2" in message(found)


def test_nothing_is_known_of_silent_replicas() -> None:
    found = running(["", "", ""], "replica:0.9.0")
    assert look(found).action is not None


def test_a_replica_reports_its_version() -> None:
    assert _replica(0, api.GetStatusResponse(version="0.3.0")).version == "0.3.0"


def test_versions_are_read_from_tags() -> None:
    assert of_image("host:5000/a/b:1.2.3") == Version(1, 2, 3)
    assert of_image("host:5000/a/b") is None
    assert of_image("1.2.3") is None
    assert of_image("b:1.2.3-rc.1+x@sha256:00") == Version(1, 2, 3)
    assert parse("1.2") is None
    assert parse("") is None
    assert Version(1, 0, 0).may_join(Version(0, 4, 0))
    assert not Version(1, 1, 0).may_join(Version(0, 4, 0))
