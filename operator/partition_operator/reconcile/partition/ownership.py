"""Which operator manages a Partition. Pure.

An operator is known by its namespace, where its Lease and its authority are. The first one that
sees a Partition writes itself into status.operator; every other one leaves the Partition alone,
because two authorities, two images and two Leases can't be followed at once. An annotation hands it
over.
"""

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition


def owner(partition: Partition) -> str:
    """The namespace of the operator that is to manage it; "" if nobody has claimed it yet."""
    annotations = partition.body["metadata"].get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_OPERATOR) or _recorded(partition))


def is_foreign(partition: Partition, mine: str) -> bool:
    """Whether another operator than that of namespace `mine` manages it."""
    return owner(partition) not in ("", mine)


def has_to_be_claimed(partition: Partition, mine: str) -> bool:
    """Whether it is ours and status does not say so yet."""
    return not is_foreign(partition, mine) and _recorded(partition) != mine


def said(partition: Partition, mine: str) -> Event:
    """What the operator that leaves it alone says."""
    other = owner(partition)
    return Event(
        "Warning",
        "AnotherOperator",
        f"the operator in namespace {other} manages this Partition; the one in namespace {mine} "
        "sees it, too, and leaves it alone: let only one of them watch this namespace, or hand the "
        f"Partition over: kubectl annotate partition {partition.name} "
        f"{names.ANNOTATION_OPERATOR}={mine} --overwrite",
    )


def _recorded(partition: Partition) -> str:
    return str((partition.body.get("status") or {}).get("operator") or "")
