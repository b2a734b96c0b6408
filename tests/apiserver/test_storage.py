"""What of spec.storage the API server lets change, and what the operator makes of it."""

import asyncio
import json
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import UNHURRIED, Operator

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

MADE = {"size": "1Gi", "className": "fast"}


@dataclass
class Subject:
    """A Partition of a namespace of its own."""

    server: ApiServer
    namespace: str

    def kubectl(self, *words: str, stdin: str = "") -> str:
        return self.server.kubectl("-n", self.namespace, *words, stdin=stdin)

    def create(self, storage: dict[str, str]) -> None:
        body = {
            "apiVersion": "logstore.dev/v1alpha1",
            "kind": "Partition",
            "metadata": {"name": "part"},
            "spec": {"replicas": 1, "storage": storage},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(body))

    def change(self, **storage: str | None) -> None:
        body = json.dumps({"spec": {"storage": storage}})
        self.kubectl("patch", "partition", "part", "--type=merge", "-p", body)

    def record(self, storage: dict[str, str]) -> None:
        """As the operator does of bound claims."""
        body = json.dumps({"status": {"storage": storage}})
        words = ("patch", "partition", "part", "--subresource=status", "--type=merge")
        self.kubectl(*words, "-p", body)


@pytest.fixture
def subject(server: ApiServer) -> Subject:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    return Subject(server, namespace)


def test_anything_goes_while_nothing_exists(subject: Subject) -> None:
    subject.create({"size": "10Ti"})
    subject.change(size="1Gi")
    subject.change(className="nosuch")
    subject.change(className="fast", size="64Mi")


def test_what_was_raised_by_mistake_is_put_back(subject: Subject) -> None:
    subject.create(MADE)
    subject.record(MADE)
    subject.change(size="10Ti")
    subject.change(size="20Gi")
    subject.change(size="1024Mi")
    with pytest.raises(RuntimeError, match="512Mi is smaller than the volumes, which have 1Gi"):
        subject.change(size="512Mi")
    subject.record(MADE | {"size": "2Gi"})
    subject.change(size="3Gi")
    with pytest.raises(RuntimeError, match="which have 2Gi"):
        subject.change(size="1Gi")


def test_a_class_is_what_the_volumes_have(subject: Subject) -> None:
    subject.create(MADE)
    # The volumes were bound before the mistake was mended.
    subject.record(MADE | {"className": "slow"})
    with pytest.raises(RuntimeError, match="className: the volumes have class slow"):
        subject.change(className="other")
    subject.change(className="slow")
    with pytest.raises(RuntimeError, match="className can't be removed"):
        subject.change(className=None)


def test_status_is_written_whatever_the_spec_says(subject: Subject) -> None:
    """Volumes that were adopted may be larger than the spec, and of another class."""
    subject.create(MADE)
    subject.record({"size": "5Gi", "className": "slow"})
    subject.change(size="2Gi")


CLAIM: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data-part-0"},
    "spec": {"accessModes": ["ReadWriteOnce"]},
}


async def test_a_wrong_class_is_mended_before_there_is_a_volume(
    subject: Subject, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    operator = Operator(subject.server, subject.namespace, log, **UNHURRIED)

    def template() -> dict[str, Any]:
        found = json.loads(subject.kubectl("get", "statefulsets", "-o", "json"))["items"]
        (claim,) = found[0]["spec"]["volumeClaimTemplates"] if found else [{"spec": {}}]
        spec: dict[str, Any] = claim["spec"]
        return spec

    def look(wanted: str) -> bool:
        claims = subject.kubectl("get", "pvc", "-o", "jsonpath={..storageClassName}").split()
        return template().get("storageClassName") == wanted and not set(claims) - {wanted}

    async def settled(wanted: str) -> None:
        async def same() -> bool:
            return await asyncio.to_thread(look, wanted)

        await eventually(same, f"claims are of class {wanted}", 40)

    try:
        subject.create({"size": "1Gi", "className": "nosuch"})
        operator.start()
        await settled("nosuch")
        # As the StatefulSet's controller makes it; no controller takes the finalizer away here.
        body = CLAIM | {"spec": CLAIM["spec"] | template()}
        body["metadata"] = CLAIM["metadata"] | {
            "labels": {
                "logstore.dev/partition": "part",
                "app.kubernetes.io/component": "replica",
            }
        }
        subject.kubectl("create", "-f", "-", stdin=json.dumps(body))
        subject.kubectl(
            "patch", "pvc", "data-part-0", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
        )
        subject.change(className="fast")
        await settled("fast")
        assert not subject.kubectl("get", "pvc", "-o", "name")
    except BaseException:
        print(log.read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()
