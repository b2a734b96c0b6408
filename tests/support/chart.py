"""What Helm makes of the chart with given values, without a cluster."""

import json
import subprocess
from functools import cache
from typing import Any

import yaml

from dev.cluster.builds import build_helm
from dev.cluster.layout import BIN
from dev.generate.manifests import NAMESPACE
from dev.install import CHART, RELEASE

Body = dict[str, Any]


class Refused(Exception):
    """Helm's message."""


def render(**values: Any) -> list[Body]:
    """Returns the objects of a release with these values, those of `helm test` included. Raises
    Refused."""
    return [dict(body) for body in json.loads(_render(json.dumps(values)))]


@cache
def _render(values: str) -> str:
    """values: in JSON, which is YAML, too."""
    words = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.0")
    rendered = helm(*words, "--values", "-", stdin=values)
    return json.dumps([body for body in yaml.safe_load_all(rendered) if body])


def helm(*words: str, stdin: str = "") -> str:
    """Runs Helm. Returns its output; raises Refused."""
    build_helm()
    command = [BIN / "helm", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def of(bodies: list[Body], kind: str) -> list[Body]:
    return [body for body in bodies if body["kind"] == kind]


def one(bodies: list[Body], kind: str) -> Body:
    """Returns the only object of a kind, `helm test` left out."""
    (found,) = (body for body in of(bodies, kind) if not _is_test(body))
    return found


def pod_of_test(bodies: list[Body]) -> Body:
    """Returns the pod of `helm test`."""
    (found,) = (body for body in of(bodies, "Pod") if _is_test(body))
    return found


def _is_test(body: Body) -> bool:
    return (body["metadata"].get("annotations") or {}).get("helm.sh/hook") == "test"
