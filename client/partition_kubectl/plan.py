"""`kubectl partition plan`: what the operator would do. The operator itself says it, in its pod."""

import argparse
import json

from partition_kubectl import names, pods
from partition_kubectl.errors import Forbidden, Refused
from partition_kubectl.kubectl import Body, Kubectl
from partition_kubectl.output import put, rendered

COMMAND = ("python3", "-m", "partition_operator", "plan")
RIGHTS = (
    "plan runs a command in the operator's pod. That needs, in the operator's namespace, the verbs "
    "get and list on pods, and create on pods/exec. A user with these can act as the operator, so "
    "an administrator may have to run it for you"
)


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    namespace = options.operator_namespace or manager(partition)
    where = kubectl.within(namespace)
    words = [*COMMAND, f"--namespace={partition['metadata']['namespace']}", options.name]
    if options.output:
        words.append("--json")
    try:
        pod = ready_pod(where.find("pods", names.OPERATOR), namespace)
        said = where("exec", pod, "-c", names.OPERATOR_CONTAINER, "--", *words, lasting=True)
    except Forbidden as error:
        raise Forbidden(f"{RIGHTS}. The API server says: {error}") from error
    put(rendered(json.loads(said), options.output) if options.output else said.rstrip())
    return 0


def manager(partition: Body) -> str:
    """Returns the namespace of the operator that manages it. Raises Refused. Pure."""
    found = str((partition.get("status") or {}).get("operator", ""))
    if not found:
        raise Refused(
            "no operator has taken up this Partition yet (status.operator is empty); if you know "
            "its namespace, give --operator-namespace"
        )
    return found


def ready_pod(found: list[Body], namespace: str) -> str:
    """Returns a ready pod of the operator; a standby plans as well. Raises Refused. Pure."""
    ready = [pods.name(pod) for pod in found if pods.is_ready(pod)]
    if not ready:
        raise Refused(
            f"no ready pod of an operator is in namespace {namespace} (label {names.OPERATOR}): "
            "is it installed there, and does it run?"
        )
    return ready[0]
