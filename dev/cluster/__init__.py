"""A real local Kubernetes with three nodes on one Linux machine, for development and tests.

`python -m dev.cluster up` builds what it needs into .cache (Kubernetes from its Go modules,
container tools from Debian's packages), then starts API server, scheduler, kubelets and containerd
in namespaces of their own: the host's network, ports, firewall and mounts stay as they are, and two
checkouts can run side by side. `down` ends it; so does kill -9 of its outer process, after which
`up` works again.
"""
