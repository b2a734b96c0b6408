"""Values of flags, as types of argparse: a mistake is a message and exit code 2."""

import argparse
import uuid

from partition_replica.core.addresses import is_address, is_listen_address

LSN_MAX = (1 << 64) - 1


def lsn(text: str) -> int:
    """The LSN of an entry."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= LSN_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no LSN; give a number from 1 to {LSN_MAX}")
    return int(text)


def positive(text: str) -> int:
    """A number above 0."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def election_ticks(text: str) -> int:
    """More than the one tick between two heartbeats."""
    if not (text.isascii() and text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; an election takes 2 ticks or more, a heartbeat takes 1"
        )
    return int(text)


def cluster_id(text: str) -> str:
    """A UUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no UUID; leave the flag out for a new one"
        ) from error


def address(text: str) -> str:
    """host:port, of somebody else."""
    if not is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address; write host:port, an IPv6 address in brackets"
        )
    return text


def listen_address(text: str) -> str:
    """host:port of our own; port 0 lets the system choose."""
    if not is_listen_address(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address to listen at; write host:port, such as 0.0.0.0:7000"
        )
    return text
