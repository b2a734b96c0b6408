"""Types of flag values for argparse. An invalid value ends the program with exit code 2."""

import argparse
import uuid
from collections.abc import Callable

from partition_replica.core.addresses import (
    SOCKET_PATH_BYTES_MAX,
    is_address,
    is_listen_address,
    is_socket,
)

LSN_MAX = (1 << 64) - 1

OFF = "off"


def lsn(text: str) -> int:
    """Parses the LSN of an entry."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= LSN_MAX):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an LSN; give a number from 1 to {LSN_MAX}"
        )
    return int(text)


def positive(text: str) -> int:
    """Parses a whole number above 0."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def up_to(most: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from 1 to `most`."""

    def parse(text: str) -> int:
        found = positive(text)
        if found > most:
            raise argparse.ArgumentTypeError(f"{text!r} is too large; give a number up to {most}")
        return found

    return parse


def election_ticks(text: str) -> int:
    """Parses an election time-out in ticks. It must be longer than the heartbeat interval (1)."""
    if not (text.isascii() and text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; give 2 ticks or more, because heartbeats are 1 tick apart"
        )
    return int(text)


def cluster_id(text: str) -> str:
    """Parses a UUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a UUID; give one, or omit the flag to use a new one"
        ) from error


def address(text: str) -> str:
    """Parses the host:port of another program."""
    if not is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address; write host:port, with an IPv6 address in brackets"
        )
    return text


def listen_address(text: str) -> str:
    """Parses the host:port to listen at. The kernel chooses a port if it is 0."""
    if not is_listen_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a listen address; write host:port, such as 0.0.0.0:7000"
        )
    return text


def socket_address(text: str) -> str:
    """Parses the address of a Unix domain socket."""
    if not is_socket(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a Unix domain socket; write unix: and an absolute path of at most "
            f"{SOCKET_PATH_BYTES_MAX} bytes, such as unix:/run/partition/replica.sock"
        )
    return text


def raft_listen_address(text: str) -> str:
    """Parses the host:port to listen at, or OFF."""
    return text if text == OFF else listen_address(text)
