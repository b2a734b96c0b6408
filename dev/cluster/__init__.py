"""A real local Kubernetes with three nodes on one Linux machine, for development and tests.

`python -m dev.cluster up` builds its programs into .cache (Kubernetes from its Go modules,
container tools from Debian's packages). Then it starts the API server, scheduler, kubelets and
containerd in their own namespaces. The host's network, ports, firewall and mounts do not change,
and two checkouts can run side by side. `down` ends the cluster. kill -9 of its outer process ends
it, too; `up` works again afterwards.
"""
