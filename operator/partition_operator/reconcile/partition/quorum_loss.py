"""status.quorumLoss: what is left of a group that can elect no leader any more. Pure.

Nothing of it changes while nothing happens: without a leader no log grows, and without a majority
no pre-vote succeeds, so no term rises. A survivor that is silent for a moment keeps its row.
"""

import hashlib

from partition_common.loss_token import CHARACTERS, loss_token

from partition_operator.api import names, schema
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.partition import losses


def look(observed: ObservedPartition) -> schema.QuorumLoss | None:
    """Returns status.quorumLoss, or None if a leader may be elected."""
    loss = losses.quorum_lost_for_good(observed)
    if loss is None:
        return None
    rows = _survivors(observed)
    found: schema.QuorumLoss = {
        "survivors": rows,
        "lost": [names.pod(observed.partition.name, n) for n in loss.lost],
        "message": _message(observed, loss, rows),
    }
    if token := _token(observed, rows):
        found["token"] = token
    return found


def member_token(cluster_id: str, row: schema.Survivor) -> str:
    """Returns the token of the loss on one survivor, as its replica computes it; "" if the replica
    does not tell enough, because its version can't recover."""
    last_term = int(row.get("lastTerm", "0"))
    if not last_term:
        return ""
    member = int(row["memberID"], 16)
    return loss_token(cluster_id, member, int(row["term"]), last_term, int(row["lastLSN"]))


def _token(observed: ObservedPartition, rows: list[schema.Survivor]) -> str:
    """Returns the token of the loss of the whole group: another survivor, or a change of one, makes
    another token, so that nobody accepts a loss without having seen all that is left."""
    cluster_id = observed.partition.status.get("clusterID", "")
    tokens = sorted(filter(None, (member_token(cluster_id, row) for row in rows)))
    if not tokens:
        return ""
    return hashlib.sha256("/".join(tokens).encode()).hexdigest()[:CHARACTERS]


def _survivors(observed: ObservedPartition) -> list[schema.Survivor]:
    name, cluster_id = observed.partition.name, observed.partition.status.get("clusterID", "")
    rows = {
        names.pod(name, replica.ordinal): row(observed, replica)
        for replica in observed.replicas
        if replica.cluster_id == cluster_id and _has_data(replica)
    }
    answering = {names.pod(name, replica.ordinal) for replica in observed.replicas}
    for old in (observed.partition.status.get("quorumLoss") or {}).get("survivors", []):
        if old.get("pod", "") not in answering:
            rows.setdefault(old.get("pod", ""), old)
    return sorted(rows.values(), key=_newest, reverse=True)


def _has_data(replica: ObservedReplica) -> bool:
    """Whether it is a member with a state. One that was only told to join has none."""
    return any(member.member_id == replica.member_id for member in replica.members)


def row(observed: ObservedPartition, replica: ObservedReplica) -> schema.Survivor:
    """Returns a survivor as status has it."""
    return {
        "pod": names.pod(observed.partition.name, replica.ordinal),
        "memberID": f"{replica.member_id:016x}",
        "term": str(replica.term),
        "lastTerm": str(replica.last_term),
        "lastLSN": str(replica.last_index),
        "appliedLSN": str(replica.applied),
    }


def _newest(row: schema.Survivor) -> tuple[int, int, str]:
    """As Raft compares logs in an election."""
    return int(row.get("lastTerm", "0")), int(row.get("lastLSN", "0")), row.get("pod", "")


def _message(observed: ObservedPartition, loss: losses.Loss, rows: list[schema.Survivor]) -> str:
    what = f"{len(loss.lost)} of {loss.voters} voters are lost with their volumes"
    if not rows:
        return f"{what}, and no other one answers"
    first = rows[0]
    told = (
        f"{what}. {first['pod']} has the newest log that is left: it ends at LSN "
        f"{first['lastLSN']}. "
        "Entries behind that are lost if the group is recovered from it; the lost voters may have "
        "acknowledged such entries. Its last entries may not be committed, and are kept"
    )
    if not _token(observed, rows):
        told += ". The replicas' version can't recover the quorum: use another image first"
    return told
