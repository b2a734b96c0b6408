"""A small model of what the operator's plan acts on: the objects of one Partition, the controllers
of Kubernetes that follow them, nodes with disks, and replicas with a Raft group. Pure: it has a
clock of its own, and the same calls give the same world.

- `replicas`: what volumes hold, and the group that their replicas form
- `kubernetes`: nodes, disks, claims, pods, and the controllers that change them
- `world`: all of it, with what a user may edit
- `faults`: what may happen to it
- `observation`: what the operator sees of it
- `execution`: what each action of a plan does to it
- `truths`, `safety`: what no action may do
- `operator`: one turn, with the faults that may happen in it
- `goal`: what a Partition without faults must come to
- `scenarios`: what hypothesis draws, and how it is run

It is smaller than the real thing where its docstrings say so.
"""
