"""Scenarios that hypothesis draws: a world to begin with, and what happens in which order."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st
from partition_operator.api import names

from tests.support.partition_world import faults
from tests.support.partition_world.errors import Violation
from tests.support.partition_world.goal import calm, is_hopeless, settle
from tests.support.partition_world.kubernetes import BAD_IMAGE, FAR_IMAGE, NAME
from tests.support.partition_world.operator import Mishap, Operator
from tests.support.partition_world.world import SNAPSHOTS, STORE, World, new_world

Step = tuple[Any, ...]
"""What happens: the name of a method of `Run`, and its arguments."""

WAKING_TURNS = 20
SIZES: tuple[dict[str, Any], ...] = tuple({"replicas": size} for size in (1, 3, 5, 7))
POLICIES = ("Retain", "Delete", "SnapshotThenDelete")
STORAGE: tuple[dict[str, Any], ...] = (
    {"size": "512Mi", "replacement": "Rolling"},
    {"size": "1Gi"},
    {"size": "2Gi"},
    {"size": "2Gi", "replacement": "Rolling"},
    {"className": "net", "replacement": "Rolling"},
    {"className": "local", "replacement": "Rolling", "whenReplaced": "Delete"},
    {"volumeAttributesClassName": "gold"},
    {"volumeAttributesClassName": "silver", "replacement": "Rolling"},
    {"volumeAttributesClassName": None},
    {"replacement": None},
    {"autogrow": {"whenFreeBelow": "20%", "step": "512Mi", "max": "3Gi"}},
    {"autogrow": None},
)
TEMPLATE: tuple[dict[str, Any], ...] = (
    {"image": "image:2"},
    {"image": None},
    {"image": BAD_IMAGE},
    {"image": FAR_IMAGE},
    {"resources": {"requests": {"cpu": "200m"}}},
    {"podTemplate": {"metadata": {"labels": {"team": "a"}}}},
    {"podTemplate": None},
)
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"updateStrategy": {"type": "OnDelete"}},
    {"updateStrategy": {"type": "Supervised"}},
    {"updateStrategy": {"type": "Rolling", "progressDeadlineSeconds": 60}},
)


@dataclass(frozen=True)
class Start:
    """fresh: nothing is made yet; else the Partition is whole and idle. storage_class: of its
    volumes, "" for the default. full: no node takes a pod yet. ruthless: faults may take a majority
    of the data."""

    size: int = 3
    standalone: bool = False
    restored: bool = False
    fresh: bool = False
    storage_class: str = ""
    full: bool = False
    ruthless: bool = False


@cache
def _begun(start: Start) -> World:
    spec: dict[str, Any] = {"replicas": start.size, "snapshots": SNAPSHOTS}
    if start.standalone:
        spec["replication"] = {"mode": "None"}
    if start.restored:
        spec["bootstrap"] = {"objectStore": STORE}
    if start.storage_class:
        spec["storage"] = {"size": "1Gi", "className": start.storage_class}
    world = new_world(**spec)
    if not start.fresh:
        operator = Operator(world)
        settle(operator)
    for node in world.kube.nodes.values():
        node.cordoned = start.full and start.fresh
    return world


@dataclass(frozen=True)
class Scenario:
    """departure: how the Partition is deleted in the end, None if it is not."""

    start: Start
    steps: tuple[Step, ...]
    departure: tuple[str, list[Mishap], int] | None = None

    def play(self) -> "Run":
        """Raises Violation."""
        run = Run(self.start)
        for name, *given in self.steps:
            getattr(run, name)(*given)
        run.end()
        if self.departure is not None and not is_hopeless(run.world):
            run.depart(*self.departure)
        return run


class Run:
    """One scenario, as it happens."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.world = copy.deepcopy(_begun(start))
        self.operator = Operator(self.world)

    def end(self) -> None:
        """Everything heals, and the Partition comes to what it shall be. One that sleeps is woken
        then, with the same members. Raises Violation."""
        calm(self.world)
        settle(self.operator)
        if not self.world.spec.get("hibernated"):
            return
        group = self.world.group
        before = group.configuration.voters if group is not None else frozenset()
        kept = before & set(self.world.volumes)
        self.world.edit(hibernated=None)
        for _ in range(WAKING_TURNS):
            self.turns(1, 1)
            if group is not None and group.leader:
                # Nothing changes the members before.
                if not kept <= group.configuration.members:
                    raise Violation(f"{before} went to sleep, and {group.configuration} woke")
                break
        settle(self.operator)

    def depart(self, policy: str, mishaps: list[Mishap], spoilt: int) -> None:
        """The Partition is deleted, with faults at first. spoilt: how many of its last snapshots
        fail."""
        self.world.edit(deletionPolicy=policy)
        settle(self.operator)
        self.world.spoils = spoilt
        self.world.delete()
        for mishap in mishaps:
            self.operator.turn(mishap)
            self.world.pass_tick()
        self.world.rate = 0  # clients stop, or there would always be more than in the snapshot
        settle(self.operator)
        self.world.kube.pods.clear()
        self.world.pass_tick()
        left, kept = sorted(self.world.kube.claims), policy == "Retain"
        if bool(left) != kept:
            raise Violation(f"after {policy}, claims {left} are left")

    # --- steps ---

    def turn(self, mishap: Mishap) -> None:
        self.operator.turn(mishap)

    def turns(self, number: int, pace: int) -> None:
        """pace: ticks after each; the operator does not wait between two steps."""
        for _ in range(number):
            self.operator.turn()
            self.world.pass_ticks(pace)

    def ticks(self, number: int, seconds: int) -> None:
        self.world.pass_ticks(number, seconds)

    def edit(self, spec: dict[str, Any]) -> None:
        self.world.edit(**spec)

    def store(self, storage: dict[str, Any]) -> None:
        self.world.edit_storage(**storage)

    def enable(self) -> None:
        self.world.edit(replication={"mode": "Raft"})

    def ask(self, what: str, ordinal: int, suffix: str) -> None:
        """By an annotation that names a pod."""
        pod = names.pod(NAME, _one(self.world.kube.claims, ordinal))
        self.world.annotate(what, pod + suffix if ordinal >= 0 else "")

    def nap(self, number: int, spec: dict[str, Any]) -> None:
        """It sleeps for some turns; the spec changes meanwhile."""
        self.world.edit(hibernated=True)
        self.turns(number, 1)
        self.world.edit(**spec)
        self.turns(1, 1)
        self.world.edit(hibernated=None)

    def rebuild_two(self, one: int, other: int, pause: int) -> None:
        """The second while the first is at any of its steps."""
        for ordinal in (one, other):
            self.ask(names.ANNOTATION_REBUILD, ordinal, "")
            self.turns(pause, 1)

    def restart(self, value: str) -> None:
        self.world.annotate(names.ANNOTATION_RESTART, value)

    def pod(self, ordinal: int, how: str) -> None:
        faults.hurt_pod(self.world, _one(self.world.kube.pods, ordinal), how)

    def node(self, number: int, how: str) -> None:
        faults.hurt_node(self.world, number, how, ruthless=self.start.ruthless)

    def volume(self, ordinal: int, how: str) -> None:
        ordinal = _one(self.world.kube.claims, ordinal)
        faults.hurt_volume(self.world, ordinal, how, ruthless=self.start.ruthless)

    def annoy(self, ordinal: int, how: str) -> None:
        faults.annoy(self.world, ordinal, how)

    def fail_restores(self, number: int) -> None:
        self.world.fails = number


def _one(found: Mapping[int, object], number: int) -> int:
    """Picks one that exists, if one does: most steps shall do something."""
    return sorted(found)[number % len(found)] if found else 0


ENDS = ("before the status", "before the step", "in the step", "late in it", "after the step")
ORDINALS = st.integers(0, 6)
FEW = st.integers(0, 2)
MISHAPS = st.builds(
    Mishap,
    silent=st.one_of(st.just(frozenset()), st.frozensets(ORDINALS, max_size=3)),
    torn=st.sampled_from([0, 0, 0, 1, 3]),
    late=st.sampled_from([0, 0, 0, 1, 3]),
    ends=st.sampled_from((*("",) * len(ENDS), *ENDS)),
)
COUNTS, PACES = st.sampled_from([1, 2, 2, 3, 3, 5, 8]), st.sampled_from([0, 1, 1])
STORED = st.sampled_from(STORAGE)
TURNS = (st.tuples(st.just("turn"), MISHAPS), st.tuples(st.just("turns"), COUNTS, PACES))


def _edit(*specs: dict[str, Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("edit"), st.sampled_from(specs))


def _ask(annotation: str) -> st.SearchStrategy[Step]:
    suffix = st.sampled_from(["", "/1", "/2"])
    return st.tuples(st.just("ask"), st.just(annotation), st.integers(-1, 4), suffix)


KINDS: dict[str, st.SearchStrategy[Step]] = {
    "time": st.tuples(st.just("ticks"), st.integers(1, 3), st.sampled_from([1, 1, 5, 61, 400])),
    "scale": _edit(*SIZES),
    "template": _edit(*TEMPLATE),
    "sleep": _edit({"hibernated": True}, {"hibernated": None}),
    "pause": _edit({"paused": True}, {"paused": None}),
    "strategy": _edit(*STRATEGIES),
    "policy": _edit(*({"deletionPolicy": policy} for policy in POLICIES)),
    "storage": st.tuples(st.just("store"), STORED),
    "nap": st.tuples(st.just("nap"), st.integers(1, 6), st.sampled_from((*SIZES, *TEMPLATE))),
    "two": st.tuples(st.just("rebuild_two"), FEW, FEW, st.integers(1, 6)),
    "restart": st.tuples(st.just("restart"), st.sampled_from("123")),
    "fence": _ask(names.ANNOTATION_FENCE),
    "rebuild": _ask(names.ANNOTATION_REBUILD),
    "switchover": _ask(names.ANNOTATION_SWITCHOVER),
    "pod": st.tuples(st.just("pod"), ORDINALS, st.sampled_from(faults.PODS)),
    "node": st.tuples(st.just("node"), ORDINALS, st.sampled_from(faults.NODES)),
    "volume": st.tuples(st.just("volume"), ORDINALS, st.sampled_from(faults.VOLUMES)),
    "annoy": st.tuples(st.just("annoy"), ORDINALS, st.sampled_from(faults.OTHERS)),
}
OFTEN = ("node", "rebuild", "storage", "volume")
"""What touches the data."""
ENABLE: st.SearchStrategy[Step] = st.tuples(st.just("enable"))
FAIL: st.SearchStrategy[Step] = st.tuples(st.just("fail_restores"), FEW)
DEPARTURES = st.tuples(st.sampled_from(POLICIES), st.lists(MISHAPS, max_size=8), FEW)
LENGTH_MIN, LENGTH_MAX = 6, 40
START: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from([3, 3, 3, 5, 5, 1, 7]),
    "standalone": st.sampled_from([False] * 7 + [True]),
    "restored": st.sampled_from([False] * 9 + [True]),
    "fresh": st.sampled_from([False, False, False, True]),
    "storage_class": st.sampled_from(["", "local"]),
    "full": st.sampled_from([False, False, True]),
    "ruthless": st.sampled_from([False] * 5 + [True]),
}
SEARCHES: tuple[dict[str, Any], ...] = (
    {},
    {"restored": True, "fresh": True},
    {"standalone": True, "size": 3},
    {"fresh": True, "full": True, "kinds": ("storage", "time")},
    {"kinds": ("annoy", "fence")},
    {"kinds": ("storage",), "storage_class": ""},
)
"""Parts of the search, which together reach every action soon."""


@st.composite
def scenarios(
    draw: st.DrawFn, /, kinds: tuple[str, ...] = (*KINDS, *OFTEN, *OFTEN), **fixed: Any
) -> Scenario:
    """A few kinds of steps per scenario, and turns between them: so that each goes deep. fixed:
    fields of its start."""
    start = draw(st.builds(Start, **START | {key: st.just(one) for key, one in fixed.items()}))
    some = st.sampled_from(kinds)
    chosen = [KINDS[kind] for kind in draw(st.lists(some, min_size=1, max_size=4, unique=True))]
    chosen += [ENABLE] if start.standalone else []
    chosen += [FAIL] if start.restored else []
    # hypothesis makes short lists where it may.
    one = st.one_of(*chosen, *TURNS)
    steps = draw(st.lists(one, min_size=LENGTH_MIN, max_size=LENGTH_MAX))
    return Scenario(start, tuple(steps), draw(st.none() | DEPARTURES))
