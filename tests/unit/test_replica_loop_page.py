"""docs/replica_loop.md: its code runs, as a Raft group and as a standalone log."""

import re
from typing import Any

import pytest
from partition_replica.core.model import Configuration, LogEntry
from partition_replica.ids import LSN, ClusterID, MemberID
from partition_replica.storage.memory_log import MemoryLog

from dev.cluster.layout import ROOT

PAGE = (ROOT / "docs" / "replica_loop.md").read_text()
START, FEED, LOOP = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MEMBERS = (MemberID(1), MemberID(2), MemberID(3))


def run(code: str, **names: Any) -> dict[str, Any]:
    """What `code` defines, beside `names`."""
    exec(code, names)  # the page's own code
    return names


def test_its_loop_replicates() -> None:
    engines, logs = {}, {}
    for member in MEMBERS:
        logs[member] = MemoryLog(member, lambda _: [])
        logs[member].bootstrap(ClusterID("c"), Configuration(MEMBERS))
        logs[member].initialize(LSN(1))
        engines[member] = run(START, log=logs[member], applied=LSN(1))["engine"]
    run_once = run(LOOP)["run_once"]
    inboxes: dict[int, list[Any]] = {member: [] for member in MEMBERS}
    applied: dict[int, list[bytes]] = {member: [] for member in MEMBERS}

    def send(messages: list[Any]) -> None:
        for message in messages:
            inboxes[message.to].append(message)

    def step(member: MemberID) -> None:
        received, inboxes[member] = inboxes[member], []
        for message in received:
            engines[member].step(message)
        apply = applied[member].append
        run_once(engines[member], logs[member], send, lambda entry: apply(entry.data))

    leader = engines[MEMBERS[0]]
    leader.campaign()
    for round_number in range(12):
        for member in MEMBERS:
            step(member)
        if round_number == 4:
            assert leader.status().role == "leader"
            leader.tick()
            step(MEMBERS[0])
            step(MEMBERS[1])
            message = inboxes[MEMBERS[0]].pop()
            fed = run(FEED, engine=leader, message=message)
            assert (fed["first"], fed["term"]) == (3, 2)
    assert applied == {member: [b"", b"one", b"two"] for member in MEMBERS}
    assert {log.last for log in logs.values()} == {logs[MEMBERS[0]].last}


@pytest.mark.parametrize("count", [1, 3])
def test_its_loop_serves_a_standalone_log(count: int) -> None:
    log = MemoryLog(MEMBERS[0], lambda _: [])
    log.bootstrap_standalone(ClusterID("c"))
    log.initialize(LSN(0))
    engine = run(START, log=log, applied=LSN(0))["engine"]
    run_once, applied = run(LOOP)["run_once"], list[LogEntry]()
    assert engine.propose([b"x"] * count) == (1, 0)
    run_once(engine, log, list[Any]().extend, applied.append)
    assert [entry.data for entry in applied] == [b"x"] * count
    assert log.last.index == count
