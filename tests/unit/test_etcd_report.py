"""What the benchmark beside etcd reads of the report of etcd's load generator."""

import pytest

from tests.benchmarks.etcd.groups import parse_tool

REPORT = """
Summary:
  Total:        1.0123 secs.
  Requests/sec: 3550.1234

Latency distribution:
  10% in 0.0101 secs.
  50% in 0.0162 secs.
  99% in 0.0417 secs.
"""


def test_rate_and_latencies_are_read() -> None:
    assert parse_tool(REPORT) == (3550.1234, 0.0162, 0.0417)


def test_anything_else_is_no_report() -> None:
    for text in ("", REPORT.replace("99%", "98%"), "Error: no endpoint"):
        with pytest.raises(ValueError, match="no report of etcd"):
            parse_tool(text)


def test_a_report_of_failed_operations_is_refused() -> None:
    failed = REPORT + "\nError distribution:\n  [3] etcdserver: mvcc: database space exceeded\n"
    with pytest.raises(ValueError, match=r"failed.*database space exceeded"):
        parse_tool(failed)
