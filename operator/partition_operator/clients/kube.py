"""The client of the API server: dicts in and out, server-side apply for every write.

Another program may create an object with our name at any time. So each write identifies its object:
either it must not exist yet, or it must have the uid and the version that were read.
"""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from partition_operator.api import names
from partition_operator.errors import Conflict, EvictionRefused, OperatorError

PATHS = {
    "Partition": f"/apis/{names.API_VERSION}/namespaces/{{namespace}}/{names.PLURAL}",
    names.SNAPSHOT_KIND: (
        f"/apis/{names.API_VERSION}/namespaces/{{namespace}}/{names.SNAPSHOT_PLURAL}"
    ),
    "StatefulSet": "/apis/apps/v1/namespaces/{namespace}/statefulsets",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Node": "/api/v1/nodes",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
    "VolumeAttributesClass": "/apis/storage.k8s.io/v1/volumeattributesclasses",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Certificate": "/apis/cert-manager.io/v1/namespaces/{namespace}/certificates",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
}

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

ABSENT = "1"
"""A resourceVersion that no object has: the first write to etcd makes revision 2. Server-side apply
with it creates an object, and is refused if one of this name exists. A POST would do the same, but
its fields count as updated, not as applied, so a later apply would never remove them."""

REFUSED = frozenset({400, 403, 405, 413, 422})
"""HTTP statuses with which the API server refuses an object because of a quota, a LimitRange, a
webhook, validation or RBAC. It refuses the same object again until a user changes something."""

Body = dict[str, Any]


class ApiError(OperatorError):
    """An error of the API server. status: the HTTP status; 0 if it did not answer. words: its
    message. reason: its reason word, "" if it gave none."""

    def __init__(self, status: int, message: str, words: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.words = words or message
        self.reason = reason

    @property
    def exists(self) -> bool:
        """Whether a creation failed because an object has the name. Other errors have the same
        status, such as a concurrent change of a quota."""
        return self.status == HTTPStatus.CONFLICT and self.reason == "AlreadyExists"

    @property
    def refused(self) -> bool:
        """Whether the API server refuses this object, in contrast to a failure to answer. It
        reports a webhook that does not answer as an internal error."""
        if self.status == HTTPStatus.CONFLICT:
            return not self.exists
        failed = self.status == HTTPStatus.INTERNAL_SERVER_ERROR
        return self.status in REFUSED or (failed and "webhook" in self.words)


class Kube:
    """A client with one connection pool. The caller closes it."""

    def __init__(
        self,
        api: client.ApiClient,
        timeout_s: float,
        requested: Callable[[str, int], None] = lambda _method, _status: None,
    ) -> None:
        """requested: called after each request with its method and the answer's status, 0 for
        none."""
        self._api = api
        self._timeout_s = timeout_s
        self._requested = requested

    @classmethod
    async def connect(
        cls, timeout_s: float, requested: Callable[[str, int], None] = lambda _method, _status: None
    ) -> "Kube":
        """Connects with the pod's service account in a cluster, otherwise with KUBECONFIG."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        except config.ConfigException:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        # Like kopf's watches: the environment's proxy is not for the API server.
        configuration.client_session_kwargs = {"trust_env": False}
        return cls(client.ApiClient(configuration), timeout_s, requested)

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """namespace: "" for a kind that has none. Returns None if the object does not exist. Raises
        ApiError."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list_labelled(
        self, kind: str, namespace: str, selector: dict[str, str]
    ) -> list[Body]:
        """Lists the objects with these labels. An empty selector lists all in the namespace."""
        query = {"labelSelector": ",".join(f"{k}={v}" for k, v in selector.items())}
        found = await self._request("GET", _path(kind, namespace), query=query)
        items = cast("list[Body]", found.get("items", []))
        # The items of a list have no kind.
        return [{"kind": kind} | item for item in items]

    async def list_everything(self, plural: str, namespace: str) -> list[Body]:
        """Lists our objects of one kind in a namespace, or, for "", in all. Raises ApiError."""
        place = f"/namespaces/{quote(namespace)}" if namespace else ""
        found = await self._request("GET", f"/apis/{names.API_VERSION}{place}/{plural}")
        return cast("list[Body]", found.get("items", []))

    async def events_about(self, namespace: str, uid: str, reason: str) -> list[Body]:
        """Lists the events of one reason about the object of this uid."""
        query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"}
        found = await self._request("GET", _path("Event", namespace), query=query)
        return cast("list[Body]", found.get("items", []))

    async def apply(self, body: Body, live: Body | None) -> Body:
        """Server-side apply as our field manager, by force. live: the object as read; None to
        create it. Raises Conflict if the object has changed since, or if one of this name
        exists."""
        metadata = body["metadata"]
        if live is None:
            which = {"resourceVersion": ABSENT}
        else:
            which = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
        return await self._apply(body | {"metadata": metadata | which}, names.FIELD_MANAGER)

    async def _apply(self, body: Body, manager: str, subresource: str = "") -> Body:
        metadata = body["metadata"]
        path = _path(body["kind"], metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": manager, "force": "true"}
        try:
            return await self._request("PATCH", path, body, query=query, content_type=APPLY)
        except ApiError as error:
            if body["kind"] != "Certificate" or error.status != HTTPStatus.NOT_FOUND:
                raise
            # Like a refusal: only a user can change that.
            text = f"no {body['apiVersion']} here: install cert-manager, or use spec.tls.secretRef"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, text) from error

    async def create(self, body: Body) -> Body:
        metadata = body["metadata"]
        return await self._request("POST", _path(body["kind"], metadata["namespace"]), body)

    async def probe(self, namespace: str) -> None:
        """Raises ApiError if our objects can't be listed in a namespace, or, for "", anywhere."""
        place = f"/namespaces/{quote(namespace)}" if namespace else ""
        for plural in (names.PLURAL, names.SNAPSHOT_PLURAL):
            path = f"/apis/{names.API_VERSION}{place}/{plural}"
            try:
                await self._request("GET", path, query={"limit": "1"})
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                crd = f"{plural}.{names.GROUP}"
                raise ApiError(
                    404, f"CustomResourceDefinition {crd} is missing: install the chart's CRDs"
                ) from error

    async def probe_nodes(self) -> None:
        """Raises ApiError if nodes can't be listed."""
        await self._request("GET", PATHS["Node"], query={"limit": "1"})

    async def may(self, attributes: Mapping[str, str]) -> bool:
        """Whether our account has a right: the resourceAttributes of a SelfSubjectAccessReview.
        Raises ApiError."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": dict(attributes)},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        found = await self._request("POST", path, body)
        return bool(found["status"].get("allowed"))

    async def delete_unchanged(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        version: str,
        *,
        orphan: bool = False,
    ) -> None:
        """Deletes the object at the version that was read. Does nothing if it has changed since or
        does not exist. orphan: the objects that it owns stay."""
        which = {"uid": uid, "resourceVersion": version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": which}
        if orphan:
            body["propagationPolicy"] = "Orphan"
        try:
            await self._request("DELETE", _path(kind, namespace, name), body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def replace(self, body: Body) -> Body:
        """Replaces an object. Raises ApiError 409 if resourceVersion is not the current one."""
        metadata = body["metadata"]
        path = _path(body["kind"], metadata["namespace"], metadata["name"])
        return await self._request("PUT", path, body)

    async def merge(self, kind: str, live: Body, change: Body) -> Body:
        """Merges a change into an object. live: as read. Raises Conflict if it has changed
        since."""
        seen = live["metadata"]
        which = {key: seen[key] for key in ("uid", "resourceVersion")}
        body = change | {"metadata": which | (change.get("metadata") or {})}
        path = _path(kind, seen.get("namespace", ""), seen["name"])
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("PATCH", path, body, query=query, content_type=MERGE)

    async def merge_status(self, namespace: str, name: str, body: Body) -> Body:
        """Merges a change into a Partition's status. Raises Conflict if the body contains another
        resource version than the current one."""
        path = _path("Partition", namespace, name, "status")
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("PATCH", path, body, query=query, content_type=MERGE)

    async def apply_status(
        self, body: Body, status: Mapping[str, object], *, manager: str = names.FIELD_MANAGER
    ) -> Body:
        """Applies the status of an object that was read as `body`. Raises Conflict if it has
        changed since, so a deposed operator's late write can't undo a newer one."""
        metadata = body["metadata"]
        kept = ("name", "namespace", "resourceVersion")
        wanted = {
            "apiVersion": names.API_VERSION,
            "kind": body["kind"],
            "metadata": {key: metadata[key] for key in kept},
            "status": status,
        }
        return await self._apply(wanted, manager, "status")

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Deletes the object with this uid. Does nothing if it does not exist; another object of
        its name stays."""
        assert uid, "a name alone may be that of another owner's object"
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", _path(kind, namespace, name), body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def evict(self, namespace: str, name: str, uid: str) -> None:
        """Evicts the pod with this uid. Does nothing if it does not exist; another pod of its name
        stays. Raises EvictionRefused if a PodDisruptionBudget protects it now, if several do, or if
        the operator may not evict pods."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        try:
            await self._request("POST", _path("Pod", namespace, name, "eviction"), body)
        except ApiError as error:
            # 500: several budgets select the pod.
            if error.status in (403, 429, 500):
                raise EvictionRefused(error.words) from error
            if error.status not in (404, 409):
                raise

    async def _request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Body:
        if query:
            path += "?" + urlencode(query)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        serialized = await self._api.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = await self._api.call_api(
                serialized[0],
                serialized[1],
                dict(serialized[2] or {}),
                serialized[3],
                _request_timeout=self._timeout_s,
            )
            data: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._requested(method, 0)
            raise ApiError(0, f"{method} {path}: no answer: {error!r}") from error
        self._requested(method, response.status)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _error(method, path, response.status, data)
        return cast("Body", json.loads(data)) if data else {}


def _path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    path = PATHS[kind].format(namespace=quote(namespace))
    for part in (name, subresource):
        if part:
            path += "/" + quote(part)
    return path


def _error(method: str, path: str, status: int, data: bytes) -> OperatorError:
    try:
        answer = json.loads(data)
        message, reason = str(answer.get("message", "")), str(answer.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = data[:200].decode(errors="replace"), ""
    text = f"{method} {path.partition('?')[0]}: {status} {message}"
    if status == HTTPStatus.CONFLICT and method == "PATCH":
        return Conflict(text)
    return ApiError(status, text, message, reason)
