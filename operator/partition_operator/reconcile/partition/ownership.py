"""Which operator manages a Partition. Pure.

An operator is identified by its namespace, where its Lease and its certificate authority are. The
first operator that observes a Partition writes its namespace into status.operator. Every other
operator ignores the Partition, because a group can't follow two authorities, two images and two
Leases. An annotation transfers a Partition to another operator.
"""

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition


def owner(partition: Partition) -> str:
    """Returns the namespace of the operator that manages it; "" if no operator has claimed it."""
    annotations = partition.body["metadata"].get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_OPERATOR) or _recorded(partition))


def is_foreign(partition: Partition, mine: str) -> bool:
    """Whether an operator in another namespace than `mine` manages it."""
    return owner(partition) not in ("", mine)


def has_to_be_claimed(partition: Partition, mine: str) -> bool:
    """Whether it is ours and status does not record that yet."""
    return not is_foreign(partition, mine) and _recorded(partition) != mine


def said(partition: Partition, mine: str) -> Event:
    """Returns the event of an operator that ignores a Partition of another operator."""
    other = owner(partition)
    return Event(
        "Warning",
        "AnotherOperator",
        f"the operator in namespace {other} manages this Partition; the operator in namespace "
        f"{mine} also watches it, but ignores it: let only one of them watch this namespace, or "
        f"transfer the Partition: kubectl annotate partition {partition.name} "
        f"{names.ANNOTATION_OPERATOR}={mine} --overwrite",
    )


def _recorded(partition: Partition) -> str:
    return str((partition.body.get("status") or {}).get("operator") or "")
