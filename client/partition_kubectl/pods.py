"""What a pod's object says about it. Pure."""

from typing import Any

from partition_kubectl import names

Body = dict[str, Any]

STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons with which the container of a sound pod waits."""

ENDINGS = {
    70: "a failed write or fsync, or damage: keep the volume",
    78: "its TLS files can't be used",
    137: "killed, perhaps because it used more memory than its limit",
}
"""Exit codes of a replica that say why it ended."""


def name(pod: Body) -> str:
    return str(pod["metadata"]["name"])


def conditions(body: Body) -> dict[str, Body]:
    """Returns the conditions in an object's status by type."""
    return {one["type"]: one for one in (body.get("status") or {}).get("conditions") or []}


def is_ready(pod: Body) -> bool:
    return (conditions(pod).get("Ready") or {}).get("status") == "True"


def replica(pod: Body) -> Body:
    """Returns the status of the replica's container; {} if it has none yet."""
    found = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in found if one.get("name") == names.REPLICA), {})


def image(pod: Body) -> str:
    """Returns the image of the replica; "" if the pod has none."""
    found = (pod.get("spec") or {}).get("containers") or []
    return next((str(c.get("image", "")) for c in found if c.get("name") == names.REPLICA), "")


def version(reference: str) -> str:
    """Returns the tag of an image, the beginning of its digest, or the whole without either."""
    tagged, _, digest = reference.partition("@")
    last = tagged.rpartition("/")[2]
    if ":" in last:
        return last.partition(":")[2]
    return digest[:19] if digest else reference


def trouble(pod: Body) -> str:
    """Returns in a sentence's end why a pod is not ready; "" if it is."""
    if "deletionTimestamp" in pod["metadata"]:
        return f"is being deleted since {pod['metadata']['deletionTimestamp']}"
    if is_ready(pod):
        return ""
    placed = conditions(pod).get("PodScheduled") or {}
    if placed.get("status") == "False":
        return f"has no node: {placed.get('message', '')}".rstrip(": ")
    return _container_trouble(replica(pod))


def _container_trouble(container: Body) -> str:
    state = container.get("state") or {}
    ended = (container.get("lastState") or {}).get("terminated") or state.get("terminated")
    waiting = state.get("waiting") or {}
    if ended and "running" not in state:
        code = ended.get("exitCode")
        why = ENDINGS.get(code, "") if isinstance(code, int) else ""
        times = container.get("restartCount", 0)
        return (
            f"has ended with exit code {code}{f' ({why})' if why else ''}, restarted {times} times"
        )
    if waiting.get("reason") and waiting["reason"] not in STARTING:
        return f"waits with {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    if "running" in state:
        return "runs and is not ready: it opens its log, or catches up"
    return "has not started yet"
