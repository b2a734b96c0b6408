"""The rights that the chart grants: each of them is used while the other tests of this folder run,
with operators that have these rights and no others."""

import asyncio
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import UNHURRIED, Operator
from tests.support.rights import Right, granted, used

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 1, storage: {size: 1Gi}}
"""
UNUSED: dict[Right, str] = {}
"""Rights that no test here uses, each with the reason why the chart grants it."""


async def test_an_operator_of_all_namespaces(server: ApiServer, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex[:8]
    home, place = f"t-{mark}-home", f"t-{mark}-place"
    for namespace in (home, place):
        server.kubectl("create", "namespace", namespace)
    server.kubectl("-n", place, "apply", "-f", "-", stdin=PARTITION)
    log = tmp_path / "operator.log"
    operator = Operator(server, home, log, **UNHURRIED | {"PARTITION_OPERATOR_WATCH": ""})

    async def seen() -> bool:
        words = ("-n", place, "get", "partition", "part", "-o", "jsonpath={.status.operator}")
        return await asyncio.to_thread(server.kubectl, *words) == home

    try:
        operator.start()
        await eventually(seen, "a Partition of another namespace is looked at", 60)
    except BaseException:
        print(log.read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()
    text = log.read_text()
    assert "forbidden" not in text.lower(), text


def test_every_right_is_used(server: ApiServer) -> None:
    """The last test of the folder (conftest.py)."""
    found = granted() - used(server.audit_log)
    assert found == UNUSED.keys(), sorted(found ^ UNUSED.keys())
