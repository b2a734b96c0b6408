"""Deleting what may be deleted only as it was seen."""

from typing import Any, cast

import pytest
from partition_operator.clients.kube import ApiError, Body, Kube


class Paper(Kube):
    def __init__(self, status: int = 0) -> None:
        super().__init__(cast("Any", None), 1)
        self.status = status
        self.bodies: list[Body | None] = []

    async def _request(self, method: str, path: str, body: Body | None = None, **more: Any) -> Body:
        self.bodies.append(body)
        if self.status:
            raise ApiError(self.status, "no")
        return {}


@pytest.mark.parametrize("status", [0, 404, 409])
async def test_another_version_or_object_stays(status: int) -> None:
    kube = Paper(status)
    await kube.delete_unchanged("PersistentVolumeClaim", "ns", "x", "u1", "7")
    (body,) = kube.bodies
    assert body is not None
    assert body["preconditions"] == {"uid": "u1", "resourceVersion": "7"}


async def test_other_refusals_are_raised() -> None:
    with pytest.raises(ApiError):
        await Paper(403).delete_unchanged("PersistentVolumeClaim", "ns", "x", "u1", "7")
