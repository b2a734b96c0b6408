"""Clients that observe and can't change anything: for the command `plan`."""

from typing import Any, NoReturn

from partition_operator.api.partition import Partition
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.replica import Replicas
from partition_operator.errors import OperatorError
from partition_operator.reconcile.observed.partition import ObservedPod

READS = "GET"


class WriteRefused(OperatorError):
    """The request would have changed something. It was not sent."""


class ReadOnlyKube(Kube):
    """Sends GET alone. Every other request raises WriteRefused."""

    async def _request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Body:
        if method != READS:
            raise WriteRefused(f"{method} {path.partition('?')[0]}: a dry run changes nothing")
        return await super()._request(method, path, body, query=query, content_type=content_type)


class ReadOnlyReplicas(Replicas):
    """Asks for the status of replicas. Every command raises WriteRefused."""

    async def command(
        self, partition: Partition, pod: ObservedPod, method: str, request: Any
    ) -> NoReturn:
        raise WriteRefused(f"{method} of {partition.name}-{pod.ordinal}: a dry run changes nothing")
