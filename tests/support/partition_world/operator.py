"""One turn of the operator, as `turns/partition.py` takes it, with the faults that may happen in
it. What it did is checked against what was true."""

import copy
from dataclasses import dataclass, field, replace

from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.reconcile.observed.last_write import Key, Write, refused, taken
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions, creation, deletion, writes
from partition_operator.reconcile.partition.actions import Action
from partition_operator.reconcile.partition.plan import Plan, plan
from partition_operator.resources.common import fingerprint

from tests.support.partition_world import safety
from tests.support.partition_world.errors import Failed, Refused, RefusedWrite, Violation
from tests.support.partition_world.execution import Execution
from tests.support.partition_world.kubernetes import NAME, NAMESPACE
from tests.support.partition_world.observation import observe
from tests.support.partition_world.truths import Truth, truth_of
from tests.support.partition_world.world import SNAPSHOTS, World

IMAGE = "image:1"
RECORDS = (actions.RecordCluster, actions.RecordBootstrapped, actions.RecordRestored)
"""They write status themselves."""


@dataclass(frozen=True)
class Mishap:
    """silent: ordinals of replicas that do not answer. torn: ticks between the objects and the
    replicas. late: ticks between the observation and the step. ends: where the operator ends and is
    started anew, "" for nowhere. A step that fails before or after its effect is the same to it:
    it is planned again from a new observation."""

    silent: frozenset[int] = frozenset()
    torn: int = 0
    late: int = 0
    ends: str = ""


SOUND = Mishap()


@dataclass
class Operator:
    """done: the kinds of all actions that had an effect."""

    world: World
    done: set[str] = field(default_factory=set)
    last_writes: dict[Key, Write] = field(default_factory=dict)
    eviction_refused: str = ""
    trail: list[str] = field(default_factory=list)

    def turn(self, mishap: Mishap = SOUND) -> Plan | None:
        """Returns the plan; None if none was made. Raises Violation."""
        world = self.world
        partition = world.partition()
        if world.gone or (partition.deleting and not world.finalizer):
            return None
        begin = truth_of(world)
        observed = observe(
            world,
            partition,
            silent=mishap.silent,
            between=lambda: world.pass_ticks(mishap.torn),
            writes=dict(self.last_writes),
            eviction_refused=self.eviction_refused,
        )
        truths = (begin, truth_of(world))
        if partition.deleting:
            self._depart(observed, mishap, truths)
            return None
        step = plan(observed, IMAGE, draw=lambda: world.kube.fresh("cluster"))
        self._check_honesty(observed, step, mishap, truths[1])
        if mishap.ends == "before the status":
            self._start_anew()
            return step
        if not isinstance(step.action, RECORDS) and step.status != partition.status:
            self._write(dict(step.status))
        if not isinstance(step.action, actions.EvictPod):
            self.eviction_refused = ""
        if step.action is not None:
            safety.check(observed, step.action, truths)
            world.pass_ticks(mishap.late)
            self._execute(observed, step.action, mishap)
            if not mishap.ends:
                self._create_rest(observed, step.action, mishap, truths)
        return step

    def _create_rest(
        self,
        observed: ObservedPartition,
        action: Action | None,
        mishap: Mishap,
        truths: tuple[Truth, ...],
    ) -> None:
        """Creates what else is missing, without another observation."""
        objects = self.world.kube.objects
        while (key := creation.created_by(observed, action)) is not None and key in objects:
            stored = copy.deepcopy(objects[key])
            observed = creation.with_created(observed, key, stored)
            observed = replace(observed, writes=dict(self.last_writes))
            action = plan(observed, IMAGE).action
            if action is None or creation.created_by(observed, action) is None:
                return
            safety.check(observed, action, truths)
            self.world.pass_ticks(mishap.late)
            self._execute(observed, action, mishap)

    def _write(self, status: dict[str, object]) -> None:
        self.world.body["status"] = status
        self.world.writes += 1
        self.world.touch()

    def _start_anew(self) -> None:
        """What the operator only remembers is gone."""
        self.last_writes, self.eviction_refused = {}, ""

    def _execute(self, observed: ObservedPartition, action: Action, mishap: Mishap) -> None:
        self.trail.append(_name(action))
        if mishap.ends == "before the step":
            self._start_anew()
            return
        target = writes.target(action, NAME)
        half = 1 if mishap.ends == "in the step" else 2 if mishap.ends == "late in it" else 9
        try:
            Execution(self.world, observed, half).run(action)
        except RefusedWrite as error:
            if target is not None:
                last = self.last_writes.get(target[0])
                self.last_writes[target[0]] = refused(last, target[1], str(error), observed.now)
            return
        except Refused as error:
            if isinstance(action, actions.EvictPod):
                self.eviction_refused = str(error)
            return
        except Failed:
            return
        self.done.add(type(action).__name__)
        if mishap.ends:
            self._start_anew()
        elif target is not None:
            live = self.world.kube.objects.get(target[0])
            applied = isinstance(
                action, actions.Apply | actions.IssueCertificate | actions.TrustAuthority
            )
            left = fingerprint(live) if applied and live is not None else ""
            last = self.last_writes.get(target[0])
            self.last_writes[target[0]] = taken(last, target[1], left, observed.now)

    def _check_honesty(
        self, observed: ObservedPartition, step: Plan, mishap: Mishap, truth: Truth
    ) -> None:
        """What is said of a group that was seen whole and at once."""
        told = {c["type"]: c for c in step.status["conditions"]}
        if mishap.torn or mishap.silent or "QuorumAvailable" not in told:
            return
        paused_or_refused = told["Accepted"]["status"] == "False"
        if paused_or_refused or told["QuorumAvailable"]["reason"] == "Switching":
            return
        if told["QuorumAvailable"]["status"] == "True" and not truth.has_quorum:
            raise Violation("QuorumAvailable is True without a quorum")
        ready = told["Ready"]
        if (ready["status"], ready["reason"]) == ("True", "Ready"):
            if not truth.voters <= truth.active:
                raise Violation("Ready is True, and a voter does not run")
            if sum(pod.ready for pod in observed.pods) < len(truth.voters):
                raise Violation("Ready is True, and a pod is not ready")

    # --- a Partition that is being deleted ---

    def _depart(
        self, observed: ObservedPartition, mishap: Mishap, truths: tuple[Truth, ...]
    ) -> None:
        """While a last snapshot is needed, the group is kept running."""
        step = deletion.depart(observed, self._snapshots())
        along, action = None, step.action
        if action is not None and writes.is_held(observed, action):
            action = None
        if step.follows:
            observed = deletion.awake(observed)
            along = plan(observed, IMAGE)
        if mishap.ends == "before the status":
            self._start_anew()
            return
        if action is not None or along is None or not isinstance(along.action, RECORDS):
            status = deletion.status(observed, step, along.status if along else None)
            if status != observed.partition.status:
                self._write(dict(status))
        if action is None and along is not None and along.action is not None:
            safety.check(observed, along.action, truths)
            action = along.action
        elif isinstance(action, actions.GiveUpVolume):
            self._check_last(observed)
        if action is not None:
            self.world.pass_ticks(mishap.late)
            self._execute(observed, action, mishap)

    def _check_last(self, observed: ObservedPartition) -> None:
        """Before the first volume goes, a snapshot has everything that was acknowledged."""
        group, leader = self.world.group, observed.leader
        asked = observed.partition.asked
        if asked is None or asked.deletion != "SnapshotThenDelete":
            raise Violation("a volume is given up, which the policy does not say")
        if any(claim.deleting for claim in observed.claims) or group is None:
            return
        good = [one.lsn for one in self.world.snapshots.values() if one.state == "Succeeded"]
        if leader is None or max(good, default=0) < leader.committed:
            raise Violation(f"a volume is given up, and {good} have not {group.acknowledged}")

    def _snapshots(self) -> list[Snapshot]:
        found = []
        for name, one in self.world.snapshots.items():
            status: dict[str, object] = {"state": one.state}
            if one.state == "Succeeded":
                status |= SNAPSHOTS | {"lsn": str(one.lsn)}
                status |= {"clusterID": self.world.status["clusterID"]}
            metadata = {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid of {name}",
                "creationTimestamp": one.created,
                "generation": 1,
            }
            body = {"metadata": metadata, "spec": {"partitionRef": {"name": NAME}}}
            found.append(parse_snapshot(body | {"status": status}))
        return found


def _name(action: Action) -> str:
    match action:
        case actions.Apply(body) | actions.CreatePod(body) | actions.CreateClaim(body):
            return f"{type(action).__name__} {body['kind']}"
        case actions.CreateSnapshot(_):
            return "CreateSnapshot"
    return repr(action)
