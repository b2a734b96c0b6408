"""An API server of paper."""

from typing import Any, cast

from partition_operator.clients.kube import ApiError, Kube
from partition_operator.errors import Conflict


class Paper(Kube):
    """Keeps objects in their versions. then: what somebody else does after a look at an object."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None), 1)
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: list[dict[str, Any]] = []
        self.then: dict[str, Any] | None = None
        self.error: ApiError | None = None

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        seen = self.found.get((kind, name))
        if self.then is not None:
            self.found[kind, name], self.then = self.then, None
        return seen

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.writes.append(body)
        return body

    async def _request(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        name, wanted = body["metadata"].get("name", path.rpartition("/")[2]), body["metadata"]
        live = next((v for (_, n), v in self.found.items() if n == name), None)
        version = live["metadata"]["resourceVersion"] if live is not None else "1"
        if wanted["resourceVersion"] != version:
            raise Conflict(f"{method} {path}")
        self.writes.append(body)
        return body
