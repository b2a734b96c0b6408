"""`partition-operator`: runs the operator. The chart sets its environment variables.
`partition-operator plan` says what it would do, and does nothing (dry_run.py)."""

import asyncio
import datetime as dt
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping

from partition_operator import dry_run
from partition_operator.api.names import CLUSTER_DOMAIN
from partition_operator.api.validation import HOSTNAME
from partition_operator.assembly import OperatorProcess
from partition_operator.config import ConfigError, OperatorConfig
from partition_operator.errors import AuthorityInvalid, text_of
from partition_operator.resources.certificates import LIFETIMES, Lifetimes

EXIT_AUTHORITY = 78
"""Exit code EX_CONFIG: the Secret with the certificate authority can't be used."""

KOPF_RUNNING = "kopf._core.reactor.running"
"""The logger with which kopf warns at each start that it ignores signals, which we want. The name
is private to kopf; tests/unit/test_kopf.py fails if kopf changes it."""


def parse(environment: Mapping[str, str]) -> OperatorConfig:
    """Reads the settings. Raises ConfigError with the name of the variable."""

    def required(name: str) -> str:
        value = environment.get(name, "")
        if not value:
            raise ConfigError(f"{name} is not set: set it, as the chart does")
        return value

    def number(name: str, default: float) -> float:
        text = environment.get(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if value <= 0:
            raise ConfigError(f"{name}={text!r}: must be a number above 0")
        return value

    def switch(name: str) -> bool:
        text = environment.get(name, "false")
        if text not in ("true", "false"):
            raise ConfigError(f"{name}={text!r}: true and false are allowed")
        return text == "true"

    lease_s = number("PARTITION_OPERATOR_LEASE_SECONDS", 15)
    watch = environment.get("PARTITION_OPERATOR_WATCH", "")
    return OperatorConfig(
        namespace=required("PARTITION_OPERATOR_NAMESPACE"),
        identity=environment.get("PARTITION_OPERATOR_IDENTITY") or socket.gethostname(),
        image=required("PARTITION_OPERATOR_IMAGE"),
        image_auto_update=switch("PARTITION_OPERATOR_IMAGE_AUTO_UPDATE"),
        watch_nodes=switch("PARTITION_OPERATOR_WATCH_NODES"),
        watch=tuple(name.strip() for name in watch.split(",") if name.strip()),
        cluster_domain=_domain(environment),
        http_port=int(number("PARTITION_OPERATOR_HTTP_PORT", 8080)),
        workers=int(number("PARTITION_OPERATOR_WORKERS", 8)),
        resync_s=number("PARTITION_OPERATOR_RESYNC_SECONDS", 60),
        poll_s=number("PARTITION_OPERATOR_POLL_SECONDS", 3),
        backfill_stalled_s=number("PARTITION_OPERATOR_BACKFILL_STALLED_SECONDS", 300),
        lifetimes=_lifetimes(number),
        authority_look_s=number("PARTITION_OPERATOR_AUTHORITY_LOOK_SECONDS", 30),
        lease_duration_s=lease_s,
        lease_renew_deadline_s=lease_s * 2 / 3,
        lease_retry_s=lease_s * 2 / 15,
    )


def _domain(environment: Mapping[str, str]) -> str:
    name = "PARTITION_OPERATOR_CLUSTER_DOMAIN"
    found = environment.get(name) or CLUSTER_DOMAIN
    if not HOSTNAME.fullmatch(found) or "*" in found:
        raise ConfigError(
            f"{name}={found!r}: must be a DNS domain in lower case, without a dot at the end"
        )
    return found


DAY_S = 86400.0
RANGES = {
    "PARTITION_OPERATOR_CERTIFICATE_SECONDS": (60.0, 825 * DAY_S),
    "PARTITION_OPERATOR_AUTHORITY_SECONDS": (180.0, 36500 * DAY_S),
    "PARTITION_OPERATOR_TRUST_SPREAD_SECONDS": (1.0, DAY_S),
    "PARTITION_OPERATOR_AUTHORITY_OVERLAP_SECONDS": (1.0, 36500 * DAY_S),
}
"""The least and the greatest values, in seconds. Clients of other makers refuse certificates that
live longer than 825 days."""
AUTHORITY_PER_CERTIFICATE_MIN = 3
"""So many lifetimes of a certificate an authority lives at least: it is renewed at two thirds, and
the last certificate that it issued before must not end with it."""


def _lifetimes(number: Callable[[str, float], float]) -> Lifetimes:
    default = LIFETIMES

    def seconds(name: str, usual: float) -> float:
        value, (least, most) = number(name, usual), RANGES[name]
        if not least <= value <= most:
            raise ConfigError(f"{name}={value:g}: {least:g} to {most:g} seconds are allowed")
        return value

    lifetime = seconds(
        "PARTITION_OPERATOR_CERTIFICATE_SECONDS", default.certificate.total_seconds()
    )
    authority = seconds("PARTITION_OPERATOR_AUTHORITY_SECONDS", default.authority.total_seconds())
    if authority < AUTHORITY_PER_CERTIFICATE_MIN * lifetime:
        raise ConfigError(
            f"PARTITION_OPERATOR_AUTHORITY_SECONDS={authority:g}: at least "
            f"{AUTHORITY_PER_CERTIFICATE_MIN} times the lifetime of a certificate, {lifetime:g} s"
        )
    renewed = _before(number, "PARTITION_OPERATOR_CERTIFICATE_RENEW_SECONDS", lifetime)
    replaced = _before(number, "PARTITION_OPERATOR_AUTHORITY_RENEW_SECONDS", authority)
    spread = seconds("PARTITION_OPERATOR_TRUST_SPREAD_SECONDS", default.spread.total_seconds())
    overlap = seconds("PARTITION_OPERATOR_AUTHORITY_OVERLAP_SECONDS", lifetime)
    return Lifetimes(
        authority=dt.timedelta(seconds=authority),
        authority_renew_before=dt.timedelta(seconds=replaced),
        certificate=dt.timedelta(seconds=lifetime),
        renew_before=dt.timedelta(seconds=renewed),
        spread=dt.timedelta(seconds=spread),
        overlap=dt.timedelta(seconds=overlap),
    )


def _before(number: Callable[[str, float], float], name: str, lifetime: float) -> float:
    """Returns how long before its end something is renewed: a third of its lifetime by default."""
    found = number(name, lifetime / 3)
    if found >= lifetime:
        raise ConfigError(f"{name}={found:g}: must be less than the lifetime, {lifetime:g} s")
    return found


def main() -> None:
    options = dry_run.parser().parse_args()
    logging.basicConfig(
        level=os.environ.get("PARTITION_OPERATOR_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # At INFO this logger writes one line per event and object.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.getLogger(KOPF_RUNNING).setLevel(logging.ERROR)
    try:
        config = parse(os.environ)
    except ConfigError as error:
        print(f"FATAL: {text_of(error)}", file=sys.stderr)
        sys.exit(2)
    if options.command == dry_run.COMMAND:
        logging.disable(logging.WARNING)
        sys.exit(dry_run.run(options, config))
    try:
        asyncio.run(OperatorProcess(config).run())
    except AuthorityInvalid as error:
        print(f"FATAL: {text_of(error)}", file=sys.stderr)
        sys.exit(EXIT_AUTHORITY)


if __name__ == "__main__":
    main()
