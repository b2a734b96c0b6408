"""All I/O: the API server, the replicas, the clock of the lease. Decides nothing."""
