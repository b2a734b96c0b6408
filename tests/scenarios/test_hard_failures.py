"""Failures that other operators are said not to mend, at real replicas: all certificates expired, a
wrong network setting, a learner that is never promoted, a removal that hangs."""

import datetime as dt
from pathlib import Path

import grpc
import pytest
from partition_client import ClientError, TlsRefused
from partition_proto.v1 import replica_admin_pb2 as admin

from dev.ports import free_port
from tests.support.certificates import MountedCertificates
from tests.support.local_group import PARTITION, LocalGroup, assert_equal, eventually
from tests.support.proxy import ResettingProxy


async def test_a_group_whose_certificates_have_all_expired(tmp_path: Path) -> None:
    """Nobody renewed them, and no connection is left. New files alone bring the group back."""
    pki = MountedCertificates(tmp_path / "pki", PARTITION, 3, dt.timedelta(hours=1))
    group = LocalGroup(tmp_path, tls=pki.tls, tls_directories=pki.folders)
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"before", b"1")
        pki.expire()
        for replica in group.replicas:
            replica.kill()
        for replica in group.replicas:
            replica.start()

        async def live() -> bool:
            return all(replica.http("/livez")[0] == 200 for replica in group.replicas)

        await eventually(live, "the replicas run, and wait for certificates")
        async with group.client(deadline_s=20.0) as client:
            with pytest.raises(TlsRefused) as caught:
                await client.get_key(b"before")
        assert caught.value.reason.endswith("CERTIFICATE_EXPIRED")
        processes = [replica.process for replica in group.replicas]
        pki.renew()
        async with group.client() as client:
            assert await _got(client.get_key, b"before") == b"1"
            await client.set_key(b"after", b"2")
        assert [replica.process for replica in group.replicas] == processes
        await assert_equal(group)


async def _got(get_key: object, key: bytes) -> bytes | None:
    async def found() -> bytes | None:
        try:
            return await get_key(key)  # type: ignore[operator,no-any-return]
        except ClientError:
            return None  # the client reads its files, and the group elects, a moment later

    return await eventually(found, "the group serves again")


async def test_a_member_behind_a_wrong_network(tmp_path: Path) -> None:
    """Nobody listens at the address that the third one is known by. It is never promoted, and costs
    the group nothing. Once the network is right it becomes a voter. When it is gone for good, its
    removal does not wait for it."""
    group = LocalGroup(tmp_path)
    last = group.replicas.pop()
    last.advertised_port = free_port()
    network = ResettingProxy(last.advertised_port, last.port)
    async with group:
        await group.bootstrap()
        last.start()
        try:
            async with network:
                joined = await group.admin(last).Join(
                    admin.JoinRequest(lease=group.lease, cluster_id=group.cluster),
                    wait_for_ready=True,
                    timeout=60,
                )
            member = int(joined.member_id)
            learner = admin.AddLearnerRequest(
                lease=group.lease, member_id=member, address=last.address
            )
            await eventually(lambda: group._change("AddLearner", learner), "it is added")
            leader = group.admin(await group.leader())
            promote = admin.PromoteLearnerRequest(lease=group.lease, member_id=member)
            with pytest.raises(grpc.aio.AioRpcError, match=r"sent nothing|state transfer first"):
                await leader.PromoteLearner(promote, timeout=20)
            async with group.client() as client:
                await client.set_key(b"k", b"1")
            async with ResettingProxy(last.advertised_port, last.port):
                await group.finish_adding(member)
                group.replicas.append(last)
                await assert_equal(group)
                group.replicas.pop()
            last.kill()
            remove = admin.RemoveMemberRequest(lease=group.lease, member_id=member)
            await eventually(lambda: group._change("RemoveMember", remove), "it is removed")
            async with group.client() as client:
                await client.set_key(b"k", b"2")
        finally:
            if last.running:
                last.kill()
