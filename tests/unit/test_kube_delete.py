"""Deleting by name may not hit another object that was made since."""

import json
from typing import Any, cast

import pytest
from partition_operator.clients.kube import ApiError, Body, Kube, _error


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


async def test_without_a_uid_nothing_is_deleted() -> None:
    kube = Paper()
    with pytest.raises(AssertionError):
        await kube.delete("Pod", "ns", "x", "")
    assert not kube.bodies


@pytest.mark.parametrize("status", [404, 409])
async def test_one_that_is_gone_already_is_fine(status: int) -> None:
    await Paper(status).delete("Pod", "ns", "x", "u1")


async def test_other_refusals_are_raised() -> None:
    with pytest.raises(ApiError):
        await Paper(403).delete("Pod", "ns", "x", "u1")


@pytest.mark.parametrize("status", [0, 404, 409])
async def test_another_version_or_object_stays(status: int) -> None:
    kube = Paper(status)
    await kube.delete_unchanged("PersistentVolumeClaim", "ns", "x", "u1", "7")
    (body,) = kube.bodies
    assert body is not None
    assert body["preconditions"] == {"uid": "u1", "resourceVersion": "7"}


async def test_other_refusals_of_an_unchanged_one_are_raised() -> None:
    with pytest.raises(ApiError):
        await Paper(403).delete_unchanged("PersistentVolumeClaim", "ns", "x", "u1", "7")


@pytest.mark.parametrize(
    ("status", "reason", "exists", "refused"),
    [
        (409, "AlreadyExists", True, False),
        # Of a quota that somebody else changed at the same moment.
        (409, "Conflict", False, True),
        (409, "", False, True),
        (403, "Forbidden", False, True),
        (503, "ServiceUnavailable", False, False),
    ],
)
def test_an_error_keeps_the_api_servers_reason(
    status: int, reason: str, *, exists: bool, refused: bool
) -> None:
    answer = json.dumps({"message": "no", "reason": reason}).encode()
    error = _error("POST", "/api/v1/pods", status, answer)
    assert isinstance(error, ApiError)
    assert (error.status, error.reason, error.words) == (status, reason, "no")
    assert (error.exists, error.refused) == (exists, refused)


@pytest.mark.parametrize("answer", [b"<html>", b"[]"])
def test_an_answer_that_is_no_status_has_no_reason(answer: bytes) -> None:
    error = _error("POST", "/api/v1/pods", 409, answer)
    assert isinstance(error, ApiError)
    assert (error.reason, error.exists) == ("", False)
