"""A fence that fails is remembered, so that the Partition's other steps go on."""

from typing import Any, cast

import pytest
from partition_operator.api.partition import Partition
from partition_operator.config import OperatorConfig
from partition_operator.errors import (
    Deposed,
    EvictionRefused,
    ReplicaRefused,
    ReplicaUnreachable,
)
from partition_operator.reconcile.observed.last_write import WriteRecords
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import Action, EvictPod, SetFenced
from partition_operator.turns.fences import FenceTries
from partition_operator.turns.partition import Reconciler
from partition_operator.turns.queue import PARTITION, Key, QueueItem
from partition_proto.v1 import types_pb2 as types

from tests.support.partition_views import group
from tests.support.rollouts import annotated, rolling

KEY = Key(PARTITION, "ns", "part")


class Hands:
    """In place of the executor. error: of the next try."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.now = 100.0

    async def execute(self, _: ObservedPartition, __: Action) -> None:
        if self.error is not None:
            raise self.error

    def tries(self) -> FenceTries:
        return FenceTries(cast("Any", self), lambda: self.now)


@pytest.mark.parametrize(
    "error",
    [
        ReplicaUnreachable("SetFenced of part-1: UNIMPLEMENTED"),
        ReplicaRefused(types.REASON_DISK_FULL, "SetFenced of part-1: no space"),
    ],
)
async def test_it_waits_longer_after_each_failure_and_is_forgotten_after_success(
    error: Exception,
) -> None:
    hands = Hands()
    tries, observed, pauses = hands.tries(), group(), []
    hands.error = error
    for _ in range(3):
        await tries.carry_out(KEY, observed, SetFenced(1, fenced=True))
        failure = tries.failures(KEY)[1]
        assert (failure.fenced, failure.why) == (True, str(error))
        pauses.append(failure.retry_s)
    assert pauses == sorted(set(pauses)), "each pause is longer"
    hands.now += pauses[-1] + 1
    assert tries.failures(KEY)[1].retry_s == 0
    hands.error = None
    await tries.carry_out(KEY, observed, SetFenced(1, fenced=True))
    assert tries.failures(KEY) == {}


async def test_the_opposite_is_not_held_back_by_earlier_failures() -> None:
    hands = Hands()
    tries = hands.tries()
    hands.error = ReplicaUnreachable("gone")
    for _ in range(3):
        await tries.carry_out(KEY, group(), SetFenced(1, fenced=True))
    long = tries.failures(KEY)[1].retry_s
    await tries.carry_out(KEY, group(), SetFenced(1, fenced=False))
    failure = tries.failures(KEY)[1]
    assert not failure.fenced
    assert failure.retry_s < long
    tries.forget(KEY)
    assert tries.failures(KEY) == {}


async def test_a_deposed_operator_is_told() -> None:
    """The queue raises the token, or the process ends."""
    hands = Hands()
    hands.error = Deposed("another operator", 9)
    with pytest.raises(Deposed):
        await hands.tries().carry_out(KEY, group(), SetFenced(1, fenced=True))


class Turned(Hands):
    """What a turn talks to. The group's pods are behind their template."""

    def __init__(self) -> None:
        super().__init__()
        self.found = annotated(rolling(), fence="part-1")
        self.done: list[Action] = []
        self.writes = WriteRecords()

    async def partition(self, *_: str) -> Partition:
        return self.found.partition

    async def observe(self, _: Partition) -> ObservedPartition:
        return self.found

    async def apply_status(self, body: dict[str, Any], _: Any) -> dict[str, Any]:
        return body

    async def post(self, *_: Any) -> None: ...

    async def execute(self, observed: ObservedPartition, action: Action) -> None:
        self.done.append(action)
        if isinstance(action, SetFenced):
            raise ReplicaUnreachable("SetFenced of part-1: UNIMPLEMENTED")
        raise EvictionRefused("seen")  # ends the turn


async def test_a_turn_goes_on_with_its_other_steps() -> None:
    world = cast("Any", Turned())
    config = OperatorConfig("", "id", "image:1")
    reconciler = Reconciler(config, world, world, world, world)
    for _ in range(2):
        await reconciler.turn(KEY, QueueItem(asked=True))
    assert [type(action) for action in world.done] == [SetFenced, EvictPod, EvictPod]
