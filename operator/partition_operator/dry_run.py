"""`partition-operator plan`: says what the operator would do for one Partition, and does nothing.

It observes as a turn does, with clients that refuse to write. It takes no Lease. It runs in the
operator's pod, because only the operator's authority opens connections to the replicas.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.kube import Kube
from partition_operator.clients.nodes import NodeBook, facts
from partition_operator.clients.observer import Observer
from partition_operator.clients.read_only import ReadOnlyKube, ReadOnlyReplicas
from partition_operator.config import OperatorConfig
from partition_operator.errors import OperatorError, text_of
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import ownership
from partition_operator.reconcile.partition.forecast import Forecast, forecast
from partition_operator.reconcile.partition.plan import Plan, plan

EXIT_FAILED = 1
COMMAND = "plan"
NEWS_IF_TRUE = frozenset({"Fenced", "Hibernated", "Paused", "Progressing"})
"""Conditions that are False when all is as usual."""

NOT_KNOWN = (
    "Not known here: writes that the API server or a replica has refused to the running operator. "
    "It retries those after a pause."
)


class NotFound(OperatorError):
    """There is no such Partition."""


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="partition-operator",
        description="Runs the operator, with settings from the environment; or plans, and does "
        "nothing.",
    )
    commands = main.add_subparsers(dest="command")
    sub = commands.add_parser(COMMAND, help="say what the operator would do for one Partition")
    sub.add_argument("name", help="the Partition")
    sub.add_argument("--namespace", "-n", required=True, help="its namespace")
    sub.add_argument("--json", action="store_true", help="print JSON")
    return main


def run(options: argparse.Namespace, config: OperatorConfig) -> int:
    """Prints the plan; returns the exit code."""
    try:
        found = asyncio.run(_look(config, options.namespace, options.name))
    except OperatorError as error:
        sys.stderr.write(f"partition-operator: {text_of(error)}\n")
        return EXIT_FAILED
    sys.stdout.write((json.dumps(found) if options.json else text(found)) + "\n")
    return 0


async def _look(config: OperatorConfig, namespace: str, name: str) -> dict[str, Any]:
    kube = await ReadOnlyKube.connect(config.request_timeout_s)
    authority = AuthorityKeeper(kube, config)
    # A replica would refuse a command with token 0, if this process could send one.
    replicas = ReadOnlyReplicas(
        authority, FencingToken("dry run", 0), config.replica_timeout_s, config.lifetimes
    )
    try:
        await authority.open()
        nodes = await _nodes(kube) if config.watch_nodes else None
        observer = Observer(
            kube,
            replicas,
            authority,
            config.lifetimes,
            nodes,
            cluster_domain=config.cluster_domain,
        )
        partition = await observer.partition(namespace, name)
        if partition is None:
            raise NotFound(f"there is no Partition {name} in namespace {namespace}")
        where = f"{namespace}/{name}"
        if partition.deleting:
            return rendered(where, [], "It is being deleted: the operator leaves it alone.")
        if ownership.is_foreign(partition, config.namespace):
            said = ownership.said(partition, config.namespace).message
            return rendered(where, [], f"Nothing: {said}")
        observed = await observer.observe(partition)
    finally:
        await replicas.close()
        await kube.close()

    def decide(seen: ObservedPartition) -> Plan:
        return plan(
            seen,
            config.image,
            backfill_stalled_s=config.backfill_stalled_s,
            image_auto_update=config.image_auto_update,
        )

    return described(where, forecast(observed, decide))


async def _nodes(kube: Kube) -> NodeBook:
    """Returns what the running operator's watch knows."""
    book = NodeBook(lambda _: None)
    for node in await kube.list_labelled("Node", "", {}):
        book.note(node["metadata"]["name"], facts(node.get("spec") or {}))
    return book


def described(where: str, found: Forecast) -> dict[str, Any]:
    """Returns the forecast as JSON. Pure."""
    status = found.first.status
    told = [
        f"{one['type']}: {one['message']}"
        for one in status.get("conditions", [])
        if _matters(one["type"], one["status"])
    ]
    steps = [{"action": step.action, "text": step.text} for step in found.steps]
    events = [f"{event.kind} {event.reason}: {event.message}" for event in found.first.events]
    return rendered(
        where, steps, found.then, state=status.get("state", ""), attention=told, events=events
    )


def rendered(where: str, steps: Sequence[dict[str, str]], then: str, **more: Any) -> dict[str, Any]:
    empty = {"state": "", "attention": [], "events": []}
    return {"partition": where, "steps": list(steps), "then": then} | empty | more


def _matters(kind: str, status: str) -> bool:
    """Whether a condition says what is missing or in progress."""
    return status == "True" if kind in NEWS_IF_TRUE else status != "True"


def text(found: dict[str, Any]) -> str:
    """Returns the plan for people. Pure."""
    state = f", STATUS {found['state']}" if found["state"] else ""
    lines = [f"Partition {found['partition']}{state}"]
    steps = found["steps"]
    lines.append("The operator would now:" if steps else "The operator would do nothing now.")
    lines += [f"  {n}. {step['text']}" for n, step in enumerate(steps, 1)]
    lines.append(found["then"])
    for title, key in (
        ("Needs attention, or is in progress:", "attention"),
        ("New events:", "events"),
    ):
        if found[key]:
            lines += ["", title, *(f"  {line}" for line in found[key])]
    return "\n".join([*lines, "", "Nothing was changed.", NOT_KNOWN])
