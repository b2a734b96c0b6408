"""Deleting by name may not hit another object that was made since."""

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


async def test_the_object_that_was_seen_is_deleted_and_no_other() -> None:
    kube = Paper()
    await kube.delete("Pod", "ns", "x", "u1")
    (body,) = kube.bodies
    assert body is not None
    assert body["preconditions"] == {"uid": "u1"}


@pytest.mark.parametrize(("status", "uid"), [(404, ""), (404, "u1"), (409, "u1")])
async def test_one_that_is_gone_already_is_fine(status: int, uid: str) -> None:
    await Paper(status).delete("Pod", "ns", "x", uid)


async def test_other_refusals_are_raised() -> None:
    for status, uid in ((409, ""), (403, "u1")):
        with pytest.raises(ApiError):
            await Paper(status).delete("Pod", "ns", "x", uid)
