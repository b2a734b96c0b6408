"""What an application writes: keys and files of its own, drawn from the seed; and what it must find
there."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX

from tests.support import proposals

if TYPE_CHECKING:
    from tests.simulation.checks import Checks

Item = tuple[str, bytes]
"""("key", key) or ("path", path)."""

Items = dict[Item, set[bytes | None]]
"""What may stand where: a value, a digest, or None for nothing."""

CONTENTS = 10
"""Different large contents, which all clients share: what one removes another writes again."""


def large_content(number: int) -> bytes:
    size = PAYLOAD_INLINE_BYTES_MAX + 1 + number
    return (b"content %d " % number * (size // 8))[:size]


_LARGE = [large_content(number) for number in range(CONTENTS)]
DIGESTS = {hashlib.sha256(content).digest(): content for content in _LARGE}


@dataclass
class Operation:
    """A proposal before it has a sequence. `effect`: what it leaves where."""

    kind: str
    operations: list[types.Operation]
    effect: dict[Item, bytes | None]
    payloads: list[types.Payload] = field(default_factory=list)
    preconditions: list[types.Precondition] = field(default_factory=list)
    holds: bool = True
    """Whether the preconditions hold."""


class Expected:
    """What may stand where, of what one application wrote, in each history. A restored history
    begins with what was restored."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: dict[int, Items] = {}

    def of(self, line: "Checks") -> Items:
        if line.number not in self._items:
            self._items[line.number] = restored(line, self._name)
        return self._items[line.number]

    def at(self, line: "Checks", item: Item) -> set[bytes | None]:
        return self.of(line).get(item, {None})

    def known(self, line: "Checks", item: Item) -> set[bytes | None] | None:
        """What stands there, where only one thing can."""
        found = self.at(line, item)
        return found if len(found) == 1 else None

    def written(self, line: "Checks", effect: dict[Item, bytes | None]) -> None:
        for item, value in effect.items():
            self.of(line)[item] = {value}

    def unknown(self, line: "Checks", effect: dict[Item, bytes | None]) -> None:
        """It was written or not."""
        for item, value in effect.items():
            self.of(line)[item] = self.at(line, item) | {value}


def restored(line: "Checks", name: str) -> Items:
    """What the state that a history began with holds of one application."""
    if line.base is None:
        return {}
    prefix = name.encode()
    keys: Items = {
        ("key", key): {value}
        for key, value in line.base.values.items()
        if key.startswith(prefix + b"/")
    }
    paths: Items = {
        ("path", path): {node.digest}
        for path, node in line.base.nodes.items()
        if path.startswith(prefix + b"-")
    }
    return keys | paths


class Workload:
    """One application's. `known` gives all that may stand at an item, if it is one thing alone."""

    def __init__(
        self, name: str, rng: random.Random, known: Callable[[Item], set[bytes | None] | None]
    ) -> None:
        self.name = name
        self.rng = rng
        self._known = known
        self.counter = 0
        self._serial = 0

    def draw(self) -> Operation:
        choices = [
            (6, self.set_key),
            (2, self._delete_key),
            (3, self._count_up),
            (2, self._put_small),
            (6, self._put_large),
            (6, self._remove_file),
            (2, self._copy_file),
            (3, self._replace),
        ]
        weights = [weight for weight, _ in choices]
        return self.rng.choices([make for _, make in choices], weights)[0]()

    def key(self) -> bytes:
        return b"%s/%d" % (self.name.encode(), self.rng.randrange(4))

    def path(self) -> bytes:
        return b"%s-%d" % (self.name.encode(), self.rng.randrange(4))

    def set_key(self) -> Operation:
        self._serial += 1
        key, value = self.key(), b"%d" % self._serial
        return Operation("set", [proposals.set_key(key, value)], {("key", key): value})

    def _delete_key(self) -> Operation:
        key = self.key()
        return Operation("delete", [proposals.delete_key(key)], {("key", key): None})

    @property
    def counter_key(self) -> bytes:
        return b"%s/counter" % self.name.encode()

    def _count_up(self) -> Operation:
        """Only where it is known what stands there: it must be found, whatever happened since."""
        key = self.counter_key
        known = self._known(("key", key))
        if known is None:
            return self.set_key()
        (now,) = known
        self.counter += 1
        value = b"%d" % self.counter
        precondition = (
            types.Precondition(key_absent=key)
            if now is None
            else types.Precondition(key_equals=types.KeyEquals(key=key, value=now))
        )
        return Operation(
            "count",
            [proposals.set_key(key, value)],
            {("key", key): value},
            preconditions=[precondition],
        )

    def _put(self, kind: str, content: bytes, path: bytes = b"") -> Operation:
        path = path or self.path()
        payload = proposals.payload(content)
        return Operation(
            kind,
            [proposals.remove(path), proposals.link(path)],
            {("path", path): payload.digest},
            payloads=[payload],
        )

    def _put_small(self) -> Operation:
        return self._put("small", b"small %d" % self.rng.randrange(CONTENTS))

    def _put_large(self) -> Operation:
        return self._put("large", self.rng.choice(_LARGE))

    @property
    def replaced_path(self) -> bytes:
        """A file that is written over and over, and never removed."""
        return b"%s-replaced" % self.name.encode()

    def _replace(self) -> Operation:
        content = self.rng.choice([b"small %d" % self.rng.randrange(CONTENTS), *_LARGE[:2]])
        return self._put("replace", content, self.replaced_path)

    def _remove_file(self) -> Operation:
        path = self.path()
        return Operation("remove", [proposals.remove(path)], {("path", path): None})

    def _copy_file(self) -> Operation:
        source, target = self.path(), self.path()
        known = self._known(("path", source))
        if known in (None, {None}) or source == target:
            return self.set_key()
        return Operation(
            "copy",
            [proposals.remove(target), proposals.copy(source, target)],
            {("path", target): next(iter(known or ()))},
        )
