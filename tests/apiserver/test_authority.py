"""The operator's authority changes: lost with the operator, or renewed by it. The group serves
through the change, the status says what is going on, and a restarted replica is let in."""

import asyncio
import itertools
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from partition_client import AsyncClient, Tls
from partition_operator.api import names
from partition_operator.failpoints import CERTIFICATES, EXIT_CODE

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.partition_watch import AUTHORITY, PARTITION, SETTINGS, Seen
from tests.support.stand_in_nodes import StandInNodes

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]
FAILPOINT = "TrustAuthority"
RENEWAL = ("authority.renewed", "authority.forgotten")


def test_the_failpoints_are_tried() -> None:
    assert {FAILPOINT, *RENEWAL} == CERTIFICATES


async def keep_writing(client: AsyncClient, written: list[bytes]) -> None:
    for number in itertools.count():
        value = str(number).encode()
        await client.set_key(b"count", value)
        written.append(value)
        await asyncio.sleep(0.02)


async def test_an_authority_that_the_operator_renews(server: ApiServer, tmp_path: Path) -> None:
    """Under load, with the operator ended behind each step: no call fails, and in the end nobody
    trusts the old authority."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, tmp_path / "operator.log", **SETTINGS)
    seen = Seen(server, namespace, tmp_path / "client", operator)
    try:
        async with (
            StandInNodes(server.kubectl, namespace, tmp_path / "nodes", refresh=True) as nodes,
            AsyncExitStack() as stack,
        ):
            server.kubectl("-n", namespace, "apply", "-f", "-", stdin=PARTITION)
            operator.start()
            await seen.comes("Ready", "Issued")
            old = seen.secret(AUTHORITY)
            tls = Tls.in_directory(seen.bring(), names.host("part", namespace, 0))
            endpoints = [nodes.endpoint(n) for n in range(3)]
            client = AsyncClient(endpoints, tls, deadline_s=20.0, follow_hints=False)
            await stack.enter_async_context(client)
            written: list[bytes] = []
            writing = asyncio.create_task(keep_writing(client, written))
            stack.callback(writing.cancel)
            operator.stop()
            mark = f"{names.ANNOTATION_RENEW}=please"
            server.kubectl("-n", namespace, "annotate", "secret", AUTHORITY, mark)
            for failpoint in RENEWAL:
                operator.start(failpoint)

                async def ended(failpoint: str = failpoint) -> bool:
                    await asyncio.to_thread(seen.bring)
                    operator.revive(failpoint)
                    assert operator.process is not None
                    return operator.process.poll() == EXIT_CODE

                await eventually(ended, f"the operator has reached {failpoint}", 120)
            operator.start()
            await seen.comes("Ready", "Issued")
            new = seen.secret(AUTHORITY)
            assert new["tls.crt"] != old["tls.crt"]
            assert set(new) == {"tls.crt", "tls.key"}
            for name in ("part-client-tls", "part-replica-tls"):
                assert seen.secret(name)["ca.crt"] == new["tls.crt"]
            # Every connection is made anew, with the new certificates alone.
            nodes.kill("part-1")
            last = len(written)

            async def further() -> bool:
                return len(written) > last + 20

            await eventually(further, "writes go on")
            assert not writing.done(), writing.exception()
            assert nodes.restarts.keys() <= {"part-1"}
            assert ("Ready", "AuthorityOverlap") in seen.words, seen.words
    except BaseException:
        print(seen.words, (tmp_path / "operator.log").read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()


async def test_an_authority_that_is_lost(server: ApiServer, tmp_path: Path) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, tmp_path / "operator.log", **SETTINGS)
    seen = Seen(server, namespace, tmp_path / "client", operator)

    async def died() -> bool:
        assert operator.process is not None
        return operator.process.poll() is not None

    try:
        async with (
            StandInNodes(server.kubectl, namespace, tmp_path / "nodes", refresh=True) as nodes,
            AsyncExitStack() as stack,
        ):
            server.kubectl("-n", namespace, "apply", "-f", "-", stdin=PARTITION)
            operator.start()
            await seen.comes("Ready", "Issued")
            old = seen.secret(AUTHORITY)
            tls = Tls.in_directory(seen.bring(), names.host("part", namespace, 0))
            endpoints = [nodes.endpoint(n) for n in range(3)]
            client = AsyncClient(endpoints, tls, deadline_s=30.0, follow_hints=False)
            await stack.enter_async_context(client)
            await client.set_key(b"k", b"before")
            operator.stop()
            server.kubectl("-n", namespace, "delete", "secret", AUTHORITY)
            operator.start(FAILPOINT)
            await eventually(died, "the operator trusts the new authority", 120)
            assert operator.process is not None
            assert operator.process.returncode == EXIT_CODE
            operator.start()
            await seen.comes("Ready", "AuthorityChanging")
            nodes.kill("part-1")
            await client.set_key(b"k", b"during")
            await seen.comes("Ready", "Issued")
            new = seen.secret(AUTHORITY)
            assert new["tls.crt"] != old["tls.crt"]
            for name in ("part-client-tls", "part-replica-tls"):
                assert seen.secret(name)["ca.crt"] == new["tls.crt"]
            nodes.kill("part-2")

            async def restarted() -> bool:
                return nodes.restarts.get("part-2", 0) > 0

            await eventually(restarted, "part-2 is started again")
            await seen.comes("Ready", "Issued")
            await client.set_key(b"k", b"after")
            assert await client.get_key(b"k") == b"after"
            assert "NoLeader" not in {state for state, _ in seen.words}, seen.words
    except BaseException:
        print(seen.words, (tmp_path / "operator.log").read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()
