"""Objects that do not exist yet, which are created in a row from one observation. Pure.

A creation is refused if an object of its name exists, so it can't overwrite what somebody wrote
since the observation. What the API server answers is as good as another observation of the object.
So a new Partition costs one observation for all of its objects, instead of one for each.
"""

from dataclasses import replace
from typing import Any

from partition_operator.reconcile.observed.last_write import Key
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import Action, Apply, IssueCertificate


def created_by(observed: ObservedPartition, action: Action | None) -> Key | None:
    """Returns the object that the action creates; None if it does anything else."""
    match action:
        case Apply(body):
            key = (body["kind"], body["metadata"]["name"])
        case IssueCertificate(secret, _, _):
            key = ("Secret", secret)
        case _:
            return None
    return None if key in observed.objects else key


def with_created(
    observed: ObservedPartition, key: Key, stored: dict[str, Any]
) -> ObservedPartition:
    """Returns the observation with an object that was created since, as it is stored."""
    good = observed.certificates_good
    if key[0] == "Secret":
        good = good | {key[1]: True}
    return replace(observed, objects=observed.objects | {key: stored}, certificates_good=good)
