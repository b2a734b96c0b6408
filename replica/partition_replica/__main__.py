"""`partition-replica`: runs one replica, or looks after a stopped one's volume."""

import argparse
import asyncio
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
from partition_replica.assembly import SidecarProcess, end_process
from partition_replica.config import ReplicaConfig, TlsFiles
from partition_replica.core.limits import DEPRECATED_NAMES, Limits
from partition_replica.offline import arguments as arguments_of
from partition_replica.offline.commands import COMMANDS, add_commands, run
from partition_replica.offline.snapshots.commands import with_todays_action

EXIT_TLS_FILES = 78
"""EX_CONFIG: `serve` ends with it before it touches the volume."""


def parse(arguments: Sequence[str]) -> ReplicaConfig | argparse.Namespace:
    """The configuration to serve with, or the options of a command on a volume. Flags of `serve`
    that have a value of their own may come as PARTITION_<FLAG> instead."""
    parser = argparse.ArgumentParser(prog="partition-replica", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run one replica until SIGTERM")
    required = {"data", "advertise", "partition"}
    flags = {
        "data": ("the volume", None),
        "listen": ("host:port of gRPC; [::] is every IPv4 and IPv6 address", "[::]:7000"),
        "http-listen": ("host:port of probes and metrics", "[::]:7080"),
        "advertise": ("host:port at which others reach this replica", None),
        "partition": ("namespace/name, which every certificate must carry", None),
        "tls-dir": ("folder with tls.crt, tls.key and ca.crt", None),
    }
    kinds: dict[str, Callable[[str], str]] = {
        "listen": arguments_of.listen_address,
        "http-listen": arguments_of.listen_address,
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
    serve.add_argument("--insecure", action="store_true", help="plain text, for tests only")
    serve.add_argument(
        "--keep-all-entries", action="store_true", help="never compact the log, for debugging"
    )
    serve.add_argument(
        "--tick-ms", type=arguments_of.positive, default=100, help="a heartbeat's time"
    )
    serve.add_argument("--election-ticks", type=arguments_of.election_ticks, default=10)
    serve.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="overrides a limit: " + ", ".join(f.name for f in fields(Limits)),
    )
    add_commands(commands)
    options = parser.parse_args(with_todays_action(arguments))
    if options.command in COMMANDS:
        return options
    if bool(options.tls_dir) == bool(options.insecure):
        parser.error("give --tls-dir DIR, or --insecure to run without TLS")
    tls = None
    if options.tls_dir:
        folder = Path(options.tls_dir)
        tls = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
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
        limits=_limits(parser, options.limit),
    )


def _limits(parser: argparse.ArgumentParser, flags: list[str]) -> Limits:
    try:
        return limit_flags.override(Limits(), flags, deprecated=DEPRECATED_NAMES)
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    config = parse(sys.argv[1:])
    if isinstance(config, argparse.Namespace):
        code = run(config)
        if config.command == "snapshot":
            leave(code)  # everything is said; the object store's threads may still be at work
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
    try:
        asyncio.run(SidecarProcess(config).run())
    except Exception as error:  # the last line of the log must say why it ended
        end_process(error)


if __name__ == "__main__":
    main()
