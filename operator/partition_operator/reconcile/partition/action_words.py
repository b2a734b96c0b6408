"""Says in plain words what an action would do. Pure."""

from typing import Any, assert_never

from partition_operator.api import names
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.actions import Action
from partition_operator.resources.common import MERGE_KEYS, difference

CHANGES_MAX = 8
"""Most changed fields of an object that are named."""
VALUE_MAX = 60
"""Most characters of a value that is shown."""
HIDDEN = "env"
"""Values below this field are not shown: a user may have written a password there."""


def describe(  # noqa: C901, PLR0911, PLR0912  # a flat match over actions
    action: Action, observed: ObservedPartition
) -> str:
    """Returns what the action does, without a full stop."""
    partition = observed.partition.name
    match action:
        case actions.Apply(body):
            return _apply(body, observed)
        case actions.CreatePod(body):
            return f"create pod {body['metadata']['name']}, which runs once"
        case actions.CreateClaim(body):
            return f"create PersistentVolumeClaim {body['metadata']['name']}"
        case actions.RecordRestored():
            return "record in status that volume 0 was restored; it is never restored again"
        case actions.Delete(kind, name, _) | actions.DeleteUnchanged(kind, name, _, _):
            return f"delete {kind} {name}"
        case actions.RepairLabels(kind, name, _, _, _):
            return f"write the missing labels of {kind} {name}"
        case actions.IssueCertificate(secret, role):
            return f"issue a certificate for the {role} into Secret {secret}"
        case actions.TrustAuthority(secret, _):
            return f"write the trusted certificate authorities into Secret {secret}"
        case actions.WriteClients(secret, _):
            return f"write the list of clients into Secret {secret}"
        case actions.RecordCluster(cluster_id):
            return f"record cluster ID {cluster_id} in status, before any volume gets it"
        case actions.AnnotateClaim(ordinal, cluster_id):
            claim = names.claim(partition, ordinal)
            return f"annotate PersistentVolumeClaim {claim} with cluster ID {cluster_id}"
        case actions.GrowClaim(ordinal, _, size):
            return f"grow PersistentVolumeClaim {names.claim(partition, ordinal)} to {size}"
        case actions.ModifyClaim(ordinal, _, wanted):
            claim = names.claim(partition, ordinal)
            return f"change PersistentVolumeClaim {claim} to VolumeAttributesClass {wanted or '-'}"
        case actions.Bootstrap(ordinal, _, standalone):
            kind = "standalone log, without Raft" if standalone else "new group, as its first voter"
            return f"bootstrap {names.pod(partition, ordinal)}: begin a {kind}"
        case actions.EnableReplication(ordinal):
            return f"begin the backfill of {names.pod(partition, ordinal)}'s standalone log"
        case actions.RecordBootstrapped():
            return "record in status that the group exists; it is never bootstrapped again"
        case actions.RecordRecovery(record, cluster_id):
            if record is None:
                return "forget the recovery of the lost quorum, because nothing has changed"
            then = f", and cluster ID {cluster_id}" if cluster_id else ""
            return f"record in status that the recovery is {record.get('phase', '')}{then}"
        case actions.RecoverQuorum(ordinal, _, cluster_id, _):
            pod = names.pod(partition, ordinal)
            return f"make {pod} the only voter of the new cluster {cluster_id}; it restarts"
        case actions.Join(ordinal, _):
            return f"bind the new volume of {names.pod(partition, ordinal)} to the group"
        case actions.AddLearner(_, _, _, pod):
            return f"add {pod} to the group as a learner"
        case actions.PromoteLearner(_, _, pod):
            return f"promote {pod} from learner to voter"
        case actions.RemoveMember(_, member_id, pod):
            return f"remove member {member_id:x}{f' ({pod})' if pod else ''} from the group"
        case actions.TransferLeadership(leader, to_member_id):
            to = _pod_of(observed, to_member_id)
            return f"hand the leadership over from {names.pod(partition, leader)} to {to}"
        case actions.OwnClaim(ordinal, _, owned):
            claim = names.claim(partition, ordinal)
            then = "is deleted with" if owned else "stays after"
            return f"let PersistentVolumeClaim {claim} know that it {then} the Partition"
        case actions.SetFinalizer(present):
            verb = "put" if present else "take"
            return f"{verb} the finalizer of the last snapshot {'on' if present else 'off'}"
        case actions.CreateSnapshot(body):
            return f"create PartitionSnapshot {body['metadata']['name']}"
        case actions.GiveUpVolume(ordinal, _, volume, keep):
            claim = names.claim(partition, ordinal)
            kept = f", and keep PersistentVolume {volume}" if keep and volume else ""
            return f"delete PersistentVolumeClaim {claim}{kept}: its replica gets a new volume"
        case actions.OrphanPods(name, _, _):
            return f"delete StatefulSet {name} without its pods, to make it anew"
        case actions.SetFenced(ordinal, fenced):
            pod = names.pod(partition, ordinal)
            return f"fence {pod}: it answers nobody" if fenced else f"end the fence of {pod}"
        case actions.EvictPod(ordinal, _):
            pod = names.pod(partition, ordinal)
            return f"evict pod {pod}, so that it is made anew; its volume stays"
    assert_never(action)


def _apply(body: dict[str, Any], observed: ObservedPartition) -> str:
    kind, name = body["kind"], body["metadata"]["name"]
    live = observed.objects.get((kind, name))
    if live is None:
        return f"create {kind} {name}"
    found = changes(live, {key: value for key, value in body.items() if key != "metadata"})
    shown = ", ".join(found[:CHANGES_MAX])
    more = f" and {len(found) - CHANGES_MAX} more" if len(found) > CHANGES_MAX else ""
    return f"change {kind} {name}: {shown or 'its labels or annotations'}{more}"


def changes(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Returns each wanted value that the live object lacks, as `path: old -> new`."""
    if _same(live, wanted, path):
        return []
    if isinstance(wanted, dict) and isinstance(live, dict):
        found = [changes(live.get(k), v, f"{path}.{k}" if path else k) for k, v in wanted.items()]
        return [one for part in found for one in part]
    key = MERGE_KEYS.get(_last(path), "")
    if key and isinstance(wanted, list) and isinstance(live, list):
        items = {item.get(key): item for item in live}
        found = [changes(items.get(item[key]), item, f"{path}[{item[key]}]") for item in wanted]
        return [one for part in found for one in part]
    if f".{HIDDEN}[" in path or _last(path) == HIDDEN:
        return [f"{path} changes"]
    return [f"{path}: {_short(live)} -> {_short(wanted)}"]


def _same(live: Any, wanted: Any, path: str) -> bool:
    if wanted in ({}, []):
        return not live
    name = _last(path)
    if name in MERGE_KEYS:
        return difference({name: live}, {name: wanted}) is None
    return difference(live, wanted) is None


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"


def _pod_of(observed: ObservedPartition, member_id: int) -> str:
    leader = observed.leader
    for member in leader.members if leader is not None else ():
        if member.member_id == member_id:
            return names.pod(observed.partition.name, observed.ordinal_of(member.address))
    return f"member {member_id:x}"
