"""The operator as a process beside an API server: started, armed with a failpoint, killed."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

from partition_operator.assembly import EXIT_DEPOSED
from partition_operator.failpoints import ENVIRONMENT, EXIT_CODE

from dev.ports import free_port
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually

UNHURRIED = {"PARTITION_OPERATOR_LEASE_SECONDS": "60"}
"""For an operator that nobody takes over from: a busy machine does not cost it its lease."""


class Operator:
    """One operator process for one namespace, with the rights that the chart grants. settings: more
    of its environment."""

    def __init__(self, server: ApiServer, namespace: str, log: Path, **settings: str) -> None:
        self._environment = os.environ | {
            "KUBECONFIG": str(server.operator(namespace)),
            "PARTITION_OPERATOR_NAMESPACE": namespace,
            "PARTITION_OPERATOR_WATCH": namespace,
            "PARTITION_OPERATOR_WATCH_NODES": "true",
            "PARTITION_OPERATOR_IMAGE": "image:1",
            "PARTITION_OPERATOR_POLL_SECONDS": "1",
            "PARTITION_OPERATOR_LEASE_SECONDS": "2",
            **settings,
        }
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.http_port = 0
        """Of the last start: probes and metrics."""

    def set(self, **settings: str) -> None:
        """Changes its environment from the next start on."""
        self._environment |= settings

    def start(self, *failpoints: str) -> None:
        """failpoints: the process ends at the first of them that it reaches."""
        self.http_port = free_port()
        environment = self._environment | {
            ENVIRONMENT: ",".join(failpoints),
            "PARTITION_OPERATOR_HTTP_PORT": str(self.http_port),
            # Each process is a new holder of the lease, as a new pod is.
            "PARTITION_OPERATOR_IDENTITY": uuid.uuid4().hex,
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partition_operator"],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def revive(self, *failpoints: str) -> None:
        """Starts it again where it lost its lease on a busy machine, as a Deployment does."""
        if self.process is not None and self.process.poll() == EXIT_DEPOSED:
            self.start(*failpoints)

    async def ended_at(self, *failpoints: str) -> str:
        """The failpoint at which the process that was started with these has ended."""

        async def ended() -> bool:
            self.revive(*failpoints)
            assert self.process is not None
            return self.process.poll() is not None

        await eventually(ended, f"the operator reaches one of {failpoints}", 120)
        assert self.process is not None
        assert self.process.returncode == EXIT_CODE
        last = self._log.read_text().splitlines()[-1]
        reached = [name for name in failpoints if last == f"failpoint {name} reached: ending"]
        assert len(reached) == 1, last
        return reached[0]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
