"""The chart's NetworkPolicies with given values, and the pods that they are about."""

from functools import cache
from typing import Any

from partition_operator.api.destination import VolumeDestination
from partition_operator.resources import snapshot_pods, statefulset

from dev.generate.manifests import NAMESPACE
from tests.support.chart import of, one, pod_of_test, render
from tests.support.network_policies import Pod, allowed
from tests.support.partition_views import CLUSTER, IMAGE, partition
from tests.support.snapshot_objects import snapshot

WATCHED = "ns"


def policies(*, watch: tuple[str, ...] = (WATCHED,), **changes: Any) -> list[dict[str, Any]]:
    values = {"watchNamespaces": watch, "networkPolicy": {"enabled": True} | changes}
    return of(render(**values), "NetworkPolicy")


def labels_of(body: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = body["metadata"]["labels"]
    return found


@cache
def pods() -> dict[str, Pod]:
    """Everybody who may open a connection, or wants to."""
    found = partition({"podTemplate": {"metadata": {"labels": {"team": "storage"}}}})
    spec = found.spec()
    source = snapshot_pods.SnapshotLocation(VolumeDestination(), "one")
    replica = statefulset.build(found, spec, 3, IMAGE)["spec"]["template"]
    verify = snapshot_pods.build_verify(snapshot(), found, source, IMAGE, 1)
    restore = snapshot_pods.build_restore(found, spec, source, CLUSTER, IMAGE, 1, standalone=False)
    rendered = render()
    operator = labels_of(one(rendered, "Deployment")["spec"]["template"])
    return {
        "replica": Pod(WATCHED, labels_of(replica)),
        "another replica": Pod(WATCHED, labels_of(replica)),
        "replica elsewhere": Pod("other", labels_of(replica)),
        "verify": Pod(WATCHED, labels_of(verify)),
        "restore": Pod(WATCHED, labels_of(restore)),
        "operator": Pod(NAMESPACE, operator),
        "operator's labels elsewhere": Pod("other", operator),
        "test": Pod(NAMESPACE, labels_of(pod_of_test(rendered))),
        "application": Pod(WATCHED, {"app": "shop"}),
        "application elsewhere": Pod("other", {"app": "shop"}),
        "prometheus": Pod("monitoring", {"app.kubernetes.io/name": "prometheus"}),
        "outside": Pod("", ip="203.0.113.9"),
    }


def may(made: list[dict[str, Any]], source: str, target: str, port: int) -> bool:
    return allowed(made, pods()[source], pods()[target], port)
