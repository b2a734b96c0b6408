"""Completion: what may follow the words of a command line, and the scripts that ask."""

import argparse
import itertools
from collections.abc import Callable, Sequence

from partition_kubectl import names
from partition_kubectl.errors import PluginError
from partition_kubectl.kubectl import Kubectl

COMPLETE = "__complete"
"""The hidden command that the scripts call: `kubectl-partition __complete -- WORD…`. The last word
is the one that is being written."""

NO_FILES = ":4"
"""kubectl reads it as the directive not to offer files."""

SCRIPTS = {
    "bash": """\
# Completion of kubectl-partition: source <(kubectl-partition completion bash)
_kubectl_partition() {
    local IFS=$'\\n'
    COMPREPLY=($(kubectl-partition __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _kubectl_partition kubectl-partition
""",
    "zsh": """\
#compdef kubectl-partition
# Completion of kubectl-partition: source <(kubectl-partition completion zsh)
_kubectl_partition() {
    local -a found
    found=("${(@f)$(kubectl-partition __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -a found
}
compdef _kubectl_partition kubectl-partition
""",
    "fish": """\
# Completion of kubectl-partition: kubectl-partition completion fish | source
complete -c kubectl-partition -f -a \
'(kubectl-partition __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
    "kubectl": """\
#!/bin/sh
# Completion of `kubectl partition`. Save it as kubectl_complete-partition on the PATH, executable.
# The last line tells kubectl not to offer files.
kubectl-partition __complete -- "$@" 2>/dev/null
echo :4
""",
}

FLAGS = {"--context": "context", "--kubeconfig": "kubeconfig", "--as": "act_as"}
NAMESPACE = ("-n", "--namespace")
KINDS = {
    "namespace": "namespaces",
    "storage_class": "storageclasses",
    "node": "nodes",
    "snapshot": names.SNAPSHOTS,
    "secret": "",
    "name": names.PARTITIONS,
}
"""The kind of object that an argument names; "" if it must not be listed."""
PODS = frozenset({"pod", "pods", "source"})
NEW_NAME = frozenset({("restore", "name"), ("snapshot", "snapshot_name")})
"""Arguments that name something that does not exist yet."""

Lookup = Callable[[str, str], list[str]]
"""(kind or "contexts", label selector) -> names."""


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], look: Lookup) -> list[str]:
    """Returns what the last word may be. Never raises for a wrong command line. Pure but for
    `look`."""
    *before, last = list(words) or [""]
    commands = _commands(parser)
    chosen = next((word for word in before if word in commands), "")
    sub = commands.get(chosen, parser)
    flags = {text: action for action in sub._actions for text in action.option_strings}
    given = _given(before[before.index(chosen) + 1 :], flags) if chosen else []
    waiting = flags.get(before[-1]) if before else None
    if waiting is not None and waiting.nargs != 0:
        found = _values(waiting, chosen, given, look)
    elif last.startswith("-"):
        found = sorted(flags)
    elif not chosen:
        found = sorted(commands)
    else:
        found = _positional(sub, chosen, given, look)
    return [one for one in found if one.startswith(last)]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _given(words: list[str], flags: dict[str, argparse.Action]) -> list[str]:
    """Returns the words that are neither flags nor their values."""
    found, value = [], False
    for word in words:
        if not value and not word.startswith("-"):
            found.append(word)
        action = flags.get(word)
        value = not value and action is not None and action.nargs != 0
    return found


def _positional(
    sub: argparse.ArgumentParser, chosen: str, given: list[str], look: Lookup
) -> list[str]:
    places = [action for action in sub._actions if not action.option_strings]
    if not places:
        return []
    many = places[-1].nargs in ("*", "+")
    if len(given) >= len(places) and not many:
        return []
    action = places[min(len(given), len(places) - 1)]
    return [one for one in _values(action, chosen, given, look) if one not in given]


def _values(action: argparse.Action, chosen: str, given: list[str], look: Lookup) -> list[str]:
    """given: the words before it; the first one is the Partition in commands that name pods."""
    if action.choices:
        return [str(one) for one in action.choices]
    if action.dest == "context":
        return look("contexts", "")
    if action.dest in PODS:
        return look("pods", names.replicas(given[0]) if given else names.REPLICAS)
    if (chosen, action.dest) in NEW_NAME or not KINDS.get(action.dest):
        return []
    return look(KINDS[action.dest], "")


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Returns the candidates, one a line. Without an answer of the cluster there are none."""
    kubectl = _kubectl(words)

    def look(kind: str, selector: str) -> list[str]:
        try:
            if kind == "contexts":
                return kubectl("config", "get-contexts", "-o", "name").split()
            chosen = ("-l", selector) if selector else ()
            found = kubectl("get", kind, *chosen, "-o", "name").split()
        except PluginError:
            return []
        return sorted(one.rpartition("/")[2] for one in found)

    return "".join(f"{one}\n" for one in candidates(parser, words, look))


def _kubectl(words: Sequence[str]) -> Kubectl:
    """Returns a kubectl with the flags that were written so far."""
    flags, namespace = [], ""
    for word, value in itertools.pairwise(words):
        if word in FLAGS:
            flags.append(f"{word}={value}")
        elif word in NAMESPACE:
            namespace = value
    flags += [word for word in words[:-1] if word.partition("=")[0] in FLAGS and "=" in word]
    return Kubectl(flags, namespace)
