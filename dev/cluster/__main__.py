"""`python -m dev.cluster`: up, down, build, status, kubeconfig, node."""

import argparse

from dev.cluster import host
from dev.cluster.layout import Layout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "up", help="start the cluster, or load the current image into the running one"
    )
    commands.add_parser("down", help="end the cluster and remove its files")
    commands.add_parser("build", help="build the programs and base images, start nothing")
    commands.add_parser("status", help="show the nodes of the running cluster")
    commands.add_parser("kubeconfig", help="print the path of the cluster's kubeconfig")
    node = commands.add_parser("node", help="end a node as if its machine died, or start it again")
    node.add_argument("action", choices=["stop", "start"])
    node.add_argument("name", choices=["n1", "n2", "n3"])
    options = parser.parse_args()
    match options.command:
        case "up":
            host.up()
            return
        case "down":
            host.down()
            return
        case "build":
            host.build()
            return
    layout = Layout.load()
    if layout is None or not host.running(layout):
        raise SystemExit("cluster: not running; start it with `python -m dev.cluster up`")
    match options.command:
        case "status":
            print(host.kubectl(layout, "get", "nodes", "-o", "wide").stdout, end="")
        case "kubeconfig":
            print(layout.kubeconfig)
        case "node":
            action = host.stop_node if options.action == "stop" else host.start_node
            action(layout, options.name)


if __name__ == "__main__":
    main()
