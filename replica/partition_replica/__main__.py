"""`partition-replica`: runs one replica, or works on the volume of a stopped replica."""

import argparse
import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from partition_common import limit_flags
from partition_proto.connection import pem
from partition_snapshots.process import leave

from partition_replica import __version__
from partition_replica.assembly import EXIT_RECOVERING, SidecarProcess, end_process
from partition_replica.config import ReplicaConfig, TlsFiles
from partition_replica.core.limits import DEPRECATED_NAMES, MAY_BE_ZERO, Limits
from partition_replica.offline import arguments as arguments_of
from partition_replica.offline.commands import COMMANDS, add_commands, run
from partition_replica.offline.snapshots.commands import with_todays_action

EXIT_TLS_FILES = 78
"""EX_CONFIG: `serve` ends with it if the TLS files are invalid, before it opens the volume."""

GARBAGE_AFTER_OBJECTS = 10_000
"""New objects after which Python looks for cycles among them."""


def parse(arguments: Sequence[str]) -> ReplicaConfig | argparse.Namespace:
    """Returns the configuration of `serve`, or the options of another command. Most flags of
    `serve` that take a value can also be set by the variable PARTITION_<FLAG>."""
    parser = argparse.ArgumentParser(prog="partition-replica", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run one replica until SIGTERM")
    required = {"data", "advertise", "partition"}
    flags = {
        "data": ("directory of the volume", None),
        "listen": ("host:port for gRPC; [::] means all IPv4 and IPv6 addresses", "[::]:7000"),
        "raft-listen": (
            "host:port for Raft connections of the other members, or off; by default the host of "
            "--listen, and a port that the system chooses",
            None,
        ),
        "socket": (
            "unix:PATH, where programs of this machine may call as clients without TLS; its folder "
            "must not be open to others, because the file's mode (660) is what protects it",
            None,
        ),
        "http-listen": ("host:port for probes and metrics", "[::]:7080"),
        "advertise": ("host:port at which clients and members reach this replica", None),
        "partition": ("namespace/name, which every certificate must carry", None),
        "tls-dir": ("directory with tls.crt, tls.key and ca.crt", None),
    }
    kinds: dict[str, Callable[[str], str]] = {
        "listen": arguments_of.listen_address,
        "raft-listen": arguments_of.raft_listen_address,
        "http-listen": arguments_of.listen_address,
        "socket": arguments_of.socket_address,
        "advertise": arguments_of.address,
    }
    for flag, (text, default) in flags.items():
        value = os.environ.get("PARTITION_" + flag.upper().replace("-", "_"), default)
        serve.add_argument(
            f"--{flag}",
            help=text,
            default=value,
            required=flag in required and value is None,
            type=kinds.get(flag, str),
        )
    serve.add_argument("--insecure", action="store_true", help="serve without TLS, for tests only")
    serve.add_argument(
        "--keep-all-entries", action="store_true", help="never compact the log, for debugging"
    )
    serve.add_argument(
        "--lease-reads",
        action="store_true",
        help="the leader answers linearizable reads by its lease, without asking the others each "
        "time; relies on clocks (docs/appends.md), and must be set at all members",
    )
    serve.add_argument(
        "--tick-ms",
        type=arguments_of.positive,
        default=100,
        help="milliseconds per tick; the leader sends a heartbeat every two ticks, or every tick "
        "with fewer than 10 --election-ticks",
    )
    serve.add_argument(
        "--election-ticks",
        type=arguments_of.election_ticks,
        default=10,
        help="ticks without a leader after which a member asks for votes; the time-out is drawn "
        "from this up to twice this",
    )
    serve.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a limit; may be repeated. Limits: "
        + ", ".join(f.name for f in fields(Limits)),
    )
    add_commands(commands)
    options = parser.parse_args(with_todays_action(arguments))
    if options.command in COMMANDS:
        return options
    if bool(options.tls_dir) == bool(options.insecure):
        parser.error("give either --tls-dir DIR, or --insecure to run without TLS")
    tls = None
    if options.tls_dir:
        directory = Path(options.tls_dir)
        tls = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    if "/" not in options.partition:
        parser.error(f"--partition {options.partition!r}: expected namespace/name")
    return ReplicaConfig(
        data=Path(options.data),
        listen=options.listen,
        http_listen=options.http_listen,
        advertise=options.advertise,
        partition=options.partition,
        tls=tls,
        tick_s=options.tick_ms / 1000,
        election_ticks=options.election_ticks,
        keep_all_entries=options.keep_all_entries,
        raft_listen=_raft_listen(options),
        socket=options.socket or "",
        lease_reads=options.lease_reads,
        limits=_limits(parser, options.limit),
    )


def _raft_listen(options: argparse.Namespace) -> str:
    if options.raft_listen is None:
        host, _, _ = options.listen.rpartition(":")
        return f"{host}:0"
    return "" if options.raft_listen == arguments_of.OFF else str(options.raft_listen)


def _limits(parser: argparse.ArgumentParser, flags: list[str]) -> Limits:
    try:
        return limit_flags.override(Limits(), flags, deprecated=DEPRECATED_NAMES, zero=MAY_BE_ZERO)
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    config = parse(sys.argv[1:])
    if isinstance(config, argparse.Namespace):
        code = run(config)
        if config.command == "snapshot":
            leave(code)  # all output is written; threads of the object store may still run
        sys.exit(code)
    logging.basicConfig(
        level=os.environ.get("PARTITION_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    if config.tls is not None:
        try:
            pem.read(config.tls)
        except pem.BadPem as error:
            print(f"FATAL: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_TLS_FILES)
    # What is imported stays. Else Python would look for cycles in it again and again, for the first
    # time after 700 new objects.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER_OBJECTS)
    try:
        code = asyncio.run(SidecarProcess(config).run())
    except Exception as error:  # the last line of the log must name the reason
        end_process(error)
    if code == EXIT_RECOVERING:
        text = "RECOVERING: the next start recovers the lost quorum on this volume"
        print(text, file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
