"""The operator's turns in this process, one at a time, against an API server: no lease, no watches,
so a test decides what happens between two looks."""

import asyncio
import datetime as dt
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubernetes.aio import client, config
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.observer import Observer
from partition_operator.clients.recorder import Recorder
from partition_operator.clients.replica import Replicas
from partition_operator.config import OperatorConfig
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.resources.certificates import make_authority
from partition_operator.resources.trust import Authority
from partition_operator.turns.executor import Executor
from partition_operator.turns.partition import Reconciler
from partition_operator.turns.queue import PARTITION, Key, QueueItem

from tests.support.api_server import ApiServer
from tests.support.certificates import KnownAuthority
from tests.support.rights import OPERATOR

API = "logstore.dev/v1alpha1"


async def connect(kubeconfig: Path, user: str = "") -> Kube:
    """user: whose rights to have, "" for all."""
    configuration = client.Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    api = client.ApiClient(configuration)
    if user:
        api.set_default_header("Impersonate-User", user)
    return Kube(api, 10)


class Turns:
    """Of one Partition, "part", in a namespace of its own. Use as an async context manager. The
    operator has the rights that the chart grants; `kube` has all."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.kube: Kube
        self.theirs: Kube
        """The operator's client."""

    async def __aenter__(self) -> "Turns":
        self.kube = await connect(self._server.kubeconfig)
        await asyncio.to_thread(self._server.kubectl, "create", "namespace", self.namespace)
        authority = KnownAuthority(Authority(make_authority(dt.datetime.now(dt.UTC))))
        token = FencingToken("test", 1)
        self._replicas = Replicas(authority, token, 0.2)
        self.theirs = await connect(self._server.kubeconfig, OPERATOR)
        self.observer = Observer(self.theirs, self._replicas, authority)
        self.executor = Executor(self.theirs, self._replicas, authority)
        self._reconciler = Reconciler(
            OperatorConfig(self.namespace, "test", "image:1"),
            self.theirs,
            self.observer,
            self.executor,
            Recorder(self.theirs, 1000),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._replicas.close()
        await self.theirs.close()
        await self.kube.close()

    async def turn(self) -> float | None:
        """A full look, and everything that can be done now."""
        key = Key(PARTITION, self.namespace, "part")
        return await self._reconciler.turn(key, QueueItem(asked=True))

    async def observe(self) -> ObservedPartition:
        """A full look alone."""
        found = await self.observer.partition(self.namespace, "part")
        assert found is not None
        observed = await self.observer.observe(found)
        return replace(observed, writes=self.executor.writes.of(found.key))

    async def make(self, **spec: Any) -> None:
        """Creates the Partition."""
        wanted = {"replicas": 1, "storage": {"size": "256Mi"}} | spec
        meta = {"name": "part", "namespace": self.namespace}
        await self.create(
            {"apiVersion": API, "kind": "Partition", "metadata": meta, "spec": wanted}
        )

    async def create(self, body: Body) -> Body:
        meta = {"namespace": self.namespace} | body["metadata"]
        return await self.kube.create(body | {"metadata": meta})

    async def get(self, kind: str, name: str) -> Body:
        found = await self.kube.get(kind, self.namespace, name)
        assert found is not None, f"{kind} {name}"
        return found

    async def edit(self, kind: str, name: str, change: Body) -> Body:
        """As a user's merge patch: None removes a field."""
        return await self.kube.merge(kind, await self.get(kind, name), change)

    async def put_status(self, plural: str, name: str, status: Body, group: str = "v1") -> None:
        """Of a built-in kind, as its controller would write it."""
        path = f"/api{'s' if '/' in group else ''}/{group}/namespaces/{self.namespace}/{plural}"
        await self.kube._request(
            "PATCH",
            f"{path}/{name}/status",
            {"status": status},
            content_type="application/merge-patch+json",
        )

    async def conditions(self) -> dict[str, Body]:
        found = (await self.get("Partition", "part"))["status"]["conditions"]
        return {condition["type"]: condition for condition in found}

    async def state(self) -> str:
        return str((await self.get("Partition", "part"))["status"]["state"])

    async def events(self) -> list[tuple[str, str]]:
        items = await self.kube.list_labelled("Event", self.namespace, {})
        return [(item["reason"], item["message"]) for item in items]
