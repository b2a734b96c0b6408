"""`partitionctl` and what is around it: standard streams that are closed or full, faults in a line.

Faults of the command line are UsageError, everything else is what the client or the system raised.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from partition_client.appends import PROPOSAL_BYTES_MAX

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

INPUT_BYTES_MAX = PROPOSAL_BYTES_MAX
"""Of a value on standard input: replicas take no larger proposals."""

LSN_MAX = (1 << 64) - 1


class UsageError(Exception):
    """The command line is wrong; nothing was sent."""


def say(message: object) -> None:
    """One line on standard error."""
    sys.stderr.write(f"partitionctl: {message}\n")


def os_fault(error: OSError) -> str:
    """What the system said, with the name of the file."""
    text = error.strerror or str(error)
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
    return ": ".join([*names, text])


@contextmanager
def named(name: str) -> Iterator[None]:
    """Gives an OSError that knows no file this name."""
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
    """Standard input, whole. Raises OSError, and UsageError for more than a value may have."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give a VALUE, or --file FILE")
    with named("standard input"):
        found = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
    if len(found) > INPUT_BYTES_MAX:
        raise UsageError(
            f"standard input has more than {INPUT_BYTES_MAX} bytes; put it as a file, with --file"
        )
    return found


def check_streams() -> None:
    """Raises UsageError if standard output is closed. Names that the locale can't show are escaped
    there, as they are on standard error."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise UsageError("standard output is closed; send it to a file, or to /dev/null")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_out() -> None:
    """Nothing of standard output can be written any more: Python is not to try at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


# --- values of flags --------------------------------------------------------------------------


def seconds(text: str) -> float:
    """A time span, as a type of argparse."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, more than 0")
    return found


def count(text: str) -> int:
    """A number of entries or an LSN, as a type of argparse."""
    if not (text.isascii() and text.isdecimal() and int(text) <= LSN_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {LSN_MAX}")
    return int(text)
