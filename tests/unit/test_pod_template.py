"""`spec.podTemplate.spec`: what it adds to the pods, and which fields it may not touch."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_operator.api import names
from partition_operator.api.partition import parse_spec
from partition_operator.api.pod_template import ALLOWED, LISTS
from partition_operator.errors import InvalidSpec
from partition_operator.resources import services, statefulset
from partition_operator.resources.pod_template import placed
from partition_operator.resources.snapshot_pods import SnapshotLocation, build_restore

from tests.support.partition_views import CLUSTER, by_type, group, look, partition, see
from tests.support.snapshot_objects import STORE

APP = {"name": "app", "image": "app:1"}
BEFORE = {
    "{}": (
        "d373c076d806c1e606c2bd2176b36a066b4895b8fcd8f6a332500f92584b3db1",
        "6ffcbe87a456c7360893e79c18ed4ee4d7b371005b74b3923c706ca920e5cd08",
    ),
    '{"affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "a"}], '
    '"resources": {"limits": {"cpu": "1"}}}': (
        "598135022c57dce51aaae982481ad888d3aa66dd2b3ea1420c5af5190fad3eb8",
        "28f0b183473da025d1d1b095203b72f36aab4f28f87adc3afbc9dd43c8b5d0d0",
    ),
}
"""By spec: the hashes of the inputs and of the pod spec before there were templates. If the second
one changes, new Partitions get other pods. If the first one does, all pods are replaced."""


def pods(template: dict[str, Any], **spec: Any) -> dict[str, Any]:
    found = partition({"podTemplate": {"spec": template}} | spec)
    built = statefulset.build(found, found.spec(), 3, "image:1")["spec"]["template"]["spec"]
    return dict(json.loads(json.dumps(built)))


def named(pod: dict[str, Any], name: str, field: str = "containers") -> dict[str, Any]:
    (found,) = [item for item in pod[field] if item["name"] == name]
    return dict(found)


@pytest.mark.parametrize("spec", BEFORE)
def test_a_partition_without_the_new_fields_keeps_its_pods(spec: str) -> None:
    found = partition(json.loads(spec))
    marks = statefulset.build(found, found.spec(), 3, "image:1")["metadata"]["annotations"]
    kept = statefulset.kept_hash(marks[names.ANNOTATION_POD_SPEC])
    assert (marks[names.ANNOTATION_POD_INPUTS], kept) == BEFORE[spec]


def test_fields_are_added_and_the_rest_stays() -> None:
    plain = pods({})
    added = {
        "nodeSelector": {"disk": "fast"},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "terminationGracePeriodSeconds": 90,
        "securityContext": {"supplementalGroups": [7]},
        "volumes": [{"name": "more", "emptyDir": {}}],
    }
    found = pods(added)
    assert found["containers"] == plain["containers"]
    assert found["securityContext"] == plain["securityContext"] | {"supplementalGroups": [7]}
    assert [v["name"] for v in found["volumes"]] == ["tls", "more"]
    for field in ("nodeSelector", "priorityClassName", "imagePullSecrets"):
        assert found[field] == added[field]
    assert found["terminationGracePeriodSeconds"] == 90
    assert plain["terminationGracePeriodSeconds"] == 30


def test_the_replicas_container_gets_variables_and_volumes() -> None:
    more = {
        "name": "replica",
        "env": [{"name": "TZ", "value": "UTC"}, {"name": "PARTITION_LOG_LEVEL", "value": "DEBUG"}],
        "volumeMounts": [{"name": "more", "mountPath": "/more"}],
    }
    plain, found = (named(pods(t), "replica") for t in ({}, {"containers": [more]}))
    assert found["env"] == plain["env"] + more["env"]
    assert found["volumeMounts"] == plain["volumeMounts"] + more["volumeMounts"]
    assert {**found, "env": 0, "volumeMounts": 0} == {**plain, "env": 0, "volumeMounts": 0}


def test_topology_is_merged_by_its_key() -> None:
    host, zone = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
    hard = {"whenUnsatisfiable": "DoNotSchedule"}
    wanted = [{"topologyKey": host} | hard, {"topologyKey": zone} | hard]
    found = pods({"topologySpreadConstraints": wanted})["topologySpreadConstraints"]
    selector = {"labelSelector": {"matchLabels": names.selector("part")}, "maxSkew": 1}
    assert found == [item | selector for item in wanted]


def test_placement_may_be_in_either_place_but_not_in_both() -> None:
    toleration = [{"key": "a", "operator": "Exists"}]
    assert pods({"tolerations": toleration}) == pods({}, tolerations=toleration)
    assert pods({"affinity": {"nodeAffinity": {}}}) == pods({}, affinity={"nodeAffinity": {}})
    with pytest.raises(InvalidSpec, match=r"spec.tolerations and spec.podTemplate.spec.tolerat"):
        pods({"tolerations": toleration}, tolerations=toleration)


def test_pods_that_restore_and_verify_run_where_replicas_do() -> None:
    given = {
        "nodeSelector": {"disk": "fast"},
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "more", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 90,
        "containers": [APP],
    }
    spec = {"podTemplate": {"spec": given}, "bootstrap": {"objectStore": STORE | {"path": "p"}}}
    found = partition(spec)
    asked = found.spec()
    assert asked.restore is not None
    assert asked.restore.store is not None
    source = SnapshotLocation(asked.restore.store, "latest")
    body = build_restore(found, asked, source, CLUSTER, "image:1", 1, standalone=False)["spec"]
    assert (body["nodeSelector"], body["imagePullSecrets"]) == (
        given["nodeSelector"],
        given["imagePullSecrets"],
    )
    assert [c["name"] for c in body["containers"]] == ["restore"]
    assert "more" not in {v["name"] for v in body["volumes"]}
    assert body["terminationGracePeriodSeconds"] == 30


def test_own_containers_can_reach_their_replica() -> None:
    found = pods({"containers": [APP], "initContainers": [{"name": "first", "image": "app:1"}]})
    assert [c["name"] for c in found["containers"]] == ["replica", "app"], "kubectl takes the first"
    replica = named(found, "replica")
    for own in (named(found, "app"), named(found, "first", "initContainers")):
        env = {variable["name"]: variable["value"] for variable in own["env"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in own["volumeMounts"]}
        assert env["PARTITION_ENDPOINTS"] == "localhost:7000"
        secret = named(found, mounts[env["PARTITION_TLS_DIR"]], "volumes")["secret"]
        assert secret["secretName"] == "part-client-tls", "not the replica's"
        folder = env["PARTITION_SOCKET"].removeprefix("unix:").rpartition("/")[0]
        assert "emptyDir" in named(found, mounts[folder], "volumes")
        assert {"name": "PARTITION_SOCKET", "value": env["PARTITION_SOCKET"]} in replica["env"]
        assert {"name": mounts[folder], "mountPath": folder} in replica["volumeMounts"]
        assert own["securityContext"]["allowPrivilegeEscalation"] is False
        assert own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    without = pods({"volumes": [{"name": "more", "emptyDir": {}}]})
    assert "PARTITION_SOCKET" not in json.dumps(without), "nobody would use it"


def test_own_containers_may_ask_for_more_than_the_least() -> None:
    wanted = {"capabilities": {"add": ["NET_BIND_SERVICE"]}, "runAsUser": 1000}
    found = named(pods({"containers": [APP | {"securityContext": wanted}]}), "app")
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "runAsUser": 1000,
    }


def test_what_the_api_server_leaves_out_is_left_out() -> None:
    given = {
        "nodeSelector": None,
        "containers": [
            APP
            | {
                "env": [{"name": "EMPTY", "value": ""}],
                "tty": False,
                "volumeMounts": [{"name": "more", "mountPath": "/more", "readOnly": False}],
            }
        ],
    }
    found = pods(given)
    app = named(found, "app")
    assert "nodeSelector" not in found
    assert app["env"][-1] == {"name": "EMPTY"}
    assert app["volumeMounts"][-1] == {"name": "more", "mountPath": "/more"}
    assert "tty" not in app


def replica(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "replica"} | fields]}


def app(**fields: Any) -> dict[str, Any]:
    return {"containers": [APP | fields]}


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork: the operator keeps this field; allowed here"),
        ({"shareProcessNamespace": True}, "could read the replica's keys"),
        ({"serviceAccountName": "x"}, "bind roles to the ServiceAccount"),
        ({"securityContext": {"runAsUser": 0}}, "spec.securityContext.runAsUser: the operator"),
        ({"securityContext": []}, "spec.securityContext .*: is not an object"),
        ({"affinity": "node-1"}, "spec.affinity 'node-1': is not an object"),
        ({"nodeSelector": ["a"]}, r"spec.nodeSelector \['a'\]: is not an object"),
        ({"tolerations": {"key": "a"}}, "spec.tolerations .*: is not a list of objects"),
        ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds 5: at least 30"),
        ({"volumes": [{"name": "data"}]}, r"spec.volumes\[data\]: the names data, tls and those"),
        ({"volumes": [{"name": "partition-x"}]}, r"spec.volumes\[partition-x\]: the names"),
        ({"volumes": {}}, "spec.volumes {}: is not a list"),
        ({"volumes": [{"name": "a"}, {"name": "a"}]}, r"spec.volumes\[a\]: is there twice"),
        ({"containers": [{"image": "a"}]}, r"spec.containers\[0\]: is not an object with name"),
        ({"containers": [{"$patch": "delete"}]}, r"containers\[0\].\$patch: directives"),
        (replica(command=["sh"]), r"spec.containers\[replica\].command: the operator keeps"),
        (replica(ports=[]), r"spec.containers\[replica\].ports: the operator keeps"),
        (replica(securityContext={}), r"containers\[replica\].securityContext: the operator"),
        (replica(livenessProbe={}), r"containers\[replica\].livenessProbe: the operator"),
        (replica(envFrom=[]), r"containers\[replica\].envFrom: the operator"),
        (replica(image="x"), "set spec.image instead"),
        (replica(resources={}), "set spec.resources instead"),
        (replica(env=[{"name": "POD_NAME"}]), r"env\[POD_NAME\]: the operator sets"),
        (replica(env=[{"name": "PARTITION_DATA"}]), r"env\[PARTITION_DATA\]: the operator sets"),
        (
            replica(volumeMounts=[{"name": "x", "mountPath": "/var/lib/../lib/partition/data"}]),
            "the operator mounts /var/lib/partition",
        ),
        (replica(volumeMounts=[{"name": "data", "mountPath": "/x"}]), r"\[/x\].name: the names"),
        ({"initContainers": [{"name": "replica"}]}, r"initContainers\[replica\]: the names"),
        ({"containers": [APP | {"name": "verify"}]}, r"containers\[verify\]: the names"),
        ({"containers": [APP], "initContainers": [APP]}, r"initContainers\[app\]: another"),
        (app(volumeMounts=[{"name": "data", "mountPath": "/x"}]), "how a container reaches its"),
        (app(volumeMounts=[{"name": "tls", "mountPath": "/x"}]), r"\[/x\].name: the names"),
        (app(volumeMounts=[{"name": "x", "mountPath": "/run/partition/"}]), "mounts /run/partit"),
        (app(env=[{"name": "PARTITION_SOCKET"}]), r"env\[PARTITION_SOCKET\]: the operator sets"),
        (app(ports=[{"containerPort": 7001}]), r"containers\[app\].ports: the replica has"),
        (app(ports=[{"containerPort": 80, "name": "grpc"}]), "grpc \\(7000\\), raft"),
        (app(ports=[{"containerPort": {}}]), "ports: containerPort {} is not a number"),
        (app(ports={}), "ports: is not a list of objects"),
        (app(securityContext=[]), r"containers\[app\].securityContext: is not an object"),
    ],
)
def test_a_guarded_field_is_refused_by_name(template: dict[str, Any], why: str) -> None:
    spec = {"storage": {"size": "1Gi"}, "podTemplate": {"spec": template}}
    with pytest.raises(InvalidSpec, match=why) as caught:
        parse_spec("a", spec)
    assert str(caught.value).startswith("spec.podTemplate.spec.")


FIELDS = ["containerPort", "env", "ports", "securityContext", "volumeMounts", *sorted(ALLOWED)]
LEAVES = st.none() | st.booleans() | st.integers(-1, 9000) | st.sampled_from(["", "replica", "/x"])
NAMED = st.fixed_dictionaries(
    dict.fromkeys(LISTS.values(), st.sampled_from(["a", "replica", "/x"]))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)
        | st.lists(
            st.builds(lambda a, b: a | b, NAMED, st.dictionaries(st.sampled_from(FIELDS), inner)),
            max_size=2,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(ALLOWED)), VALUES, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_malformed_template_is_refused_or_built(template: dict[str, Any]) -> None:
    """The CRD does not look into it, so anything may be there."""
    found = partition({"podTemplate": {"spec": template}})
    try:
        asked = found.spec()
    except InvalidSpec as error:
        assert str(error).startswith("spec.podTemplate.spec")
        return
    pod = statefulset.build(found, asked, 3, "image:1")["spec"]["template"]["spec"]
    assert named(pod, "replica")["command"] == ["python3", "-m", "partition_replica"]
    assert pod["serviceAccountName"] == "part"
    placed({"containers": []}, asked.template)
    dict(asked.affinity)


def test_a_refused_template_leaves_the_group_as_it_is() -> None:
    found = group()
    asked = partition({"podTemplate": {"spec": {"hostPID": True}}}, **found.partition.status)
    step = look(see(asked, objects=found.objects, pods=found.pods, replicas=found.replicas))
    accepted = by_type(step)["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.podTemplate.spec.hostPID" in accepted["message"]
    assert step.action is None


def test_the_account_has_the_annotations_that_were_asked_for() -> None:
    marks = {"cloud.example/role": "storage"}
    found = services.build_account(partition({"serviceAccount": {"annotations": marks}}))
    assert found["metadata"]["annotations"] == marks
    with pytest.raises(InvalidSpec, match="are the operator's"):
        partition({"serviceAccount": {"annotations": {"logstore.dev/x": "y"}}}).spec()
