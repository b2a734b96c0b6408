"""The operator's authority in its Secret: made once, followed, and renewed by the operator."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.clients.kube import ApiError
from partition_operator.errors import AuthorityInvalid, Conflict
from partition_operator.resources import rotation
from partition_operator.resources.certificates import (
    Lifetimes,
    authority_secret,
    make_authority,
)
from partition_operator.resources.rotation import AuthorityRecord, RotationStep
from partition_operator.resources.trust import Authority, ends, fingerprint

from tests.support.authority_secrets import FakeKube, merged, opened, partition

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
LIFETIMES = Lifetimes()


async def test_an_authority_that_is_lost_is_written_again() -> None:
    kube = FakeKube()
    keeper = await opened(kube)
    made = keeper.value
    assert (await opened(kube)).value == made
    kube.secret = None
    await keeper.refresh()
    assert keeper.value == made
    assert (await opened(kube)).value == made


@pytest.mark.parametrize("reason", ["AlreadyExists", "Conflict"])
async def test_a_secret_that_cannot_be_made_is_an_error_of_the_api_server(reason: str) -> None:
    """It exists and is gone again at the next look; or a quota was changed meanwhile."""

    class Busy(FakeKube):
        async def create(self, body: dict[str, Any]) -> dict[str, Any]:
            raise ApiError(409, f"POST …: 409 {reason}", "", reason)

    with pytest.raises(
        ApiError, match="deleted meanwhile" if reason == "AlreadyExists" else reason
    ):
        await opened(Busy())


async def test_a_secret_that_another_operator_makes_meanwhile_is_read() -> None:
    theirs = make_authority(NOW)

    class Raced(FakeKube):
        async def create(self, body: dict[str, Any]) -> dict[str, Any]:
            self.secret = authority_secret("system", "partition-operator-ca", theirs)
            raise ApiError(409, "POST …: 409", "", "AlreadyExists")

    assert (await opened(Raced())).value == Authority(theirs)


async def test_an_authority_that_is_replaced_is_followed() -> None:
    kube = FakeKube()
    keeper = await opened(kube)
    old, new = keeper.value.current, make_authority(NOW)
    kube.secret = authority_secret("system", "partition-operator-ca", new)
    kube.partitions = [partition("cart", fingerprint(old), "Settled")]
    await keeper.refresh()
    assert keeper.value == Authority(new, previous=old)
    await keeper.refresh()
    # A restart forgets nothing: the Secret has the previous authority.
    assert keeper.value == (await opened(kube)).value == Authority(new, previous=old)


async def test_an_authority_that_cannot_be_used_is_not_followed() -> None:
    kube = FakeKube()
    keeper = await opened(kube)
    made = keeper.value
    assert kube.secret is not None
    whole = kube.secret["data"]
    kube.secret = kube.secret | {"data": whole | {"tls.key": ""}}
    await keeper.refresh()
    assert keeper.value == made
    assert "system/partition-operator-ca: tls.key is missing or empty" in keeper.problem
    with pytest.raises(AuthorityInvalid, match=r"tls\.key"):
        await opened(kube)
    kube.secret = kube.secret | {"data": whole}
    await keeper.refresh()
    assert (keeper.value, keeper.problem) == (made, "")


# --- renewal ----------------------------------------------------------------------------------


def test_an_authority_is_renewed_at_two_thirds_of_its_life_and_not_before() -> None:
    made = make_authority(NOW)
    record = AuthorityRecord(Authority(made))
    due = ends(made) - LIFETIMES.authority_renew_before
    assert due - NOW == LIFETIMES.authority * 2 / 3
    early = due - dt.timedelta(seconds=1)
    assert rotation.next_step(record, early, LIFETIMES, moved=False) is RotationStep.NOTHING
    assert rotation.next_step(record, due, LIFETIMES, moved=False) is RotationStep.RENEW


def test_an_authority_of_ones_own_is_renewed_only_if_somebody_asks() -> None:
    mine = replace(make_authority(NOW))
    record = AuthorityRecord(Authority(mine))
    due = ends(mine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "is_ours", lambda _: False)
        assert rotation.next_step(record, due, LIFETIMES, moved=False) is RotationStep.NOTHING
        asked = replace(record, asked="2026-12-01")
        assert rotation.next_step(asked, due, LIFETIMES, moved=False) is RotationStep.RENEW


def test_a_renewal_waits_for_the_end_of_the_one_before() -> None:
    old, new = make_authority(NOW), make_authority(NOW)
    record = AuthorityRecord(Authority(new, previous=old), asked="2", followed="1")
    assert rotation.next_step(record, NOW, LIFETIMES, moved=False) is RotationStep.NOTHING
    assert rotation.next_step(record, NOW, LIFETIMES, moved=True) is RotationStep.FORGET
    # What has expired is of no use, whoever still has it.
    assert rotation.next_step(record, ends(old), LIFETIMES, moved=False) is RotationStep.FORGET


@pytest.mark.parametrize(
    ("found", "moved"),
    [
        ([], True),
        (["new Settled"], True),
        (["new Overlap", "new Settled"], True),
        (["new Issuing"], False),
        (["new Settled", "old Settled"], False),
    ],
)
def test_the_previous_authority_is_kept_until_every_partition_has_moved(
    found: list[str], moved: bool
) -> None:
    new = make_authority(NOW)
    marks = {"new": fingerprint(new), "old": "0" * 16}
    items = [
        partition(f"part{n}", marks[words.split()[0]], words.split()[1])
        for n, words in enumerate(found)
    ]
    # One of another operator, and one that has no certificates yet, count for nothing.
    fresh = partition("fresh", "", "")
    del fresh["status"]["clusterID"]
    items += [partition("theirs", marks["old"], "Settled", operator="else"), fresh]
    partitions = [parse(item) for item in items]
    assert rotation.have_moved(partitions, "system", new) is moved


async def test_a_renewal_that_is_asked_for_is_followed_once_and_survives_a_restart() -> None:
    kube = FakeKube()
    keeper = await opened(kube)
    old = keeper.value.current
    assert kube.secret is not None
    ask = {"metadata": {"annotations": {names.ANNOTATION_RENEW: "2026-12-01"}}}
    kube.secret = merged(kube.secret, ask)
    kube.partitions = [partition("cart", fingerprint(old), "Settled")]
    await keeper.refresh()
    new = keeper.value.current
    assert keeper.value == Authority(new, previous=old)
    assert new != old
    for _ in range(2):
        await keeper.refresh()
        keeper = await opened(kube)
        assert keeper.value == Authority(new, previous=old)
    kube.partitions = [partition("cart", fingerprint(new), "Overlap")]
    await keeper.refresh()
    assert keeper.value == (await opened(kube)).value == Authority(new)
    assert set(kube.secret["data"]) == {"tls.crt", "tls.key"}
    writes = kube.merges
    await keeper.refresh()
    assert kube.merges == writes == 2


async def test_two_writers_of_the_secret_meet_and_nothing_is_lost() -> None:
    class Raced(FakeKube):
        async def merge(self, kind: str, live: Any, change: Any) -> dict[str, Any]:
            raise Conflict("PATCH …: 409")

    kube = Raced()
    keeper = await opened(kube, lifetimes=Lifetimes(authority_renew_before=LIFETIMES.authority))
    before = keeper.value
    await keeper.refresh()
    assert (keeper.value, keeper.problem) == (before, "")


async def test_a_renewal_that_may_not_be_written_is_said() -> None:
    """The Role of an earlier chart allows only to read the Secret."""

    class Strict(FakeKube):
        async def merge(self, kind: str, live: Any, change: Any) -> dict[str, Any]:
            raise ApiError(403, "PATCH …: 403 forbidden")

    kube = Strict()
    keeper = await opened(kube, lifetimes=Lifetimes(authority_renew_before=LIFETIMES.authority))
    before = keeper.value
    await keeper.refresh()
    assert keeper.value == before
    assert "403 forbidden" in keeper.problem
