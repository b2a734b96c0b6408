"""All I/O: the API server, the replicas, the Lease. These modules decide nothing."""
