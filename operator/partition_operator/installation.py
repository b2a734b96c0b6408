"""Asks the API server whether an installation works: `python -m partition_operator.installation`.

The pod of `helm test` runs it with the operator's account, so it has the operator's rights. It
changes nothing.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from partition_operator.clients.kube import Body, Kube
from partition_operator.config import LEASE_NAME
from partition_operator.errors import OperatorError, text_of

RENEWED_WITHIN_S = 90.0
"""Seconds that an operator may take to acquire the Lease and to renew it. After a crash the Lease
has to expire first."""
LOOK_S = 1.0
REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource. namespace: "" for all. resource: with its subresource after a `/`.
    name: "" for any."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        what = f"{self.verb} {resource}" + (f" {self.name}" if self.name else "")
        return what + (f" in namespace {self.namespace}" if self.namespace else "")

    def attributes(self) -> dict[str, str]:
        """Returns the attributes of a SelfSubjectAccessReview."""
        resource, _, subresource = self.resource.partition("/")
        return {
            "namespace": self.namespace,
            "group": self.group,
            "resource": resource,
            "subresource": subresource,
            "verb": self.verb,
            "name": self.name,
        }


@dataclass(frozen=True, slots=True)
class Installation:
    """namespace: the operator's own. watch: its namespaces, "" for all. rights: what the chart
    grants it."""

    namespace: str
    watch: tuple[str, ...]
    rights: tuple[Right, ...]


class Client(Protocol):
    """The part of Kube that is used here."""

    async def probe(self, namespace: str) -> None: ...

    async def may(self, attributes: Mapping[str, str]) -> bool: ...

    async def get(self, kind: str, namespace: str, name: str) -> Body | None: ...


def parse(environment: Mapping[str, str]) -> Installation:
    """Reads what the chart sets. Raises OperatorError with the name of the variable."""
    namespace = environment.get("PARTITION_OPERATOR_NAMESPACE", "")
    if not namespace:
        raise OperatorError("PARTITION_OPERATOR_NAMESPACE is not set: set it, as the chart does")
    watched = environment.get("PARTITION_OPERATOR_WATCH", "").split(",")
    watch = tuple(filter(None, (name.strip() for name in watched))) or ("",)
    granted = _rules(environment, "PARTITION_OPERATOR_RULES")
    own = _rules(environment, "PARTITION_OPERATOR_OWN_RULES")
    rights = [right for place in watch for right in _rights(granted, place)]
    return Installation(namespace, watch, (*rights, *_rights(own, namespace)))


def _rules(environment: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(environment.get(name, ""))
    except ValueError as error:
        raise OperatorError(f"{name}: rules of a Role in JSON are allowed: {error}") from error
    if not isinstance(found, list):
        raise OperatorError(f"{name}: a list of a Role's rules in JSON is allowed")
    return found


def _rights(rules: Iterable[dict[str, Any]], namespace: str) -> Iterable[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or ("",):
                        yield Right(namespace, group, resource, verb, name)


async def check_resources(kube: Client, installed: Installation) -> str:
    """Checks that Partitions and PartitionSnapshots are served and can be listed. Returns what is
    good. Raises OperatorError."""
    for namespace in installed.watch:
        await kube.probe(namespace)
    return "Partitions and PartitionSnapshots are served"


async def check_rights(kube: Client, installed: Installation) -> str:
    """Checks that the account has the rights. Returns what is good. Raises OperatorError."""
    missing = [str(right) for right in installed.rights if not await kube.may(right.attributes())]
    if missing:
        raise OperatorError(
            f"the operator's account lacks rights: {'; '.join(missing)}. Install the chart's Roles "
            "and bindings of this version again with `helm upgrade`"
        )
    return f"the operator has its {len(installed.rights)} rights"


async def check_lease(
    kube: Client,
    installed: Installation,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Waits until an operator renews the Lease. Returns what is good. Raises OperatorError after
    RENEWED_WITHIN_S."""
    until, seen = clock() + RENEWED_WITHIN_S, None
    while True:
        lease = await kube.get("Lease", installed.namespace, LEASE_NAME)
        spec = (lease or {}).get("spec") or {}
        found = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if found[0] and seen is not None and found[0] == seen[0] and found[1] != seen[1]:
            return f"{found[0]} holds the Lease and renews it"
        if clock() > until:
            state = f"{found[0]} holds it since {found[1]}" if found[0] else "nobody holds it"
            raise OperatorError(
                f"no operator has renewed the Lease {LEASE_NAME} in namespace "
                f"{installed.namespace} within {RENEWED_WITHIN_S:.0f} s: {state}. Look at the "
                "operator's pods and their logs"
            )
        seen = found
        await sleep(LOOK_S)


async def check(kube: Client, installed: Installation) -> int:
    """Prints a line for each check. Returns how many have failed."""
    failed = 0
    for look in (check_resources, check_rights, check_lease):
        try:
            print("ok:", await look(kube, installed), flush=True)
        except OperatorError as error:
            failed += 1
            print("FAILED:", text_of(error), flush=True)
    return failed


async def _run(installed: Installation) -> int:
    kube = await Kube.connect(REQUEST_TIMEOUT_S)
    try:
        return await check(kube, installed)
    finally:
        await kube.close()


def main() -> None:
    """Exit code 1 if a check has failed, 2 if the environment is wrong."""
    try:
        installed = parse(os.environ)
    except OperatorError as error:
        print(f"FATAL: {text_of(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if asyncio.run(_run(installed)) else 0)


if __name__ == "__main__":
    main()
