"""`kubectl partition`: calls the command that was asked for, and prints its error as one line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from partition_kubectl import bench, completion, control, logs, plan, report, snapshots, status, why
from partition_kubectl.arguments import parser
from partition_kubectl.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_PIPE,
    PluginError,
)
from partition_kubectl.kubectl import Kubectl
from partition_kubectl.output import put, say

COMMANDS: dict[str, Callable[[Kubectl, argparse.Namespace], int]] = {
    "status": status.run,
    "why": why.run,
    "plan": plan.run,
    "logs": logs.run,
    "switchover": control.switchover,
    "pause": control.pause,
    "resume": control.resume,
    "restart": control.restart,
    "approve": control.approve,
    "fence": control.fence,
    "unfence": control.unfence,
    "hibernate": control.hibernate,
    "wake": control.wake,
    "recover": control.recover,
    "snapshot": snapshots.snapshot,
    "restore": snapshots.restore,
    "report": report.run,
    "bench": bench.run,
}


def cluster(options: argparse.Namespace) -> Kubectl:
    given = vars(options)
    flags = [f"{flag}={given[dest]}" for flag, dest in completion.FLAGS.items() if given.get(dest)]
    return Kubectl(flags, given.get("namespace", ""))


def answer(words: Sequence[str]) -> int:
    """Runs one command; returns the exit code. A wrong command line ends the process with 2."""
    if words[:2] == [completion.COMPLETE, "--"]:
        put(completion.run(parser(), words[2:]).rstrip("\n"))
        return EXIT_DONE
    options = parser().parse_args(words)
    if options.command == "completion":
        put(completion.SCRIPTS[options.shell].rstrip("\n"))
        return EXIT_DONE
    return COMMANDS[options.command](cluster(options), options)


def main(words: Sequence[str] | None = None) -> None:
    try:
        code = answer(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
    except PluginError as error:
        say(f"kubectl partition: {error}")
        code = error.code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output closed it. Python would write the rest again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_PIPE
    sys.exit(code)


def complete() -> None:
    """`kubectl_complete-partition`, which kubectl asks for what may follow."""
    sys.stdout.write(completion.run(parser(), sys.argv[1:]) + f"{completion.NO_FILES}\n")


if __name__ == "__main__":
    main()
