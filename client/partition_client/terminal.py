"""Standard streams, error lines and flag types of `partitionctl`.

UsageError means that the command line is wrong. All other errors are the client's or the system's.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from partition_client.pending_append import PROPOSAL_BYTES_MAX

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

INPUT_BYTES_MAX = PROPOSAL_BYTES_MAX
"""The limit of a value on standard input, because replicas refuse larger proposals."""

LSN_MAX = (1 << 64) - 1


class UsageError(Exception):
    """The command line is wrong; nothing was sent."""


def say(message: object) -> None:
    """Prints one line on standard error."""
    sys.stderr.write(f"partitionctl: {message}\n")


def os_fault(error: OSError) -> str:
    """Returns the system's message with the file's name in front."""
    text = error.strerror or str(error)
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
    return ": ".join([*names, text])


@contextmanager
def named(name: str) -> Iterator[None]:
    """Sets the file name of an OSError that has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = name
        raise


def write_out(data: bytes) -> None:
    """Writes to standard output. Raises OSError."""
    with named("standard output"):
        sys.stdout.buffer.write(data)


def print_out(line: object, *, flush: bool = False) -> None:
    """A line on standard output. Raises OSError."""
    with named("standard output"):
        sys.stdout.write(f"{line}\n")
        if flush:
            sys.stdout.flush()


def flush_out() -> None:
    """Raises OSError."""
    with named("standard output"):
        sys.stdout.flush()


def read_in() -> bytes:
    """Reads standard input to its end. Raises OSError, and UsageError if it is closed or has more
    than INPUT_BYTES_MAX bytes."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give a VALUE, or --file FILE")
    with named("standard input"):
        found = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
    if len(found) > INPUT_BYTES_MAX:
        raise UsageError(
            f"standard input has more than {INPUT_BYTES_MAX} bytes, the limit of a value; write it "
            "as a file, with --file"
        )
    return found


def check_streams() -> None:
    """Raises UsageError if standard output is closed. Makes standard output escape characters that
    the locale can't encode, as standard error does."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise UsageError("standard output is closed; redirect it to a file, or to /dev/null")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_out() -> None:
    """Replaces a broken standard output by /dev/null: Python's flush at exit would fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


# --- values of flags --------------------------------------------------------------------------


def seconds(text: str) -> float:
    """Parses a flag's number of seconds. Raises ArgumentTypeError unless it is above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


def count(text: str) -> int:
    """Parses a flag's number of entries or LSN. Raises ArgumentTypeError above LSN_MAX."""
    if not (text.isascii() and text.isdecimal() and int(text) <= LSN_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {LSN_MAX}")
    return int(text)
