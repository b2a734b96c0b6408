"""Two operators, each with an authority of its own, see one Partition."""

import asyncio
import base64
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import UNHURRIED, Operator

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 1, storage: {size: 1Gi}}
"""


class Cluster:
    """A namespace with a Partition, and two with an operator each."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        mark = uuid.uuid4().hex[:8]
        self.place, self.one, self.two = (f"t-{mark}-{name}" for name in ("place", "one", "two"))
        for namespace in (self.place, self.one, self.two):
            server.kubectl("create", "namespace", namespace)
        self.kubectl("apply", "-f", "-", stdin=PARTITION)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        return self.server.kubectl("-n", self.place, *words, stdin=stdin)

    def status(self) -> dict[str, Any]:
        words = ("-n", self.place, "get", "partition", "part")
        found: dict[str, Any] = self.server.kubectl.json(*words).get("status", {})
        return found

    def authority(self, namespace: str) -> str:
        """The certificate of the operator's authority in a namespace; "" if there is none yet."""
        return self._certificate(namespace, "partition-operator-ca", "tls\\.crt")

    def trusted(self) -> str:
        """The authority that the Partition's replicas trust."""
        return self._certificate(self.place, "part-replica-tls", "ca\\.crt")

    def events(self) -> list[str]:
        words = ("get", "events", "-o", "jsonpath={range .items[*]}{.reason}{'\\n'}{end}")
        return self.kubectl(*words).split()

    def _certificate(self, namespace: str, secret: str, key: str) -> str:
        words = ("-n", namespace, "get", "secret", secret, "-o", f"jsonpath={{.data.{key}}}")
        return base64.b64decode(self.server.kubectl(*words, check=False)).decode()


def said(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return await asyncio.to_thread(look)

    return answer


async def test_one_manages_it_and_the_other_says_so(server: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(server)
    log = tmp_path / "operator.log"
    watch = UNHURRIED | {"PARTITION_OPERATOR_WATCH": cluster.place}
    first = Operator(server, cluster.one, log, **watch)
    second = Operator(server, cluster.two, log, **watch)
    try:
        first.start()
        await eventually(said(lambda: bool(cluster.trusted())), "the first one works", 60)
        await eventually(said(lambda: "state" in cluster.status()), "its status is written", 60)
        second.start()
        await eventually(said(lambda: "AnotherOperator" in cluster.events()), "it is said", 60)
        assert cluster.status()["operator"] == cluster.one
        assert cluster.trusted() == cluster.authority(cluster.one)
        assert cluster.authority(cluster.two) not in ("", cluster.trusted())
        # Handed over: the first one says so in its turn, and the second one's certificates stand.
        words = ("annotate", "partition", "part", f"logstore.dev/operator={cluster.two}")
        cluster.kubectl(*words)
        await eventually(
            said(lambda: cluster.authority(cluster.two) in cluster.trusted()),
            "it is taken over",
            60,
        )
        assert cluster.status()["operator"] == cluster.two
        both = said(lambda: cluster.events().count("AnotherOperator") == 2)
        await eventually(both, "the first one says that it leaves it alone", 60)
        assert cluster.authority(cluster.two) in cluster.trusted()
        # Two Secrets, issued by the first one; the second one adds its authority before it issues
        # anything, which is minutes later. Nobody issued anything back.
        assert log.read_text().count("part: IssueCertificate") == 2
        assert log.read_text().count("part: TrustAuthority") == 2
    except BaseException:
        print(log.read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        first.stop()
        second.stop()
