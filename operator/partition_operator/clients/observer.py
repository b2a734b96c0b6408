"""Looks at everything that a Partition consists of, at once."""

import asyncio
import datetime as dt
from typing import Any

from partition_operator.api import names
from partition_operator.api.destination import Credentials, ObjectStore, Refusal, credentials
from partition_operator.api.partition import Partition, parse
from partition_operator.api.snapshot import parse_snapshot
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.pod_progress import ask_progress
from partition_operator.clients.replica import Replicas
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed import Certificates, Claim, Observed, Pod, Replica
from partition_operator.reconcile.restore_view import RestoreSeen
from partition_operator.resources import trust
from partition_operator.resources.certificates import LIFETIMES, Lifetimes

Applied = dict[tuple[str, str], dict[tuple[str, str], tuple[str, str]]]
"""By Partition, then (kind, name): (hash of the body applied last, resource version it gave)."""


class Observer:
    """Reads only."""

    def __init__(
        self,
        kube: Kube,
        replicas: Replicas,
        authority: AuthorityKeeper,
        applied: Applied,
        lifetimes: Lifetimes = LIFETIMES,
    ) -> None:
        self._lifetimes = lifetimes
        self._applied = applied
        self._kube = kube
        self._replicas = replicas
        self._authority = authority

    async def observe(self, namespace: str, name: str) -> Observed | None:
        """None where the Partition is gone. Raises ApiError."""
        body = await self._kube.get("Partition", namespace, name)
        if body is None:
            await self._replicas.forget((namespace, name), set())
            self._applied.pop((namespace, name), None)
            return None
        partition = parse(body)
        now = dt.datetime.now(dt.UTC)
        single = [
            ("StatefulSet", name),
            ("PodDisruptionBudget", name),
            ("ServiceAccount", names.client_service(name)),
            ("Service", names.headless_service(name)),
            ("Service", names.client_service(name)),
            ("Secret", names.tls_secret(name)),
            ("Secret", names.client_secret(name)),
        ]
        found = await asyncio.gather(
            *(self._kube.get(kind, namespace, item) for kind, item in single),
        )
        objects = {key: item for key, item in zip(single, found, strict=True) if item is not None}
        pods = await self._pods(partition)
        claims = await self._claims(partition)
        await self._authority.refresh()
        secrets = {
            secret: objects.pop(("Secret", secret), None)
            for secret in (names.tls_secret(name), names.client_secret(name))
        }
        self._replicas.follow(partition.key, secrets[names.tls_secret(name)])
        replicas = await self.replicas(partition, pods)
        steps = trust.steps(secrets, self._authority.value, now, self._lifetimes)
        good = {secret: step is not trust.Step.ISSUE for secret, step in steps.items()}
        changing = (trust.Step.WAIT, trust.Step.TRUST)
        applied = self._applied.get(partition.key, {})
        restore = await self._restore(partition)
        return Observed(
            partition,
            now,
            objects,
            pods,
            claims,
            replicas,
            good,
            applied,
            restore,
            certificates=Certificates(
                untrusting=frozenset(s for s, step in steps.items() if step is trust.Step.TRUST),
                changing=any(step in changing for step in steps.values()),
                problem=self._authority.problem,
                refused=self._replicas.refused(partition, pods),
                authority_ends=trust.ending(self._authority.value, now, self._lifetimes),
            ),
        )

    async def group(self, namespace: str, name: str) -> Observed | None:
        """The Partition with its pods and replicas alone; None where it is gone."""
        body = await self._kube.get("Partition", namespace, name)
        if body is None:
            return None
        partition = parse(body)
        pods = await self._pods(partition)
        replicas = await self.replicas(partition, pods)
        return Observed(partition, dt.datetime.now(dt.UTC), {}, pods, (), replicas)

    async def replicas(self, partition: Partition, pods: tuple[Pod, ...]) -> tuple[Replica, ...]:
        """Asks every pod that has an address."""
        await self._replicas.forget(partition.key, {pod.ip for pod in pods if pod.ip})
        asked = [pod for pod in pods if pod.ip and not pod.deleting]
        found = await asyncio.gather(*(self._replicas.status(partition, pod) for pod in asked))
        return tuple(replica for replica in found if replica is not None)

    async def _restore(self, partition: Partition) -> RestoreSeen | None:
        """What a restore that has not ended looks at."""
        try:
            source = partition.spec().restore
        except InvalidSpec:
            return None
        if source is None or partition.status.get("bootstrapped"):
            return None
        namespace, snapshot, store = partition.namespace, None, source.store
        running: frozenset[str] = frozenset()
        volumes: dict[str, str] | None = None
        if source.snapshot_ref:
            body = await self._kube.get(names.SNAPSHOT_KIND, namespace, source.snapshot_ref)
            snapshot = None if body is None else parse_snapshot(body)
        if snapshot is not None:
            stored = snapshot.stored_in()
            store = stored if isinstance(stored, ObjectStore) else None
            items = await self._kube.list_labelled(
                "Pod", namespace, names.selector(snapshot.partition)
            )
            running = frozenset(item["metadata"]["name"] for item in items)
            items = await self._kube.list_labelled(
                "PersistentVolumeClaim", namespace, names.selector(snapshot.partition)
            )
            volumes = {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}
        found = None
        if store is not None:
            secret = await self._kube.get("Secret", namespace, store.secret)
            found = credentials(secret, store.secret)
        pod = await self._kube.get("Pod", namespace, names.restore_pod(partition.name))
        labels = ((pod or {}).get("metadata") or {}).get("labels") or {}
        ours = labels.get(names.LABEL_PARTITION) == partition.name
        claim = names.claim(partition.name, 0)
        claimed = await self._kube.get("PersistentVolumeClaim", namespace, claim) is not None
        return RestoreSeen(
            snapshot=snapshot,
            refusal=found if isinstance(found, Refusal) else None,
            authority=isinstance(found, Credentials) and bool(found.authority),
            running=running,
            volumes=volumes,
            pod=pod if ours else None,
            progress=await ask_progress(pod) if ours else None,
            taken=pod is not None and not ours,
            claimed=claimed,
        )

    async def _pods(self, partition: Partition) -> tuple[Pod, ...]:
        items = await self._kube.list_labelled(
            "Pod", partition.namespace, names.selector(partition.name)
        )
        pods = [_pod(partition, item) for item in items]
        return tuple(sorted((p for p in pods if p.ordinal >= 0), key=lambda p: p.ordinal))

    async def _claims(self, partition: Partition) -> tuple[Claim, ...]:
        items = await self._kube.list_labelled(
            "PersistentVolumeClaim", partition.namespace, names.selector(partition.name)
        )
        claims = [_claim(partition, item) for item in items]
        return tuple(sorted((c for c in claims if c.ordinal >= 0), key=lambda c: c.ordinal))


def _pod(partition: Partition, item: Body) -> Pod:
    status: dict[str, Any] = item.get("status") or {}
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or []
    )
    return Pod(
        ordinal=_ordinal(f"{partition.name}-", item["metadata"]["name"]),
        ip=status.get("podIP") or "",
        ready=ready,
        deleting="deletionTimestamp" in item["metadata"],
        node=(item.get("spec") or {}).get("nodeName") or "",
        ends=item["metadata"].get("deletionTimestamp") or "",
    )


def _claim(partition: Partition, item: Body) -> Claim:
    metadata, spec = item["metadata"], item.get("spec") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    return Claim(
        ordinal=_ordinal(f"{names.VOLUME}-{partition.name}-", metadata["name"]),
        created=metadata["creationTimestamp"],
        cluster_id=(metadata.get("annotations") or {}).get(names.ANNOTATION_CLUSTER_ID, ""),
        bound=bool(spec.get("volumeName")),
        size=str(requests.get("storage", "")),
        storage_class=spec.get("storageClassName") or "",
        deleting="deletionTimestamp" in metadata,
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
    )


def _ordinal(prefix: str, name: str) -> int:
    number = name.removeprefix(prefix)
    return int(number) if name.startswith(prefix) and number.isdigit() else -1
