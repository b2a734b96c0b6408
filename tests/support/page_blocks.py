"""Which test copies which block of a page of docs/ into a shell, or why no test does.

A page whose blocks are all of one test has the name of that test alone. `unit/test_pages.py`
compares the table with the pages: a block that is not listed fails it."""

from dataclasses import dataclass

SHOP = "apiserver/test_pages.py::test_a_group_is_upgraded_certified_and_recovered"
RELEASES = "apiserver/test_pages.py::test_releases_of_the_chart"
INSTALL = "e2e/test_pages.py::test_installing_upgrading_and_removing"
VOLUMES = "e2e/test_pages.py::test_volumes_that_are_full_replaced_and_lost"
RUNBOOKS = "e2e/test_runbooks.py::"


@dataclass(frozen=True, slots=True)
class Block:
    beginning: str
    """How the block begins, enough to tell it from the page's others."""
    tried_by: str = ""
    """The test, without `tests/`."""
    left_out: str = ""
    """If no test tries it: why not."""


PAGES: dict[str, str | tuple[Block, ...]] = {
    "operations/install.md": (
        Block("helm install partition-operator", INSTALL),
        Block("extraEnv:", INSTALL),
        Block("helm test", INSTALL),
        Block("kubectl logs partition-operator-test", INSTALL),
        Block("kubectl create namespace team-b", RELEASES),
        Block("helm uninstall old", RELEASES),
        Block("kubectl get secret partition-operator-ca", SHOP),
        Block("kubectl annotate partitions --all", SHOP),
        Block("kubectl delete partitions,partitionsnapshots", INSTALL),
    ),
    "operations/upgrade.md": (
        Block("helm upgrade partition-operator", INSTALL),
        Block('kubectl patch partition NAME --type=merge -p \'{"spec": {"image": "REP', SHOP),
        Block('kubectl patch partition NAME --type=merge -p \'{"spec": {"image": "THE', SHOP),
        Block("spec:\n  updateStrategy:", SHOP),
        Block("kubectl annotate partition NAME logstore.dev/approve-rollout", SHOP),
        Block("kubectl annotate partition NAME logstore.dev/restart", SHOP),
        Block('kubectl patch partition NAME --type=merge -p \'{"spec": {"paused": true', SHOP),
        Block('kubectl patch partition NAME --type=merge -p \'{"spec": {"paused": false', SHOP),
    ),
    "runbooks/restore.md": RUNBOOKS + "test_restoring",
    "runbooks/snapshot-failing.md": RUNBOOKS + "test_a_snapshot_that_fails",
    "runbooks/enable-replication.md": RUNBOOKS + "test_switching_replication_on",
    "operations/lost_quorum.md": (
        Block("kubectl get partition NAME", SHOP),
        Block("kubectl partition recover", SHOP),
        Block("kubectl annotate partition", SHOP),
        Block("PV=", SHOP),
        Block("kubectl delete pvc", SHOP),
        Block("kubectl patch pvc", VOLUMES),
        Block("kubectl delete partition", VOLUMES),
        Block("kubectl exec", VOLUMES),
        Block("kubectl annotate pvc", VOLUMES),
    ),
    "operations/certificates.md": (
        Block("kubectl get partition NAME", SHOP),
        Block('kubectl patch partition NAME --type merge -p \'{"spec": {"clients', SHOP),
        Block("kubectl patch partition NAME --type json", SHOP),
        Block("kubectl wait partition NAME", SHOP),
        Block("clients:", SHOP),
        Block("kubectl annotate secret", SHOP),
        Block("kubectl create secret generic corp-tls", SHOP),
        Block('kubectl patch partition NAME --type merge -p \\\n  \'{"spec": {"tls"', SHOP),
        Block('kubectl patch partition NAME --type merge -p \'{"spec": {"tls": null', SHOP),
        Block('kubectl patch partition NAME --type merge -p \\\n  \'{"spec": {"tls"', SHOP),
        Block(
            'kubectl patch partition NAME --type merge -p \'{"spec": {"podTempl',
            left_out="needs pods that a wrong client calls; "
            "scenarios/test_certificates.py reads gRPC's line of such a replica",
        ),
    ),
    "operations/full_disk.md": VOLUMES,
    "operations/scale.md": (
        Block("kubectl scale", SHOP),
        Block("kubectl patch partition NAME", VOLUMES),
        Block("SEEN=", VOLUMES),
        Block(
            'kubectl patch partition NAME --type=merge -p \'{"spec":{"storage":{"volumeAttr',
            left_out="needs a driver with VolumeAttributesClasses; "
            "apiserver/test_volume_attributes.py makes the change",
        ),
        Block("spec:\n  storage:", SHOP),
    ),
    "operations/volumes.md": VOLUMES,
}

NOT_COPIED = {
    "operations/control.md": "hibernation, fences and deletions have tests of their own",
    "operations/hard_failures.md": "each failure names the tests of its mend",
    "operations/metrics.md": "needs the Prometheus Operator and Argo CD",
    "operations/network.md": "needs a cluster that enforces NetworkPolicies",
    "operations/nodes.md": "drains and lost nodes have tests of their own",
    "operations/pods.md": "specs and code, no commands; manifests/samples are tried",
    "operations/replication.md": "the offline commands have tests of their own",
    "operations/snapshots.md": "the commands without an operator have tests of their own",
    "operations/troubleshooting.md": "commands that only show something",
}
"""Pages of operations/ and runbooks/ with blocks that no test copies yet, with what stands in."""
