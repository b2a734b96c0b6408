"""Merges runs of rows, and computes the difference of two states. Without I/O, and in order."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain

from partition_snapshots.model import Row
from partition_snapshots.segments import BATCH_ROWS, Change


def combine(older: Iterable[Change], newer: Iterable[Change]) -> Iterator[Change]:
    """Yields two deltas as one. If both change a row, the newer change is used."""
    later = iter(newer)
    change = next(later, None)
    for old in older:
        while change is not None and change[:2] < old[:2]:
            yield change
            change = next(later, None)
        if change is not None and change[:2] == old[:2]:
            yield change
            change = next(later, None)
        else:
            yield old
    if change is not None:
        yield change
        yield from later


def overlay(batches: Iterable[list[Row]], changes: Iterable[Change]) -> Iterator[list[Row]]:
    """Yields a full run's batches with a delta applied. Unchanged batches are the same objects. No
    batch is empty."""
    deltas = iter(changes)
    change = next(deltas, None)
    for batch in batches:
        start = 0
        merged: list[Row] = []
        while change is not None and change[:2] <= batch[-1][:2]:
            # (table, key) sorts directly before (table, key, value).
            place: tuple[int, bytes] = change[:2]
            index = bisect_left(batch, place, start)
            merged += batch[start:index]
            start = index + (index < len(batch) and batch[index][:2] == place)
            if change[2] is not None:
                merged.append((change[0], change[1], change[2]))
            change = next(deltas, None)
        if not merged and not start:
            yield batch
            continue
        merged += batch[start:]
        if merged:
            yield merged
    if change is not None:
        yield from batched(
            (table, key, value)
            for table, key, value in chain([change], deltas)
            if value is not None
        )


def batched(rows: Iterable[Row], batch_rows: int = BATCH_ROWS) -> Iterator[list[Row]]:
    """Yields rows in lists of up to `batch_rows`. No list is empty."""
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == batch_rows:
            yield batch
            batch = []
    if batch:
        yield batch


def difference(base: Iterable[Row], rows: Iterable[Row]) -> Iterator[Change]:
    """Yields the changes that turn `base` into `rows`: new or changed rows, and tombstones."""
    olds = iter(base)
    old = next(olds, None)
    for row in rows:
        if row == old:
            old = next(olds, None)
            continue
        place = row[:2]
        while old is not None and old[:2] < place:
            yield old[0], old[1], None
            old = next(olds, None)
        if old is not None and old[:2] == place:
            if old[2] != row[2]:
                yield row
            old = next(olds, None)
        else:
            yield row
    while old is not None:
        yield old[0], old[1], None
        old = next(olds, None)
