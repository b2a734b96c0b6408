"""The gRPC services over a replica that nobody may ask for anything."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from partition_replica.core.limits import Limits
from partition_replica.transport.admin_service import ReplicaAdminService
from partition_replica.transport.failures import Failures
from partition_replica.transport.inspection_service import InspectionGrpcService
from partition_replica.transport.log_store_service import LogStoreService
from partition_replica.transport.peer_service import PeerService


class Refused(Exception):
    """The call was aborted."""


class Context:
    async def abort(self, code: grpc.StatusCode, text: str, _: object = None) -> None:
        raise Refused(f"{code.name}: {text}")


class Untouched:
    """Whoever asks it for anything fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def failures() -> Failures:
    return Failures(lambda _: None, lambda error: pytest.fail(str(error)))


def service(name: str) -> Any:
    untouched: Any = Untouched()
    match name:
        case "LogStore":
            return LogStoreService(untouched, Limits(), failures())
        case "ReplicaAdmin":
            return ReplicaAdminService(untouched, untouched, untouched, failures())
        case "Peer":
            return PeerService(untouched, Limits(), failures())
        case _:
            return InspectionGrpcService(untouched, failures())


async def call(name: str, method: str, request: Any) -> None:
    found = getattr(service(name), method)(request, Context())
    if hasattr(found, "__aiter__"):
        async for _ in found:
            pass
    else:
        await found


async def stream(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
