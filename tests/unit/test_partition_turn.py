"""The turn of one Partition and the execution of its actions, against an API server of paper."""

import base64
import datetime as dt
from typing import Any, cast

import pytest
from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.times import parse_stamp
from partition_operator.clients.kube import ApiError, Kube
from partition_operator.clients.recorder import Recorder
from partition_operator.config import OperatorConfig
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.last_write import WriteRecords
from partition_operator.reconcile.partition.actions import (
    Apply,
    CreatePod,
    IssueCertificate,
    RepairLabels,
    TrustAuthority,
)
from partition_operator.resources import services, trust
from partition_operator.resources.certificates import make_authority
from partition_operator.resources.trust import Authority, renewed
from partition_operator.turns.executor import Executor
from partition_operator.turns.partition import Reconciler
from partition_operator.turns.queue import PARTITION, Key, QueueItem

from tests.support.certificates import KnownAuthority
from tests.support.paper import Paper
from tests.support.partition_views import group, partition, see

SECRET = "part-client-tls"


def executor(kube: Kube, authority: Authority) -> Executor:
    return Executor(kube, cast("Any", None), KnownAuthority(authority))


def secret(found: Partition, authority: Authority, version: str) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    body = renewed(
        found, SECRET, "client", None, trust.Question(authority, now), trust.TrustStep.ISSUE
    )
    return body | {"metadata": body["metadata"] | {"uid": "s", "resourceVersion": version}}


# --- actions ----------------------------------------------------------------------------------


async def test_a_certificate_is_written_at_the_version_that_was_looked_at() -> None:
    """What is kept of the Secret, such as the authorities that are trusted, is of that version."""
    observed = group(1)
    now = observed.now
    authority, kube = Authority(make_authority(now)), Paper()
    mine = executor(kube, authority)
    key = ("Secret", SECRET)
    kube.found[key] = secret(observed.partition, authority, "5")
    kube.then = secret(observed.partition, Authority(make_authority(now)), "6")
    with pytest.raises(Conflict):
        await mine.execute(observed, TrustAuthority(SECRET, "client"))
    assert kube.writes == []
    # At the next look the other one's authority is kept beside ours, and nothing is issued before.
    with pytest.raises(Conflict):
        await mine.execute(observed, IssueCertificate(SECRET, "client"))
    await mine.execute(observed, TrustAuthority(SECRET, "client"))
    (written,) = kube.writes
    assert written["metadata"]["resourceVersion"] == "6"
    assert base64.b64decode(written["data"]["ca.crt"]).count(b"BEGIN CERTIFICATE") == 2
    # The others wait from the write on, not from the observation, which may be long ago.
    stamp = parse_stamp(written["metadata"]["annotations"][names.ANNOTATION_TRUST_CHANGED])
    assert stamp is not None
    assert stamp > observed.now + dt.timedelta(days=1)


async def test_an_object_is_applied_at_the_version_that_was_looked_at() -> None:
    observed, kube = group(1), Paper()
    body = services.build_client(observed.partition)
    key = ("Service", body["metadata"]["name"])
    for version, then in (("5", "5"), ("5", "6")):
        old, new = (
            body | {"metadata": body["metadata"] | {"uid": "x", "resourceVersion": found}}
            for found in (version, then)
        )
        kube.found[key], kube.then = old, new
        if version != then:
            with pytest.raises(Conflict):
                await executor(kube, Authority(make_authority(observed.now))).execute(
                    observed, Apply(body)
                )
            continue
        await executor(kube, Authority(make_authority(observed.now))).execute(observed, Apply(body))
    assert len(kube.writes) == 1


async def test_an_owner_that_did_not_control_is_not_named_twice() -> None:
    """The API server refuses an object that names one uid twice among its owners."""
    observed, kube = group(1), Paper()
    authority = Authority(make_authority(observed.now))
    live = secret(observed.partition, authority, "5")
    (ours,) = live["metadata"]["ownerReferences"]
    team = {"apiVersion": "v1", "kind": "ConfigMap", "name": "team", "uid": "t"}
    owners = [team, ours | {"controller": False}]
    kube.found["Secret", SECRET] = live | {
        "metadata": live["metadata"] | {"ownerReferences": owners}
    }
    action = RepairLabels("Secret", SECRET, "s", {"a": "b"}, owned=True)
    await executor(kube, authority).execute(observed, action)
    assert kube.writes[0]["metadata"]["ownerReferences"] == [team, ours]


@pytest.mark.parametrize("reason", ["AlreadyExists", "Conflict"])
async def test_only_a_name_that_is_taken_counts_as_made(reason: str) -> None:
    observed, kube = group(1), Paper()
    kube.error = ApiError(409, f"POST …: 409 {reason}", "changed meanwhile", reason)
    mine = executor(kube, Authority(make_authority(observed.now)))
    pod = {"kind": "Pod", "metadata": {"name": "copy-restore", "namespace": "ns"}}
    await mine.execute(observed, CreatePod(pod))
    record = mine.writes.of(observed.partition.key)["Pod", "copy-restore"]
    assert record.refusal == ("" if reason == "AlreadyExists" else "changed meanwhile")


# --- another operator's -----------------------------------------------------------------------


class World:
    """A Partition, and everything that the turn talks to but the plan."""

    def __init__(self, operator: str) -> None:
        self.found = partition(operator=operator)
        self.log: list[str] = []
        self.room = True
        self.writes = WriteRecords()

    def reconciler(self) -> Reconciler:
        any_self = cast("Any", self)
        return Reconciler(
            OperatorConfig("mine", "id", "image"), any_self, any_self, any_self, any_self
        )

    async def partition(self, namespace: str, name: str) -> Partition:
        self.log.append("read")
        return self.found

    async def forget(self, namespace: str, name: str) -> None:
        self.log.append("forget")

    async def offer(self, subject: object, event: Event) -> bool:
        self.log.append(event.reason if self.room else "no room")
        return self.room


async def test_of_another_operators_partition_nothing_else_is_looked_at() -> None:
    world, entry = World("other"), QueueItem(asked=True, seen=see(partition()))
    reconciler = world.reconciler()
    key = Key(PARTITION, "ns", "part")
    assert await reconciler.turn(key, entry) == OperatorConfig("mine", "id", "image").resync_s
    assert world.log == ["read", "forget", "AnotherOperator"]
    assert entry.seen is None, "or its replicas would be asked in the next turn"
    assert reconciler.foreign == {key}
    await reconciler.turn(key, entry)
    assert world.log[3:] == ["read", "forget"], "it is said once"


async def test_what_there_was_no_room_for_is_said_later() -> None:
    world = World("other")
    reconciler, key = world.reconciler(), Key(PARTITION, "ns", "part")
    world.room = False
    for _ in range(2):
        await reconciler.turn(key, QueueItem(asked=True))
    assert world.log.count("no room") == 2
    world.room = True
    for _ in range(2):
        await reconciler.turn(key, QueueItem(asked=True))
    assert world.log.count("AnotherOperator") == 1


class Events(Kube):
    def __init__(self) -> None:
        super().__init__(cast("Any", None), 1)
        self.error: ApiError | None = None
        self.made: list[str] = []

    async def get(self, kind: str, namespace: str, name: str) -> None:
        return None

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.made.append(body["message"])
        return body


async def test_events_that_can_wait_leave_room_for_the_others() -> None:
    kube, clock = Events(), [0.0]
    recorder = Recorder(kube, 4, lambda: clock[0])
    subject = partition()
    found = [
        await recorder.offer(subject, Event("Warning", "Later", f"later {n}")) for n in range(3)
    ]
    assert found == [True, True, False]
    for n in range(3):
        await recorder.post(subject, Event("Warning", "Now", f"now {n}"))
    assert kube.made == ["later 0", "later 1", "now 0", "now 1"]
    assert recorder.dropped == 1, "what is offered again is not lost"
    clock[0] = 61.0
    kube.error = ApiError(403, "no")
    assert not await recorder.offer(subject, Event("Warning", "Later", "later 2"))
    kube.error = None
    assert await recorder.offer(subject, Event("Warning", "Later", "later 2"))
