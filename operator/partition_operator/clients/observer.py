"""Observes everything that belongs to a Partition."""

import asyncio
import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from partition_operator.api import names
from partition_operator.api.destination import (
    DestinationProblem,
    ObjectStore,
    S3Credentials,
    credentials,
)
from partition_operator.api.partition import STANDALONE, Partition, parse
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.snapshot import parse_snapshot
from partition_operator.api.times import parse_stamp
from partition_operator.api.words import ReplicaRole
from partition_operator.clients import volumes
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.kube import ApiError, Body, Kube
from partition_operator.clients.nodes import NodeBook
from partition_operator.clients.partition_secrets import PartitionSecrets
from partition_operator.clients.pod_progress import ask_progress
from partition_operator.clients.replica import Named, Replicas
from partition_operator.errors import text_of
from partition_operator.reconcile.observed.last_write import Key
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.observed.restore import ObservedRestore
from partition_operator.resources import own_certificate, trust
from partition_operator.resources.certificates import LIFETIMES, Lifetimes
from partition_operator.resources.common import controller, is_foreign, is_owner

logger = logging.getLogger(__name__)

FAILED_CREATE_AGE = dt.timedelta(minutes=20)
"""The StatefulSet's controller retries at least every 1,000 seconds, so an older event is outdated.
"""


class Observer:
    """Reads objects and replicas. It writes nothing."""

    def __init__(
        self,
        kube: Kube,
        replicas: Replicas,
        authority: AuthorityKeeper,
        lifetimes: Lifetimes = LIFETIMES,
        nodes: NodeBook | None = None,
        *,
        cluster_domain: str = names.CLUSTER_DOMAIN,
    ) -> None:
        """nodes: None if the operator may not read nodes."""
        self._nodes = nodes
        self._lifetimes = lifetimes
        self._cluster_domain = cluster_domain
        self._kube = kube
        self._replicas = replicas
        self._authority = authority
        self._secrets = PartitionSecrets(kube, authority, lifetimes)

    @property
    def certificates_refused(self) -> int:
        """How many certificates of spec.tls were refused since the start."""
        return self._secrets.refused

    async def partition(self, namespace: str, name: str) -> Partition | None:
        """Returns the Partition, or None if it does not exist. Raises ApiError."""
        body = await self._kube.get("Partition", namespace, name)
        return None if body is None else parse(body, self._cluster_domain)

    async def forget(self, namespace: str, name: str) -> None:
        """Drops the connections to a Partition that was deleted or that another operator
        manages."""
        await self._replicas.forget((namespace, name), set())

    async def observe(self, partition: Partition) -> ObservedPartition:
        """Observes everything of a Partition. partition: as just read. Raises ApiError."""
        namespace, name = partition.key
        now = dt.datetime.now(dt.UTC)
        single = [
            ("StatefulSet", name),
            ("PodDisruptionBudget", name),
            ("ServiceAccount", names.client_service(name)),
            ("Service", names.headless_service(name)),
            ("Service", names.client_service(name)),
        ]
        asked = partition.asked
        if asked is not None and asked.tls.issuer is not None:
            single.append(("Certificate", names.certificate(name)))
        found = await asyncio.gather(
            *(self._kube.get(kind, namespace, item) for kind, item in single),
        )
        objects = {key: item for key, item in zip(single, found, strict=True) if item is not None}
        size = _size(partition, objects.get(("StatefulSet", name)))
        pods, conflicting = await self._pods(partition, size)
        claims = await self._claims(partition, size)
        lost: dict[int, str] = {}
        class_missing = False
        if self._nodes is not None:
            lost = await volumes.out_of_reach(self._kube, name, pods, claims)
            claims = await self._with_classes(partition, claims)
            class_missing = await self._class_missing(partition, claims)
        attributes_problem = await self._attributes_problem(partition, claims)
        await self._authority.refresh()
        secrets = await self._secrets.read(partition, now)
        for secret, live in secrets.live.items():
            if live is not None:
                objects["Secret", secret] = _without_content(live)
        # A Secret of another owner is a Conflict, and is not used here.
        own = {s: None if _foreign(x, partition) else x for s, x in secrets.live.items()}
        replica, client = own[names.tls_secret(name)], own[names.client_secret(name)]
        if replica is not None:
            self._replicas.follow(partition.key, replica, client)
        replicas, fenced = await self._answers(partition, pods)
        reports, timed = _reports(partition, pods, (*replicas, *fenced))
        good, certificates = self._secrets.judge(partition, secrets, reports, now, timed=timed)
        certificates = replace(
            certificates,
            refused=self._replicas.refused(partition, pods),
            authority_ends=own_certificate.ending(self._authority.value, now, self._lifetimes),
            refused_calls=sum(r.tls.refused_calls for r in replicas if r.tls),
            refused_last=max((r.tls.refused_last for r in replicas if r.tls), default=""),
        )
        return ObservedPartition(
            partition,
            now,
            objects,
            pods,
            claims,
            replicas,
            good,
            conflicting=conflicting,
            pods_refused=await self._pods_refused(objects.get(("StatefulSet", name)), pods, now),
            restore=await self._restore(partition),
            certificates=certificates,
            fenced=fenced,
            sees_volumes=self._nodes is not None,
            class_missing=class_missing,
            attributes_problem=attributes_problem,
            lost=lost,
            cordoned=self._cordoned(pods),
        )

    async def _with_classes(
        self, partition: Partition, claims: tuple[ObservedClaim, ...]
    ) -> tuple[ObservedClaim, ...]:
        """Returns the claims, with what their classes allow where one is smaller than the spec."""
        spec = partition.asked
        if spec is None or not spec.replace_volumes:
            return claims
        wanted = parse_quantity(spec.storage_size)
        small = {c.storage_class for c in claims if _less(parse_quantity(c.size), wanted)}
        fixed = {name for name in small if not await volumes.grows(self._kube, name)}
        return tuple(replace(c, fixed=c.storage_class in fixed) for c in claims)

    async def _class_missing(self, partition: Partition, claims: tuple[ObservedClaim, ...]) -> bool:
        """Whether volumes shall get a class that does not exist."""
        spec = partition.asked
        wanted = spec.storage_class if spec is not None and spec.replace_volumes else None
        if not wanted or all(claim.storage_class == wanted for claim in claims):
            return False
        return await self._kube.get("StorageClass", "", wanted) is None

    async def _attributes_problem(
        self, partition: Partition, claims: tuple[ObservedClaim, ...]
    ) -> str:
        """Returns why no volume can have the VolumeAttributesClass of the spec; "" if one can, or
        if all have it."""
        spec = partition.asked
        wanted = spec.attributes_class if spec is not None else None
        if spec is None or wanted is None:
            return ""
        if claims and all(c.attributes == c.attributes_now == wanted for c in claims):
            return ""
        if self._nodes is None:
            return "this operator may not read VolumeAttributesClasses: set watchNodes in the chart"
        other = spec.storage_class if spec.replace_volumes else None
        classes = {other} if other else {c.storage_class for c in claims if c.storage_class}
        return await volumes.attributes_problem(self._kube, wanted, classes)

    def _cordoned(self, pods: tuple[ObservedPod, ...]) -> frozenset[str]:
        nodes = self._nodes
        if nodes is None:
            return frozenset()
        return frozenset(pod.node for pod in pods if nodes.is_cordoned(pod.node))

    async def group(self, partition: Partition) -> ObservedPartition:
        """Observes only the pods and replicas of a Partition. Raises ApiError."""
        pods, _ = await self._pods(partition, _size(partition, None))
        replicas, fenced = await self._answers(partition, pods)
        now = dt.datetime.now(dt.UTC)
        return ObservedPartition(partition, now, {}, pods, (), replicas, fenced=fenced)

    async def _answers(
        self, partition: Partition, pods: tuple[ObservedPod, ...]
    ) -> tuple[tuple[ObservedReplica, ...], tuple[ObservedReplica, ...]]:
        """Returns (the replicas that serve, the fenced ones)."""
        found = await self.replicas(partition, pods)
        fenced = tuple(replica for replica in found if replica.role == ReplicaRole.FENCED)
        return tuple(r for r in found if r.role != ReplicaRole.FENCED), fenced

    async def replicas(
        self, partition: Named, pods: tuple[ObservedPod, ...]
    ) -> tuple[ObservedReplica, ...]:
        """Returns the status of every replica that answers, a fenced one's, too."""
        await self._replicas.forget(partition.key, {pod.ip for pod in pods if pod.ip})
        asked = [pod for pod in pods if pod.ip and not pod.deleting]
        found = await asyncio.gather(*(self._replicas.status(partition, pod) for pod in asked))
        return tuple(replica for replica in found if replica is not None)

    async def _pods_refused(
        self, live: Body | None, pods: tuple[ObservedPod, ...], now: dt.datetime
    ) -> str:
        """Returns why missing pods can't be created; "" if unknown. If a quota, a LimitRange or a
        webhook refuses them, the StatefulSet's controller reports it only in an event."""
        if live is None or len(pods) >= int(live["spec"]["replicas"]):
            return ""
        metadata = live["metadata"]
        try:
            found = await self._kube.events_about(
                metadata["namespace"], metadata["uid"], "FailedCreate"
            )
        except ApiError as error:
            if not error.refused:
                raise
            logger.info(
                "events of StatefulSet %s can't be read: %s", metadata["name"], text_of(error)
            )
            return ""
        times = {parse_stamp(e.get("lastTimestamp") or e.get("eventTime")): e for e in found}
        newest = max((time for time in times if time is not None), default=None)
        if newest is None or now - newest > FAILED_CREATE_AGE:
            return ""
        return str(times[newest].get("message", ""))

    async def _restore(self, partition: Partition) -> ObservedRestore | None:
        """Observes what a restore needs; None if no restore is in progress."""
        source = partition.asked.restore if partition.asked is not None else None
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
            volumes = await self.volumes(namespace, snapshot.partition, {snapshot.claim})
        found = None
        if store is not None:
            secret = await self._kube.get("Secret", namespace, store.secret)
            found = credentials(secret, store.secret)
        pod = await self._kube.get("Pod", namespace, names.restore_pod(partition.name))
        ours = pod is not None and not is_foreign(pod, partition)
        claim = names.claim(partition.name, 0)
        claimed = await self._kube.get("PersistentVolumeClaim", namespace, claim) is not None
        return ObservedRestore(
            snapshot=snapshot,
            refusal=found if isinstance(found, DestinationProblem) else None,
            authority=isinstance(found, S3Credentials) and bool(found.authority),
            running=running,
            volumes=volumes,
            pod=pod if ours else None,
            progress=await ask_progress(pod) if ours else None,
            taken=pod is not None and not ours,
            claimed=claimed,
        )

    async def volumes(
        self, namespace: str, partition: str, wanted: Iterable[str] = ()
    ) -> dict[str, str]:
        """Returns the UIDs of a Partition's claims by name. wanted: claims that are also read by
        name, because a claim that has lost its labels still exists."""
        selector = names.selector(partition)
        items = await self._named(
            "PersistentVolumeClaim", namespace, selector, [name for name in wanted if name]
        )
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    async def _named(
        self, kind: str, namespace: str, selector: dict[str, str], wanted: Iterable[str]
    ) -> list[Body]:
        """Returns the objects with these labels, and those with these names, with or without
        labels.
        """
        items = await self._kube.list_labelled(kind, namespace, selector)
        missing = sorted(set(wanted) - {item["metadata"]["name"] for item in items})
        found = await asyncio.gather(
            *(self._kube.get(kind, namespace, name) for name in missing),
        )
        return [*items, *(item for item in found if item is not None)]

    async def _pods(
        self, partition: Partition, size: int
    ) -> tuple[tuple[ObservedPod, ...], tuple[Key, ...]]:
        """Returns (the replicas' pods, pods of other owners with their names)."""
        selector = names.selector(partition.name)
        wanted = [names.pod(partition.name, n) for n in range(size)]
        pods, conflicting = [], []
        for item in await self._named("Pod", partition.namespace, selector, wanted):
            pod = _pod(partition, item, selector)
            if pod.ordinal < 0:
                continue
            if pod.labelled or _is_replica(partition, item):
                pods.append(pod)
            else:
                conflicting.append(("Pod", item["metadata"]["name"]))
        return tuple(sorted(pods, key=lambda p: p.ordinal)), tuple(conflicting)

    async def _claims(self, partition: Partition, size: int) -> tuple[ObservedClaim, ...]:
        selector = names.selector(partition.name)
        wanted = [names.claim(partition.name, n) for n in range(size)]
        items = await self._named("PersistentVolumeClaim", partition.namespace, selector, wanted)
        claims = [_claim(partition, item, selector) for item in items]
        return tuple(sorted((c for c in claims if c.ordinal >= 0), key=lambda c: c.ordinal))


def _reports(
    partition: Partition, pods: Iterable[ObservedPod], replicas: Iterable[ObservedReplica]
) -> tuple[dict[str, trust.Reported | None], bool]:
    """Returns (what each replica reports of its TLS files, or SILENT; whether one of an earlier
    version reports nothing). A pod without an address does not run: it will mount what is there."""
    answers = {replica.ordinal: replica for replica in replicas}
    found: dict[str, trust.Reported | None] = {}
    timed = False
    for pod in pods:
        if not pod.ip or pod.deleting:
            continue
        answer = answers.get(pod.ordinal)
        if answer is not None and answer.tls is None:
            timed = True
            continue
        name = names.pod(partition.name, pod.ordinal)
        found[name] = trust.SILENT if answer is None else answer.tls
    return found, timed


def _without_content(secret: Body) -> Body:
    """Returns the Secret without its keys and annotations, because observations stay in memory. An
    annotation of `kubectl apply` may contain the keys, too."""
    metadata = {k: v for k, v in secret["metadata"].items() if k != "annotations"}
    kept = {k: v for k, v in secret.items() if k not in ("data", "stringData")}
    return kept | {"metadata": metadata}


def _foreign(live: Body | None, partition: Partition) -> bool:
    return live is not None and is_foreign(live, partition)


def _size(partition: Partition, live: Body | None) -> int:
    """Returns how many pods and claims are read by name."""
    running = int(((live or {}).get("spec") or {}).get("replicas", 0))
    spec = partition.asked
    if spec is None:
        return max(running, partition.status.get("replicas", 0))
    return max(1 if spec.mode == STANDALONE else spec.replicas, running)


def _is_replica(partition: Partition, item: Body) -> bool:
    """Whether a pod that lost its labels is a replica's: it uses the replica's claim, and no other
    controller owns it. The StatefulSet releases a pod that its selector does not find, and adopts
    it again when the labels are back."""
    owner = controller(item)
    if owner is not None and not is_owner(owner, "apps", "StatefulSet", partition.name):
        return False
    claim = f"{names.VOLUME}-{item['metadata']['name']}"
    volumes = (item.get("spec") or {}).get("volumes") or []
    return any(
        (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim for volume in volumes
    )


def _has(metadata: dict[str, Any], selector: dict[str, str]) -> bool:
    labels = metadata.get("labels") or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _pod(partition: Partition, item: Body, selector: dict[str, str]) -> ObservedPod:
    status: dict[str, Any] = item.get("status") or {}
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or []
    )
    metadata = item["metadata"]
    return ObservedPod(
        ordinal=_ordinal(f"{partition.name}-", metadata["name"]),
        ip=status.get("podIP") or "",
        ready=ready,
        deleting="deletionTimestamp" in metadata,
        node=(item.get("spec") or {}).get("nodeName") or "",
        ends=metadata.get("deletionTimestamp") or "",
        uid=metadata["uid"],
        labelled=_has(metadata, selector),
        since=_since(metadata, status),
        revision=(metadata.get("labels") or {}).get(names.LABEL_REVISION, ""),
        broken="" if ready else _why_broken(status),
        version=metadata["resourceVersion"],
    )


STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons with which the container of a sound pod waits."""


def _why_broken(status: dict[str, Any]) -> str:
    """Returns why a replica does not run and can't run as its pod is; "" if it runs or may. A pod
    that no node takes, whose image is missing, or whose container ends again and again is broken. A
    replica that runs is not, however often it was started and whatever becomes of containers that
    others have added: it may be a voter that counts."""
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _reason(condition, "Unschedulable")
    containers = status.get("containerStatuses") or []
    replica = next((c for c in containers if c.get("name") == names.REPLICA_CONTAINER), None)
    if replica is None or "running" in (replica.get("state") or {}):
        return ""
    for container in (*(status.get("initContainerStatuses") or []), replica):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in STARTING:
            # What the container said last is more than how long Kubernetes waits.
            ended = (container.get("lastState") or {}).get("terminated") or {}
            words = ended.get("message") or waiting.get("message")
            return _reason(waiting | {"message": words}, "Waiting")
    return ""


def _since(metadata: dict[str, Any], status: dict[str, Any]) -> str:
    """Returns when a pod became ready or unready the last time; else when it was made."""
    times = [
        c.get("lastTransitionTime") for c in status.get("conditions") or [] if c["type"] == "Ready"
    ]
    return next((str(time) for time in times if time), metadata.get("creationTimestamp") or "")


def _reason(state: dict[str, Any], default: str) -> str:
    words = str(state.get("message") or "").strip().splitlines()
    return f"{state.get('reason') or default}" + (f": {words[-1][:300]}" if words else "")


def _claim(partition: Partition, item: Body, selector: dict[str, str]) -> ObservedClaim:
    metadata, spec = item["metadata"], item.get("spec") or {}
    status = item.get("status") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    return ObservedClaim(
        ordinal=_ordinal(f"{names.VOLUME}-{partition.name}-", metadata["name"]),
        created=metadata["creationTimestamp"],
        cluster_id=(metadata.get("annotations") or {}).get(names.ANNOTATION_CLUSTER_ID, ""),
        uid=metadata["uid"],
        labelled=_has(metadata, selector),
        bound=bool(spec.get("volumeName")),
        size=str(requests.get("storage", "")),
        capacity=str((status.get("capacity") or {}).get("storage", "")),
        storage_class=spec.get("storageClassName") or "",
        deleting="deletionTimestamp" in metadata,
        version=metadata["resourceVersion"],
        volume=spec.get("volumeName") or "",
        owned=any(o.get("uid") == partition.uid for o in metadata.get("ownerReferences") or []),
        given_up=names.ANNOTATION_GIVEN_UP in (metadata.get("annotations") or {}),
        lost=status.get("phase") == "Lost",
        attributes=spec.get("volumeAttributesClassName") or "",
        attributes_now=status.get("currentVolumeAttributesClassName") or "",
        infeasible=(status.get("modifyVolumeStatus") or {}).get("status") == "Infeasible",
    )


def _less(one: Decimal | None, other: Decimal | None) -> bool:
    return one is not None and other is not None and one < other


def _ordinal(prefix: str, name: str) -> int:
    number = name.removeprefix(prefix)
    return int(number) if name.startswith(prefix) and number.isdigit() else -1
